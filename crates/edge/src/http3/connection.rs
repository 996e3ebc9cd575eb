//! One connection, from its handshake to its end.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use catalog::HTTPS_PORT;
use h3::{
    error::Code,
    quic::{RecvStream, SendStream},
    server::{self, RequestResolver},
};
use quinn::{Connecting, Incoming, crypto::rustls::HandshakeData};
use tokio::time::{Instant, sleep, timeout};

use super::{
    handshakes::UnderWay,
    request,
    transport::{Gone, Quic, var_int},
};
use crate::{
    context::Context,
    http::{self, Client, Secured},
    tls::{self, QuicFailure as Failure},
};

/// How many requests may still be on their way when a connection is about to close: as many as may be at all.
const ON_THEIR_WAY: usize = 1_000;
/// How many round trips they get to arrive.
const ROUND_TRIPS: u32 = 3;
/// A round trip is never taken to be longer.
const LONGEST_ROUND_TRIP: Duration = Duration::from_millis(500);
/// How long nothing has to be under way before a connection that is to close does.
const QUIET: Duration = Duration::from_millis(100);

/// Shakes hands and serves requests until the connection ends, lies idle too long, or the edge stops.
pub async fn serve(context: Arc<Context>, incoming: Incoming, under_way: UnderWay, local: SocketAddr) {
    let (peer, began) = (incoming.remote_address(), Instant::now());
    let Ok(connecting) = incoming.accept() else { return };
    let local = own_address(&connecting, local);
    let mut name = None;
    let shaken = timeout(context.bounds.handshake, shake_hands(&context, connecting, &mut name)).await;
    drop(under_way);
    let connection = match shaken.unwrap_or(Err(Failure::TooLong)) {
        Ok(connection) => connection,
        Err(failure) => return tls::failed(&context, name.as_deref(), failure, peer),
    };
    context.handshakes.done(Some(rustls::ProtocolVersion::TLSv1_3), began.elapsed());
    let Some(_admitted) = context.limits.admit(peer.ip()) else {
        tracing::debug!(%peer, "a connection is turned away: too many");
        return connection.close(var_int(Code::H3_EXCESSIVE_LOAD.value()), b"too many connections");
    };
    let client = Client::new(peer, local, HTTPS_PORT, Some(Secured { name, is_http2: false }));
    let client = Arc::new(client.watched());
    let _entered = context.connections.enter(&client.connection);
    if let Some(mut open) = Open::begin(context, connection, client).await {
        open.run().await;
    }
}

/// The address of ours that a client connects to.
fn own_address(connecting: &Connecting, bound: SocketAddr) -> SocketAddr {
    let ip: Option<IpAddr> = connecting.local_ip();
    SocketAddr::new(ip.unwrap_or(bound.ip()), bound.port())
}

/// Ends the handshake. The server name is told as soon as it is known.
async fn shake_hands(
    context: &Context,
    mut connecting: Connecting,
    name: &mut Option<String>,
) -> Result<quinn::Connection, Failure> {
    let broken = |error: quinn::ConnectionError| Failure::Broken(error.to_string());
    let data = connecting.handshake_data().await.map_err(broken)?.downcast::<HandshakeData>().ok();
    *name = data.and_then(|data| data.server_name).and_then(|name| http::host_name(&name));
    let source = connecting.remote_address().ip();
    context.limits.shake_hands(source, name.as_deref().unwrap_or_default()).map_err(Failure::Refused)?;
    connecting.await.map_err(broken)
}

type Resolver = RequestResolver<Quic, Bytes>;

/// A connection that carries requests.
struct Open {
    context: Arc<Context>,
    client: Arc<Client>,
    connection: quinn::Connection,
    h3: server::Connection<Quic, Bytes>,
    /// The end of the stream that was accepted last.
    gone: Arc<Mutex<Option<Gone>>>,
}

/// What is done with requests that come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Requests {
    Answer,
    /// The client was told that they are not answered: it can send them elsewhere.
    Reject,
}

/// Why no more requests are waited for.
#[derive(PartialEq, Eq)]
enum Because {
    /// The time has come.
    Asked,
    /// The connection is over.
    Over,
}

impl Open {
    async fn begin(context: Arc<Context>, connection: quinn::Connection, client: Arc<Client>) -> Option<Self> {
        let bound = context.bounds.header_bytes as u64;
        let quic = Quic::new(connection.clone(), client.connection.clone(), bound);
        let gone = quic.gone();
        let begun = server::builder().max_field_section_size(bound).send_grease(false).build(quic).await;
        let h3 =
            begun.inspect_err(|error| tracing::debug!(peer = %client.peer, "HTTP/3 did not begin: {error}")).ok()?;
        Some(Self { context, client, connection, h3, gone })
    }

    /// Answers requests, then sees to it that none is lost.
    async fn run(&mut self) {
        let (context, client) = (self.context.clone(), self.client.clone());
        let asked = async {
            tokio::select! {
                () = context.retiring.cancelled() => {}
                () = client.idle(context.bounds.idle) => {}
            }
        };
        if self.take(Requests::Answer, asked).await == Because::Over {
            return;
        }
        // Those on their way do not know yet. They are let in before the last one is named.
        let round_trip = self.connection.rtt().min(LONGEST_ROUND_TRIP);
        if self.h3.shutdown(ON_THEIR_WAY).await.is_err()
            || self.take(Requests::Answer, sleep(ROUND_TRIPS * round_trip)).await == Because::Over
            || self.h3.shutdown(1).await.is_err()
        {
            return;
        }
        let ended = async {
            tokio::select! {
                () = client.idle(QUIET) => {}
                () = context.aborting.cancelled() => {}
            }
        };
        self.take(Requests::Reject, ended).await;
    }

    /// Takes requests until it is asked to stop, or the connection is over.
    async fn take(&mut self, requests: Requests, asked: impl Future<Output = ()>) -> Because {
        let mut asked = std::pin::pin!(asked);
        loop {
            let accepted = tokio::select! {
                accepted = self.h3.accept() => accepted,
                () = asked.as_mut() => return Because::Asked,
            };
            match (accepted, requests) {
                (Ok(Some(resolver)), Requests::Answer) => self.answer(resolver),
                (Ok(Some(resolver)), Requests::Reject) => reject(resolver),
                (Ok(None), _) => return Because::Over,
                (Err(error), _) => {
                    tracing::debug!(peer = %self.client.peer, "a connection ended: {error}");
                    return Because::Over;
                }
            }
        }
    }

    fn answer(&self, resolver: Resolver) {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (context, client) = (self.context.clone(), self.client.clone());
        if let Some(gone) = gone {
            self.context.tasks.spawn(request::serve(context, client, resolver, gone));
        }
    }
}

fn reject(mut resolver: Resolver) {
    let code = Code::H3_REQUEST_REJECTED.value();
    resolver.frame_stream.reset(code);
    resolver.frame_stream.stream.stop_sending(code);
}
