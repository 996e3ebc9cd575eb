//! Accepting connections, and what each begins with.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use catalog::{Door, HTTP_PORT, HTTPS_PORT};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    break_off,
    origin::{self, Origin},
};
use crate::{
    context::Context,
    http::{self, Client},
    plain::Plain,
    proxy_protocol, stream, tls,
};

/// How long accepting rests when the system has no more sockets or memory to give.
const REST: Duration = Duration::from_millis(100);

/// Accepts connections to a public port, from when the edge opens until it retires or the port is `closed`. Connections
/// that were accepted go on.
pub async fn accept(context: Arc<Context>, listener: Arc<TcpListener>, port: u16, closed: CancellationToken) {
    context.opened.cancelled().await;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => return,
            () = context.retiring.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => begin(&context, stream, peer, port),
            Err(error) if is_about_one(&error) => {}
            Err(error) => {
                tracing::warn!(port, "connections cannot be accepted for a moment: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether an error is about the connection that was to be accepted, and not about us (accept(2)).
fn is_about_one(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::Interrupted | K::ConnectionRefused)
}

fn begin(context: &Arc<Context>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let demand = proxy_protocol::demand(&context.trusted_proxies, peer.ip());
    // Who comes through a trusted peer is let in, or not, once the peer has said who it is.
    let admitted = if demand.is_none() { context.limits.admit(peer.ip()) } else { None };
    if demand.is_none() && admitted.is_none() {
        tracing::debug!(%peer, port, "a connection is turned away: too many");
        return break_off(&stream);
    }
    let context = context.clone();
    context.tasks.clone().spawn(async move {
        let mut stream = stream;
        let origin = match (demand, stream.local_addr()) {
            (Some(demand), _) => Box::pin(origin::origin(&context, &mut stream, peer, demand)).await,
            (None, local) => local.ok().map(|local| Origin { peer, local, admitted }),
        };
        if let Some(origin) = origin {
            serve(context, stream, origin, port).await;
        }
    });
}

async fn serve(context: Arc<Context>, stream: TcpStream, origin: Origin, port: u16) {
    let Origin { peer, local, admitted: _admitted } = origin;
    let _ = stream.set_nodelay(true);
    watch_for_death(&stream);
    match door(&context, port) {
        Some(Door::Http) => http::serve(context, Plain::new(stream), Client::new(peer, local, port, None)).await,
        Some(Door::Tls) => tls::serve(context, stream, peer, local, port).await,
        Some(Door::PgTls) => Box::pin(tls::serve_postgres(context, stream, peer, local, port)).await,
        Some(Door::Raw(app)) => {
            Box::pin(stream::carry(context, app, stream, Client::new(peer, local, port, None))).await;
        }
        None => {}
    }
}

/// How connections to a public port begin, now.
fn door(context: &Context, port: u16) -> Option<Door> {
    match port {
        HTTP_PORT => Some(Door::Http),
        HTTPS_PORT => Some(Door::Tls),
        _ => context.routing.load().snapshot.doors.get(&port).cloned(),
    }
}

/// A peer that has vanished is noticed after about two minutes, also on connections that say nothing for hours.
fn watch_for_death(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
