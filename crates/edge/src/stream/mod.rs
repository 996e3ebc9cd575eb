//! Connections whose bytes pass as they are.
//!
//! ```text
//!  client ─▶ [PROXY header] ─▶ machine     each direction ends by itself (half-close)
//!         ◀────────────────────            one that breaks off breaks the other off: a reset stays a reset
//! ```

pub mod postgres;
mod relay;

use std::{io, sync::Arc, time::Duration};

use model::AppName;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tokio_rustls::server::TlsStream;

pub use self::relay::{End, relay};
use crate::{
    Refusal,
    account::Counted,
    choose::{Chosen, Search},
    context::Context,
    http::Client,
    listen::break_off,
    machine::Lease,
    plain::Plain,
    proxy_protocol::{self, Header, Route},
    splice::Stream,
    upstream::Line,
};

/// A connection, whatever lies around its socket.
pub trait Socket: Stream {
    /// It breaks off when it is dropped, instead of ending in good order.
    fn break_off(&mut self);
}

impl Socket for TcpStream {
    fn break_off(&mut self) {
        break_off(self);
    }
}

impl Socket for TlsStream<Plain> {
    fn break_off(&mut self) {
        break_off(self.get_ref().0.socket());
    }
}

impl<IO: Socket> Socket for Counted<IO> {
    fn break_off(&mut self) {
        self.inner_mut().break_off();
    }
}

impl Socket for Line {
    fn break_off(&mut self) {
        match self {
            Self::Left(near) => break_off(near.socket()),
            Self::Right(far) => far.break_off(),
        }
    }
}

/// Joins a client's connection with one to a machine of the app, both ways, each direction ending by itself
/// (half-close), until both have ended.
pub async fn carry(context: Arc<Context>, app: AppName, mut io: impl Socket, client: Client) {
    let _entered = context.connections.enter(&client.connection);
    if enter(&context, &app, &mut io, &client).is_err() {
        return;
    }
    let mut io = Counted::new(io, client.connection.clone());
    let carried = async {
        match connect(&context, &app, &client).await {
            Ok((mut machine, chosen)) => pass(&context, &app, &mut io, &mut machine, &chosen.lease, &client).await,
            Err(refusal) => tell(&context, &app, &refusal, &client),
        }
    };
    tokio::select! {
        () = carried => {}
        () = context.aborting.cancelled() => {}
    }
}

/// Counts a connection as the app's. One that is too many is to be dropped, and breaks off when it is.
pub fn enter(context: &Context, app: &AppName, io: &mut impl Socket, client: &Client) -> Result<(), Refusal> {
    let routing = context.routing.load();
    let Some(known) = routing.app(app.as_str()) else { return Ok(()) };
    context.limits.enter(&client.connection, &known.state).inspect_err(|refusal| {
        io.break_off();
        tell(context, app, refusal, client);
    })
}

/// A connection to a machine, another one if the first cannot be reached. It has been told the client's address, if it
/// wants to be.
async fn connect(context: &Arc<Context>, app: &AppName, client: &Client) -> Result<(Line, Chosen), Refusal> {
    let mut search = Search::new(context, app, client.port);
    loop {
        let chosen = search.next().await?;
        match reach(context, app, &chosen.lease, chosen.only, client).await {
            Ok(stream) => return Ok((stream, chosen)),
            Err(cause) => search.failed(&chosen.lease, cause).await?,
        }
    }
}

/// A connection to the machine that was chosen.
async fn reach(context: &Context, app: &AppName, lease: &Lease, only: bool, client: &Client) -> Result<Line, Refusal> {
    let mut stream = context.dialer.connect(app, &lease.target, only, None).await?;
    if let Some(header) = header_for(context, app, client) {
        // It fits into the socket's empty buffer.
        stream.write_all(&header).await.map_err(|error| closed_early(lease, &error))?;
    }
    lease.target.worked(Instant::now());
    Ok(stream)
}

/// What the app's machine is told of the client first, if it wants to be told.
fn header_for(context: &Context, app: &AppName, client: &Client) -> Option<Vec<u8>> {
    let routing = context.routing.load();
    let version = routing.app(app.as_str())?.port(client.port)?.proxy_header()?;
    let route = Some(Route { source: client.peer, destination: client.local });
    let authority = client.connection.server_name.clone();
    Some(proxy_protocol::write(&Header { route, authority }, version))
}

/// Passes bytes both ways until both directions have ended.
async fn pass(
    context: &Context,
    app: &AppName,
    io: &mut impl Socket,
    machine: &mut impl Socket,
    lease: &Lease,
    client: &Client,
) {
    match relay(io, machine, idle_timeout(context, app, client.port)).await {
        End::Both => {}
        End::Idle => tracing::debug!(%app, peer = %client.peer, "a connection was idle for too long"),
        End::Client(error) => {
            machine.break_off();
            tell(context, app, &Refusal::ClientReset { reason: error.to_string() }, client);
        }
        End::Machine { error, answered } => {
            io.break_off();
            let refusal = if answered { broken_off(lease, &error) } else { closed_early(lease, &error) };
            tell(context, app, &refusal, client);
        }
    }
    lease.target.machine.metrics().disconnects.one();
}

/// How long a connection may say nothing; nothing if the app has not asked for a bound.
fn idle_timeout(context: &Context, app: &AppName, port: u16) -> Option<Duration> {
    let routing = context.routing.load();
    let options = &routing.app(app.as_str())?.port(port)?.options;
    options.http_options.as_ref()?.idle_timeout.map(|seconds| Duration::from_secs(seconds.into()))
}

fn closed_early(lease: &Lease, error: &io::Error) -> Refusal {
    Refusal::ClosedEarly { machine: lease.target.machine.id.clone(), reason: error.to_string() }
}

fn broken_off(lease: &Lease, error: &io::Error) -> Refusal {
    Refusal::BrokenOff { machine: lease.target.machine.id.clone(), reason: error.to_string() }
}

/// Tells the app what became of a connection.
pub fn tell(context: &Context, app: &AppName, refusal: &Refusal, client: &Client) {
    if let Some(app) = context.routing.load().app(app.as_str()) {
        context.journal.refused(&app.state, refusal, &format!("(connection to port {})", client.port));
    }
}
