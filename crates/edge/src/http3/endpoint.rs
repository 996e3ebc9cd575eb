//! One UDP address that speaks QUIC.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use h3::error::Code;
use kit::report::Report;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    alternative, connection,
    handshakes::{Handshakes, Verdict},
    transport::var_int,
};
use crate::{EdgeError, context::Context, proxy_protocol, tls};

/// Requests of one connection at a time.
const MAX_STREAMS: u32 = 200;
/// Streams of one connection that carry no requests: three are of use, the rest is for what may come.
const MAX_OTHER_STREAMS: u32 = 16;
/// Bytes of one request's body that may be under way.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of a connection.
const WINDOW: u32 = 1024 * 1024;
/// Bytes of answers that a connection keeps until its client has them.
const SEND_WINDOW: u64 = 1024 * 1024;
/// A client that has said nothing for so long has vanished.
const SILENCE: Duration = Duration::from_secs(50);
/// How often a client is asked whether it is still there.
const ASK: Duration = Duration::from_secs(20);
/// Handshakes that wait to be looked at, and their bytes.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: u64 = 4 * 1024 * 1024;
/// How long after a failure an address is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long clients get to hear that all is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Speaks HTTP/3 at these addresses, and announces it.
pub fn open(context: &Arc<Context>, addresses: &[SocketAddr]) -> Result<(), EdgeError> {
    let refused = |address| move |source| EdgeError::Http3 { address, source };
    let bound = addresses.iter().map(|address| bind(*address).map_err(refused(*address)));
    for (socket, address) in bound.collect::<Result<Vec<_>, _>>()?.into_iter().zip(addresses) {
        let endpoint = serve(context, socket).map_err(refused(*address))?;
        context.tasks.spawn(accept(context.clone(), endpoint, *address));
    }
    if let Some(port) = context.https_port.get() {
        let _ = context.alternative.set(alternative(*port));
    }
    Ok(())
}

/// The same once nobody else listens there.
pub async fn open_in_time(context: Arc<Context>, addresses: Vec<SocketAddr>) {
    while let Err(error) = open(&context, &addresses) {
        tracing::debug!("HTTP/3 is not spoken yet: {}", Report(&error));
        tokio::select! {
            () = tokio::time::sleep(TRY_AGAIN) => {}
            () = context.retiring.cancelled() => return,
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // As for TCP: an IPv4 address beside it is given by itself.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn serve(context: &Arc<Context>, socket: std::net::UdpSocket) -> io::Result<Endpoint> {
    Endpoint::new(EndpointConfig::default(), Some(server(context)?), socket, Arc::new(TokioRuntime))
}

fn server(context: &Arc<Context>) -> io::Result<ServerConfig> {
    let crypto = tls::for_quic(context).map_err(io::Error::other)?;
    let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport()))
        .max_incoming(MAX_WAITING)
        .incoming_buffer_size_total(MAX_WAITING_BYTES);
    Ok(server)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_OTHER_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(SILENCE).ok())
        .keep_alive_interval(Some(ASK));
    transport
}

async fn accept(context: Arc<Context>, endpoint: Endpoint, local: SocketAddr) {
    let handshakes = Arc::new(Handshakes::default());
    context.opened.cancelled().await;
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => begin(&context, &handshakes, incoming, local),
                None => return,
            },
            () = context.retiring.cancelled() => break,
        }
    }
    // Packets of the connections that go on still come through here; new connections are refused.
    endpoint.set_server_config(None);
    tokio::select! {
        () = endpoint.wait_idle() => {}
        () = context.aborting.cancelled() => {
            endpoint.close(var_int(Code::H3_NO_ERROR.value()), b"");
            let _ = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
    }
}

fn begin(context: &Arc<Context>, handshakes: &Arc<Handshakes>, incoming: Incoming, local: SocketAddr) {
    let peer = incoming.remote_address();
    if proxy_protocol::demand(&context.trusted_proxies, peer.ip()).is_some() {
        // What comes from a trusted peer is somebody else's, and here it cannot be said whose.
        return incoming.refuse();
    }
    match handshakes.judge(peer.ip(), incoming.remote_address_validated()) {
        Verdict::Welcome(under_way) => {
            let serve = connection::serve(context.clone(), incoming, under_way, local);
            context.tasks.spawn(serve);
        }
        Verdict::Prove => drop(incoming.retry()),
        Verdict::Full => incoming.ignore(),
    }
}
