//! The handshake: the server name says whose connection it is, and what comes after.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use catalog::{HTTPS_PORT, Handling};
use futures_util::future::BoxFuture;
use model::{AppName, machine::TlsOptions};
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{certificates::HTTP_ALPN, passthrough};
use crate::{
    Refusal,
    context::{Context, Destination},
    http::{self, Client, Secured},
    plain::Plain,
    stream::{
        self,
        postgres::{self, Greeting},
    },
};

/// What comes after the handshake.
enum Then {
    /// Requests, for this app if the server name is one's.
    Http(Option<AppName>),
    /// Bytes for an app.
    Bytes(AppName),
    /// A PostgreSQL session with an app.
    Postgres(AppName),
}

/// What became of a connection.
enum Opened {
    /// TLS ended here.
    Here(Box<TlsStream<Plain>>, Then),
    /// The app ends it: nothing was taken from the connection.
    There(TcpStream, AppName),
    /// It is no session, but the wish to cancel another one.
    Cancel(Vec<u8>),
    /// It has served its purpose.
    Done,
}

/// A connection whose handshake is under way.
struct Opening<'a> {
    context: &'a Context,
    source: IpAddr,
    port: u16,
    /// The server name, once that is known.
    name: Option<String>,
}

/// Why a handshake came to nothing.
enum Failure {
    /// It broke.
    Broken(io::Error),
    /// Nobody offers what it is for.
    Refused(Option<Refusal>),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Ends TLS on a connection, unless its app does, and carries on with what is inside.
pub async fn serve(context: Arc<Context>, stream: TcpStream, peer: SocketAddr, local: SocketAddr, port: u16) {
    let mut opening = Opening { context: &context, source: peer.ip(), port, name: None };
    let began = Instant::now();
    // By address: the room that a handshake takes is given back before the connection's long life begins.
    let opened = Box::pin(timeout_at(began + context.bounds.handshake, opening.open(stream))).await;
    let name = opening.name.take();
    go_on(&context, opened.ok(), began, name, (peer, local, port)).await;
}

/// The same after PostgreSQL's wishes for encryption.
pub async fn serve_postgres(context: Arc<Context>, stream: TcpStream, peer: SocketAddr, local: SocketAddr, port: u16) {
    let mut opening = Opening { context: &context, source: peer.ip(), port, name: None };
    let began = Instant::now();
    let opened = Box::pin(timeout_at(began + context.bounds.handshake, opening.open_postgres(stream))).await;
    let name = opening.name.take();
    go_on(&context, opened.ok(), began, name, (peer, local, port)).await;
}

/// Carries on with what was opened; nothing was if it took too long. What carries on stands by address: of the several
/// ways that it may go, none takes the room of the others.
async fn go_on(
    context: &Arc<Context>,
    opened: Option<Result<Opened, Failure>>,
    began: Instant,
    name: Option<String>,
    (peer, local, port): (SocketAddr, SocketAddr, u16),
) {
    let goes_on: BoxFuture<'_, ()> = match opened {
        Some(Ok(Opened::Here(mut stream, then))) => {
            context.handshakes.done(stream.get_ref().1.protocol_version(), began.elapsed());
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let secured = Secured { name, is_http2 };
            let (client, context) = (Client::new(peer, local, port, Some(secured)), context.clone());
            match then {
                Then::Http(Some(app)) if stream::enter(&context, &app, &mut *stream, &client).is_err() => return,
                Then::Http(_) => http::serve(context, *stream, client),
                Then::Bytes(app) => Box::pin(stream::carry(context, app, *stream, client)),
                Then::Postgres(app) => Box::pin(postgres::carry(context, app, *stream, client)),
            }
        }
        Some(Ok(Opened::There(stream, app))) => {
            let client = Client::passing(peer, local, port, name);
            Box::pin(stream::carry(context.clone(), app, stream, client))
        }
        Some(Ok(Opened::Cancel(message))) => {
            let client = Client::new(peer, local, port, None);
            Box::pin(async move { postgres::forward(context, &client, &message).await })
        }
        Some(Ok(Opened::Done)) => return,
        failed => {
            context.handshakes.failed(name.as_deref());
            let waited = context.bounds.handshake;
            let refusal = match failed {
                Some(Err(failure)) => refusal(failure, name.as_deref()),
                _ => name.as_ref().map(|name| Refusal::HandshakeTimeout { name: name.clone(), waited }),
            };
            return tell(context, refusal, name.as_deref(), peer, port);
        }
    };
    goes_on.await;
}

/// What an app is told of a handshake that came to nothing; nothing if it named nobody.
fn refusal(failure: Failure, name: Option<&str>) -> Option<Refusal> {
    let error = match failure {
        Failure::Refused(refusal) => return refusal,
        Failure::Broken(error) => error,
    };
    let name = name?.to_owned();
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    Some(match tls {
        // The only general error of a server: it was given no certificate to show.
        Some(rustls::Error::General(_)) => Refusal::NoCertificate { name },
        _ => Refusal::Handshake { name, reason: error.to_string() },
    })
}

/// Tells the app that a handshake which came to nothing was for.
pub fn tell(context: &Context, refusal: Option<Refusal>, name: Option<&str>, peer: SocketAddr, port: u16) {
    tracing::debug!(%peer, port, name, "a TLS handshake came to nothing");
    let destination = name.map(|name| context.destination(name));
    if let Some((refusal, Destination::App(_, Some(app)))) = refusal.zip(destination) {
        if matches!(refusal, Refusal::HandshakesOfRange { .. } | Refusal::HandshakesOfName { .. }) {
            app.state.metrics().handshakes_limited.one();
        }
        context.journal.refused(&app.state, &refusal, &format!("(handshake on port {port})"));
    }
}

impl Opening<'_> {
    async fn open(&mut self, stream: TcpStream) -> Result<Opened, Failure> {
        if self.port == HTTPS_PORT && self.context.routing.load().snapshot.passthrough {
            let asked = passthrough::look(self.context, &stream).await?;
            if let Some((name, app)) = asked {
                self.name = Some(name);
                return Ok(Opened::There(stream, app));
            }
        }
        self.shake_hands(stream).await
    }

    async fn open_postgres(&mut self, mut stream: TcpStream) -> Result<Opened, Failure> {
        let greeting = postgres::greet(&mut stream).await?;
        if let Greeting::Cancel(message) = greeting {
            return Ok(Opened::Cancel(message));
        }
        let opened = self.shake_hands(stream).await?;
        // Without this, what was meant for another protocol could be taken for PostgreSQL's.
        if let (Greeting::Direct, Opened::Here(stream, _)) = (greeting, &opened)
            && stream.get_ref().1.alpn_protocol() != Some(postgres::ALPN.as_bytes())
        {
            return Err(io::Error::other("a handshake that was not asked for has to name the protocol: ALPN").into());
        }
        Ok(opened)
    }

    async fn shake_hands(&mut self, stream: TcpStream) -> Result<Opened, Failure> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), Plain::new(stream)).await?;
        let proof = self.context.hostnames.challenge(&start.client_hello());
        if let Some(proof) = proof.filter(|_| self.port == HTTPS_PORT) {
            let _ = start.into_stream(proof).await;
            return Ok(Opened::Done);
        }
        self.name = start.client_hello().server_name().and_then(http::host_name);
        match self.plan() {
            Ok((config, then)) => Ok(Opened::Here(Box::new(start.into_stream(config).await?), then)),
            Err(refusal) => {
                // The client gets an alert, not just the end of the connection.
                let _ = start.into_stream(self.context.certificates.refusing()).await;
                Err(Failure::Refused(refusal))
            }
        }
    }

    /// How to speak with the client, and what comes after; or what the app is told if the handshake is refused.
    fn plan(&self) -> Result<(Arc<ServerConfig>, Then), Option<Refusal>> {
        let certificates = &self.context.certificates;
        let shared = self.port == HTTPS_PORT;
        let http = || Ok((certificates.config(&TlsOptions::default(), &HTTP_ALPN), Then::Http(None)));
        self.context.limits.shake_hands(self.source, self.name.as_deref().unwrap_or_default())?;
        // Without a name there is still a page to show.
        let Some(name) = self.name.as_deref() else { return if shared { http() } else { Err(None) } };
        let destination = self.context.destination(name);
        if matches!(destination, Destination::App(..) | Destination::Platform(_)) {
            certificates.prepare(name);
        }
        match destination {
            Destination::App(app, known) => {
                if let Some(app) = &known {
                    self.context.limits.expect_room(&app.state)?;
                }
                let offered = known.as_ref().and_then(|app| app.port(self.port));
                let none = TlsOptions::default();
                let options = offered.and_then(|offered| offered.options.tls_options.as_ref()).unwrap_or(&none);
                match offered.map(|offered| offered.handling) {
                    Some(Handling::Tls) => Ok((certificates.config(options, &[]), Then::Bytes(app))),
                    Some(Handling::TlsHttp) => Ok((certificates.config(options, &HTTP_ALPN), Then::Http(Some(app)))),
                    Some(Handling::PgTls) => Ok((certificates.config(options, &[postgres::ALPN]), Then::Postgres(app))),
                    _ if shared => http(),
                    _ => Err(Some(Refusal::NotOffered { app, port: self.port, what: "TLS" })),
                }
            }
            Destination::Platform(_) | Destination::Nobody if shared => http(),
            _ => Err(None),
        }
    }
}
