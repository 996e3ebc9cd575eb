//! One connection of a client that speaks HTTP.

use std::{
    future::{pending, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::time::Instant;

use super::{
    Interim,
    connection::{self, Served},
    headers::ClientFields,
    multiplex,
};
use crate::{
    account::{Connection, Counted},
    context::Context,
    http1::{AnyStream, Prefixed},
    limits::Guarded,
    splice::Stream,
};

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
    /// What goes on over it, if somebody wants to know.
    activity: Option<Box<Activity>>,
    fields: OnceLock<Arc<ClientFields>>,
}

/// A secured connection.
pub struct Secured {
    /// The server name of the handshake, in lower case.
    pub name: Option<String>,
    /// Both have agreed to speak HTTP/2 and nothing else (RFC 9113, 3.2).
    pub is_http2: bool,
}

impl Client {
    /// A client who has just connected.
    pub fn new(peer: SocketAddr, local: SocketAddr, port: u16, secured: Option<Secured>) -> Self {
        let name = secured.as_ref().and_then(|secured| secured.name.clone());
        let connection = Arc::new(Connection::new(peer, port, secured.is_some(), name));
        Self { peer, local, port, secured, connection, activity: None, fields: OnceLock::new() }
    }

    /// The same, of whom it will be asked how long nothing has been under way.
    pub fn watched(self) -> Self {
        Self { activity: Some(Box::new(Activity::new())), ..self }
    }

    /// A client who secures the connection with the app itself, under this server name.
    pub fn passing(peer: SocketAddr, local: SocketAddr, port: u16, name: Option<String>) -> Self {
        let connection = Arc::new(Connection::new(peer, port, true, name));
        Self { peer, local, port, secured: None, connection, activity: None, fields: OnceLock::new() }
    }

    /// His address; IPv4 as such, though it came through a socket for both.
    pub fn ip(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// What its requests have in common, in this region.
    pub fn fields(&self, region: &HeaderValue) -> &Arc<ClientFields> {
        self.fields.get_or_init(|| Arc::new(ClientFields::of(self, region)))
    }

    /// The server name that the connection is secured for, if it is and said one.
    pub fn secured_name(&self) -> Option<&str> {
        self.secured.as_ref()?.name.as_deref()
    }

    /// Resolves once nothing has been under way for so long, if he is [`watched`](Self::watched).
    pub async fn idle(&self, limit: Duration) {
        match &self.activity {
            Some(activity) => activity.idle(limit).await,
            None => pending().await,
        }
    }

    /// Whether the connection is secured.
    pub fn is_secure(&self) -> bool {
        self.secured.is_some()
    }
}

/// Serves a connection until it ends, lies idle too long, or the edge stops.
///
/// Both the connection and what serves it stand by address: what awaits this future keeps no room for them, and a
/// connection that lies idle costs no more than it must.
pub fn serve(context: Arc<Context>, stream: impl Stream + 'static, client: Client) -> BoxFuture<'static, ()> {
    let stream = Guarded::new(stream, &context, &client.connection);
    let stream: AnyStream = Box::new(Counted::new(stream, client.connection.clone()));
    Box::pin(converse(context, stream, Arc::new(client)))
}

async fn converse(context: Arc<Context>, stream: AnyStream, client: Arc<Client>) {
    let _entered = context.connections.enter(&client.connection);
    let served = if client.secured.as_ref().is_some_and(|secured| secured.is_http2) {
        Served::Http2(Prefixed::new(Bytes::new(), stream))
    } else {
        let (mut serving, mut aborting) = (pin!(connection::serve(&context, stream, &client)), context.aborting.ear());
        let served = poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(served) => Poll::Ready(Some(served)),
            Poll::Pending => aborting.poll(cx).map(|()| None),
        });
        let Some(served) = served.await else { return };
        served
    };
    if let Served::Http2(stream) = served {
        // By address: most connections never need this room.
        Box::pin(multiplex::serve(&context, stream, &client)).await;
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
pub struct Busy(pub Arc<Client>, Interim);

impl Busy {
    /// From now on, until it is dropped.
    pub fn new(client: Arc<Client>) -> Self {
        if let Some(activity) = &client.activity {
            activity.under_way.fetch_add(1, Relaxed);
        }
        Self(client, Interim::Not)
    }

    /// With a way to tell the client what comes before its answer.
    pub fn informing(mut self, interim: Interim) -> Self {
        self.1 = interim;
        self
    }

    /// How the client is told what comes before its answer.
    pub fn interim(&self) -> &Interim {
        &self.1
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self::new(self.0.clone()).informing(self.1.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(activity) = &self.0.activity {
            *activity.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            activity.under_way.fetch_sub(1, Relaxed);
        }
    }
}
