//! Datagrams: each client has a flow, each flow a machine and a socket towards it.
//!
//! ```text
//!  client A ─▶ ┌─────────────┐      ┌ flow A: socket ─▶ machine 1
//!  client B ─▶ │ public port │ ─▶ ──┤
//!  client B ◀─ │ (one socket)│ ◀─   └ flow B: socket ─▶ machine 2
//!              └─────────────┘
//!
//!  none ──first datagram──▶ one-way ──the machine answers, the client goes on──▶ both ways
//!                             │ 10 s of silence, or its place is needed            │ 120 s of silence
//!                             └────────────────────▶ gone ◀───────────────────────┘
//! ```
//!
//! - Which machine: rendezvous hashing over the ready ones of the closest region ([`choose`]). When one goes away only
//!   its flows move, with their next datagram.
//! - Flows to machines of another host pass by that host's worker ([`carrier`]), which opens their sockets.
//! - A machine's answers come to the flow's socket, which is connected to it, so that nobody else's do; they leave from
//!   the public port, by the address that the client had sent to.
//! - What finds no machine wakes one and waits for it; so does what a program that has just started does not take yet
//!   ([`held`]).
//! - The port is not rewritten: a machine gets datagrams at the public port's number.
//! - The source of a datagram may be a lie. Flows are bounded: per source, per port, overall. At a bound per port, flows
//!   that went one way only make room, the oldest first; at the others a new flow is not begun. An answer is never sent
//!   but to the client whose datagram it follows.
//! - Datagrams are received and sent many at a time ([`batch`]). What a full socket buffer does not take is dropped, as
//!   networks do.

mod batch;
mod carrier;
mod choose;
mod door;
mod flow;
mod held;
mod scouts;
mod source;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use model::AppName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

pub use self::{
    batch::with_batch,
    carrier::Carrier,
    flow::{HEARS, Slot, Slots, is_starting},
    source::{is_forged, socket_towards},
};
use crate::{context::Context, listen::Sockets, routing::Routing};

/// What a burst may fill of a public port's buffer, as far as the system allows.
const BUFFER: usize = 4 << 20;

/// The open UDP ports.
pub struct Doors {
    sockets: Arc<Sockets>,
    addresses: Vec<IpAddr>,
    reserved: BTreeSet<u16>,
    open: Mutex<BTreeMap<u16, CancellationToken>>,
    /// Ports whose trouble has been told.
    told: Mutex<BTreeSet<u16>>,
    /// The ports that are all as they should be, so that the same again need no look.
    done: Mutex<Option<Arc<BTreeMap<u16, AppName>>>>,
}

impl Doors {
    /// No port yet; ports will be opened on these addresses, but never a reserved one.
    pub fn new(sockets: Arc<Sockets>, addresses: Vec<IpAddr>, reserved: BTreeSet<u16>) -> Self {
        Self { sockets, addresses, reserved, open: Mutex::default(), told: Mutex::default(), done: Mutex::default() }
    }

    /// The ports that are open.
    pub fn open_ports(&self) -> Vec<u16> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Opens and closes ports so that they are those of the picture. Tells whether some could not be opened.
    pub fn follow(&self, context: &Arc<Context>, routing: &Routing) -> bool {
        let wanted = &routing.snapshot.datagrams;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.as_ref().is_some_and(|done| Arc::ptr_eq(done, wanted)) {
            return true;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|port, closed| {
            let stays = wanted.contains_key(port);
            if !stays {
                closed.cancel();
            }
            stays
        });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|port| wanted.contains_key(port));
        let mut complete = true;
        for (port, app) in wanted.iter() {
            if open.contains_key(port) {
                continue;
            }
            match self.open(context, *port) {
                Ok(closed) => {
                    open.insert(*port, closed);
                    told.remove(port);
                }
                Err(reason) => {
                    complete = false;
                    if let Some(app) = routing.app(app.as_str()).filter(|_| told.insert(*port)) {
                        let line = format!("[PL03] UDP port {port} {reason}; choose another port");
                        context.journal.note(&app.state, line);
                    }
                }
            }
        }
        *done = complete.then(|| wanted.clone());
        complete
    }

    fn open(&self, context: &Arc<Context>, port: u16) -> Result<CancellationToken, &'static str> {
        if self.reserved.contains(&port) {
            return Err("is reserved by the platform");
        }
        let addresses = self.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
        let sockets: io::Result<Vec<_>> = addresses.map(|address| bind(&self.sockets, address)).collect();
        let sockets = sockets.map_err(|error| {
            tracing::warn!(port, "a UDP port for apps stays closed: {error}");
            "cannot be opened on this host"
        })?;
        let closed = CancellationToken::new();
        for socket in sockets {
            context.tasks.spawn(door::serve(context.clone(), socket, port, closed.clone()));
        }
        Ok(closed)
    }
}

/// An inherited socket, if there is one, is set up already.
fn bind(sockets: &Sockets, address: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let socket = sockets.take_udp(address).map_or_else(|| open(address), Ok)?;
    Ok(sockets.in_use(UdpSocket::from_std(socket.into())?))
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    batch::tell_destination(&socket)?;
    // A smaller buffer works too.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.bind(&address.into())?;
    Ok(socket)
}
