//! One connection of a client that speaks HTTP.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{InboundBody, leave::Multiplexed, request};
use crate::{
    Bounds,
    account::{Connection, Counted},
    context::Context,
    limits::Guarded,
    options::BoxError,
};

/// How long a connection gets to end by itself once it has been asked to.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Requests of one HTTP/2 connection at a time.
const MAX_STREAMS: u32 = 200;

/// A client, as its connection shows him.
pub struct Client {
    /// His address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// The public port that the connection came to.
    pub port: u16,
    /// The connection is secured: for which server name, if it said one.
    pub secured: Option<Secured>,
    /// What is counted of the connection.
    pub connection: Arc<Connection>,
    /// Whether the connection carries many requests at a time.
    pub multiplexed: Multiplexed,
    activity: Activity,
}

/// A secured connection.
pub struct Secured {
    /// The server name of the handshake, in lower case.
    pub name: Option<String>,
}

impl Client {
    /// A client who has just connected.
    pub fn new(peer: SocketAddr, local: SocketAddr, port: u16, secured: Option<Secured>) -> Self {
        let name = secured.as_ref().and_then(|secured| secured.name.clone());
        let connection = Arc::new(Connection::new(peer, port, secured.is_some(), name));
        Self { peer, local, port, secured, connection, multiplexed: Multiplexed::default(), activity: Activity::new() }
    }

    /// A client who secures the connection with the app itself, under this server name.
    pub fn passing(peer: SocketAddr, local: SocketAddr, port: u16, name: Option<String>) -> Self {
        let connection = Arc::new(Connection::new(peer, port, true, name));
        Self {
            peer,
            local,
            port,
            secured: None,
            connection,
            multiplexed: Multiplexed::default(),
            activity: Activity::new(),
        }
    }

    /// His address; IPv4 as such, though it came through a socket for both.
    pub fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// The server name that the connection is secured for, if it is and said one.
    pub fn secured_name(&self) -> Option<&str> {
        self.secured.as_ref()?.name.as_deref()
    }

    /// Whether the connection is secured.
    pub fn is_secure(&self) -> bool {
        self.secured.is_some()
    }
}

/// How clients are spoken to.
pub fn server(bounds: &Bounds) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header)
        .max_buf_size(bounds.header_bytes.max(8192))
        .keep_alive(true);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(bounds.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .enable_connect_protocol();
    server
}

/// Serves a connection until it ends, lies idle too long, or the edge stops.
pub async fn serve<IO>(context: Arc<Context>, io: IO, client: Client)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let client = Arc::new(client);
    let _entered = context.connections.enter(&client.connection);
    let io = Guarded::new(io, &context, &client.connection);
    let io = Counted::new(io, client.connection.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let (context, client) = (context.clone(), client.clone());
        async move {
            let busy = Busy::new(client);
            Ok::<_, Infallible>(request::answer(context, busy, request.map(InboundBody::from)).await)
        }
    });
    let connection = context.server.serve_connection_with_upgrades(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended, &client),
        () = context.stopping.cancelled() => {}
        () = client.activity.idle(context.bounds.idle) => {}
        () = client.multiplexed.leaves(&context) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => log_end(ended, &client),
        () = context.aborting.cancelled() => {}
        () = client.activity.idle(LAST_WORDS) => {}
    }
}

fn log_end(ended: Result<(), BoxError>, client: &Client) {
    if let Err(error) = ended {
        tracing::debug!(peer = %client.peer, "a connection ended: {}", kit::report::Report(error.as_ref()));
    }
}

/// What goes on over a connection.
struct Activity {
    under_way: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self { under_way: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }

    /// Resolves once nothing has been under way for so long.
    async fn idle(&self, limit: Duration) {
        let began = Instant::now();
        loop {
            let last = (*self.last.lock().unwrap_or_else(PoisonError::into_inner)).max(began);
            let quiet = last.elapsed();
            if self.under_way.load(Relaxed) == 0 && quiet >= limit {
                return;
            }
            // While something is under way the quiet has not even begun.
            let busy = self.under_way.load(Relaxed) > 0;
            tokio::time::sleep(if busy { limit } else { limit.saturating_sub(quiet) }).await;
        }
    }
}

/// Something under way over a client's connection: while it lives, the connection does not lie idle.
pub struct Busy(pub Arc<Client>);

impl Busy {
    fn new(client: Arc<Client>) -> Self {
        client.activity.under_way.fetch_add(1, Relaxed);
        Self(client)
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.0.activity;
        *activity.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        activity.under_way.fetch_sub(1, Relaxed);
    }
}
