//! The ports that apps ask for: opened and closed as the catalog says. Connections that were accepted go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use catalog::{Door, Snapshot};
use kit::report::Report;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Sockets, accept, bind};
use crate::{EdgeError, context::Context, routing::Routing, udp};

/// The open ports.
pub struct Doors {
    sockets: Arc<Sockets>,
    addresses: Vec<IpAddr>,
    reserved: BTreeSet<u16>,
    open: Mutex<BTreeMap<u16, Open>>,
    /// The sockets of ports that were closed a moment ago, as long as somebody still has them.
    closing: Mutex<Vec<Weak<TcpListener>>>,
    /// Ports whose trouble has been told.
    told: Mutex<BTreeSet<u16>>,
    /// The doors that are all as they should be, so that the same again need no look.
    done: Mutex<Option<Arc<BTreeMap<u16, Door>>>>,
    datagrams: udp::Doors,
}

impl Doors {
    /// No port yet; ports will be opened on these addresses, but never a reserved one.
    pub fn new(sockets: Arc<Sockets>, addresses: Vec<IpAddr>, reserved: BTreeSet<u16>) -> Self {
        let datagrams = udp::Doors::new(sockets.clone(), addresses.clone(), reserved.clone());
        Self {
            sockets,
            addresses,
            reserved,
            open: Mutex::default(),
            closing: Mutex::default(),
            told: Mutex::default(),
            done: Mutex::default(),
            datagrams,
        }
    }

    /// The UDP ports that are open.
    pub fn open_udp_ports(&self) -> Vec<u16> {
        self.datagrams.open_ports()
    }

    /// The ports that are open.
    pub fn open_ports(&self) -> Vec<u16> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Opens and closes ports so that they are those of the picture. Tells whether some could not be opened.
    pub fn follow(&self, context: &Arc<Context>, routing: &Routing) -> bool {
        let snapshot = &routing.snapshot;
        let mut complete = self.datagrams.follow(context, routing);
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.as_ref().is_some_and(|done| Arc::ptr_eq(done, &snapshot.doors)) {
            return complete;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|port, door| {
            let stays = snapshot.doors.contains_key(port);
            if !stays {
                door.closed.cancel();
                closing.append(&mut door.listeners);
            }
            stays
        });
        closing.retain(|listener| listener.strong_count() > 0);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|port| snapshot.doors.contains_key(port));
        let mut all = true;
        for port in snapshot.doors.keys().filter(|port| !open.contains_key(port)).copied().collect::<Vec<_>>() {
            match self.open(context, port, &closing) {
                Ok(door) => {
                    open.insert(port, door);
                    told.remove(&port);
                }
                Err(trouble) => {
                    all = false;
                    if told.insert(port) {
                        tell(context, routing, port, &trouble);
                    }
                }
            }
        }
        *done = all.then(|| snapshot.doors.clone());
        complete &= all;
        complete
    }

    fn open(&self, context: &Arc<Context>, port: u16, closing: &[Weak<TcpListener>]) -> Result<Open, Trouble> {
        if self.reserved.contains(&port) {
            return Err(Trouble::Reserved);
        }
        let addresses = self.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
        // Until it is closed a socket has its address for itself, and serves the next one who wants that as well.
        let still_there = |address: SocketAddr| {
            let mut closing = closing.iter().filter_map(Weak::upgrade);
            closing.find(|listener| listener.local_addr().is_ok_and(|at| at == address))
        };
        let listeners = addresses.map(|address| match still_there(address) {
            Some(listener) => Ok(listener),
            None => bind(&self.sockets, address, "http"),
        });
        let listeners: Vec<_> = listeners.collect::<Result<_, _>>().map_err(Trouble::Closed)?;
        let closed = CancellationToken::new();
        let door = Open { closed: closed.clone(), listeners: listeners.iter().map(Arc::downgrade).collect() };
        for listener in listeners {
            context.tasks.spawn(accept(context.clone(), listener, port, closed.clone()));
        }
        Ok(door)
    }
}

/// An open port.
struct Open {
    closed: CancellationToken,
    listeners: Vec<Weak<TcpListener>>,
}

/// Why a port stays closed.
enum Trouble {
    /// It is not for apps.
    Reserved,
    /// The system does not give it.
    Closed(EdgeError),
}

/// Tells the apps that have a port that it stays closed. What else runs on the host is the operator's business alone.
fn tell(context: &Context, routing: &Routing, port: u16, trouble: &Trouble) {
    let reason = match trouble {
        Trouble::Reserved => "is reserved by the platform",
        Trouble::Closed(error) => {
            tracing::warn!(port, "a port for apps stays closed: {}", Report(error));
            "cannot be opened on this host"
        }
    };
    for name in apps_with(&routing.snapshot, port) {
        if let Some(app) = routing.app(&name) {
            context.journal.note(&app.state, format!("[PL03] port {port} {reason}; choose another port"));
        }
    }
}

fn apps_with(snapshot: &Snapshot, port: u16) -> Vec<String> {
    let apps = snapshot.apps.iter().filter(|app| app.ports.contains_key(&port));
    apps.map(|app| app.name.to_string()).collect()
}
