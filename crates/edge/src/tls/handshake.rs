//! The handshake: the server name says whose connection it is, and what comes after.

use std::{net::SocketAddr, sync::Arc};

use catalog::{HTTPS_PORT, Handling};
use model::{AppName, machine::TlsOptions};
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::certificates::HTTP_ALPN;
use crate::{
    context::{Context, Destination},
    http::{self, Client, Secured},
    stream,
};

/// What comes after the handshake.
enum Then {
    /// Requests.
    Http,
    /// Bytes for an app.
    Bytes(AppName),
}

/// Ends TLS on a connection and carries on with what is inside.
pub async fn serve(context: Arc<Context>, stream: TcpStream, peer: SocketAddr, local: SocketAddr, port: u16) {
    let deadline = Instant::now() + context.bounds.handshake;
    let began = Instant::now();
    let mut name = None;
    let shaken = timeout_at(deadline, shake_hands(&context, stream, port, &mut name)).await;
    let Ok(Some((stream, then))) = shaken else {
        context.handshakes.failed(name.as_deref());
        tracing::debug!(%peer, port, "a TLS handshake did not come to an end");
        return;
    };
    context.handshakes.done(stream.get_ref().1.protocol_version(), began.elapsed());
    let client = Client::new(peer, local, port, Some(Secured { name }));
    match then {
        Then::Http => http::serve(context, stream, client).await,
        Then::Bytes(app) => stream::carry(context, app, stream, client).await,
    }
}

async fn shake_hands(
    context: &Context,
    stream: TcpStream,
    port: u16,
    name: &mut Option<String>,
) -> Option<(TlsStream<TcpStream>, Then)> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
    if let Some(proof) = context.hostnames.challenge(&start.client_hello()).filter(|_| port == HTTPS_PORT) {
        let _ = start.into_stream(proof).await;
        return None;
    }
    *name = start.client_hello().server_name().and_then(http::host_name);
    let (config, then) = plan(context, name.as_deref(), port);
    let stream = start.into_stream(config).await.ok()?;
    Some((stream, then?))
}

/// How to speak with a client who asked for this name, and what comes after; nothing if the handshake is refused.
fn plan(context: &Context, name: Option<&str>, port: u16) -> (Arc<ServerConfig>, Option<Then>) {
    let certificates = &context.certificates;
    let shared = port == HTTPS_PORT;
    let http = || (certificates.config(&TlsOptions::default(), &HTTP_ALPN), Some(Then::Http));
    // Without a name there is still a page to show.
    let Some(name) = name else { return if shared { http() } else { (certificates.refusing(), None) } };
    let destination = context.destination(name);
    if matches!(destination, Destination::App(_) | Destination::Platform(_)) {
        certificates.prepare(name);
    }
    match destination {
        Destination::App(app) => {
            let routing = context.routing.load();
            let offered = routing.app(app.as_str()).and_then(|app| app.port(port));
            let none = TlsOptions::default();
            let options = offered.and_then(|offered| offered.options.tls_options.as_ref()).unwrap_or(&none);
            match offered.map(|offered| offered.handling) {
                Some(Handling::Tls) => (certificates.config(options, &[]), Some(Then::Bytes(app))),
                Some(Handling::TlsHttp) => (certificates.config(options, &HTTP_ALPN), Some(Then::Http)),
                _ if shared => http(),
                _ => (certificates.refusing(), None),
            }
        }
        Destination::Platform(_) | Destination::Nobody if shared => http(),
        _ => (certificates.refusing(), None),
    }
}
