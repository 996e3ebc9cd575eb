//! The live table of clients' connections.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use api::public::edge::EdgeConnection;
use tokio::time::Instant;

use crate::{limits::Place, machine::AppState};

/// The table is kept in so many parts, so that threads do not wait for each other.
const PARTS: usize = 16;

/// A client's connection.
pub struct Connection {
    /// Its number, in the life of this process.
    pub number: u64,
    /// Whose.
    pub peer: SocketAddr,
    /// The public port it came to.
    pub port: u16,
    /// The server name of its handshake, if it is secured and said one.
    pub server_name: Option<String>,
    /// Whether it is secured.
    pub secured: bool,
    /// When it began.
    pub since: Instant,
    /// The first app that something over it was for, and its place among that app's connections.
    app: OnceLock<(Arc<AppState>, Place)>,
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Connection {
    /// A connection that begins now.
    pub fn new(peer: SocketAddr, port: u16, secured: bool, server_name: Option<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Relaxed),
            peer,
            port,
            server_name,
            secured,
            since: Instant::now(),
            app: OnceLock::new(),
            requests: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    /// Something over it is for this app. The first one counts it as its own.
    pub fn is_for(&self, app: &Arc<AppState>, place: Place) {
        if self.app.set((app.clone(), place)).is_ok() {
            app.metrics().connects.one();
        }
    }

    /// The app it is for, once that is known.
    pub fn app(&self) -> Option<&Arc<AppState>> {
        self.app.get().map(|(app, _)| app)
    }

    /// A request came.
    pub fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// So many bytes came from the client.
    pub fn came_in(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes_in.fetch_add(bytes as u64, Relaxed);
        }
    }

    /// So many bytes went to the client.
    pub fn went_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// So many bytes passed in each direction, where nobody else counts: that takes no step that others have to see as
    /// one.
    pub fn passed_alone(&self, came_in: usize, went_out: usize) {
        for (bytes, more) in [(&self.bytes_in, came_in), (&self.bytes_out, went_out)] {
            if more > 0 {
                bytes.store(bytes.load(Relaxed) + more as u64, Relaxed);
            }
        }
    }

    /// The connection as people see it.
    pub fn show(&self) -> EdgeConnection {
        let (bytes_in, bytes_out) = self.bytes();
        EdgeConnection {
            number: self.number,
            client: self.peer,
            port: self.port,
            tls: self.secured,
            server_name: self.server_name.clone(),
            app: self.app().map(|app| app.name.clone()),
            age_ms: self.since.elapsed().as_millis() as u64,
            requests: self.requests.load(Relaxed),
            bytes_in,
            bytes_out,
        }
    }

    /// Bytes from the client and to it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes_in.load(Relaxed), self.bytes_out.load(Relaxed))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(app) = self.app() else { return };
        let (bytes_in, bytes_out) = self.bytes();
        app.metrics().disconnects.one();
        app.metrics().data_in.add(bytes_in);
        app.metrics().data_out.add(bytes_out);
    }
}

/// The live connections.
#[derive(Default)]
pub struct Connections([Mutex<BTreeMap<u64, Weak<Connection>>>; PARTS]);

impl Connections {
    /// Shows a connection for as long as what is returned lives.
    pub fn enter(self: &Arc<Self>, connection: &Arc<Connection>) -> Entered {
        let number = connection.number;
        self.part(number).insert(number, Arc::downgrade(connection));
        Entered { table: self.clone(), number }
    }

    /// Those that live now, the oldest first.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        let mut all = Vec::new();
        for part in 0..PARTS as u64 {
            all.extend(self.part(part).values().filter_map(Weak::upgrade));
        }
        all.sort_by_key(|connection| connection.number);
        all
    }

    fn part(&self, number: u64) -> std::sync::MutexGuard<'_, BTreeMap<u64, Weak<Connection>>> {
        self.0[number as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's line in the table.
pub struct Entered {
    table: Arc<Connections>,
    number: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.part(self.number).remove(&self.number);
    }
}
