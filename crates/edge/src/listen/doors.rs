//! The ports that apps ask for: opened and closed as the catalog says. Connections that were accepted go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use catalog::Snapshot;
use tokio_util::sync::CancellationToken;

use super::{accept, bind};
use crate::{context::Context, routing::Routing};

/// The open ports.
pub struct Doors {
    addresses: Vec<IpAddr>,
    reserved: BTreeSet<u16>,
    open: Mutex<BTreeMap<u16, CancellationToken>>,
    /// Ports whose trouble has been told.
    told: Mutex<BTreeSet<u16>>,
}

impl Doors {
    /// No port yet; ports will be opened on these addresses, but never a reserved one.
    pub fn new(addresses: Vec<IpAddr>, reserved: BTreeSet<u16>) -> Self {
        Self { addresses, reserved, open: Mutex::default(), told: Mutex::default() }
    }

    /// The ports that are open.
    pub fn open_ports(&self) -> Vec<u16> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Opens and closes ports so that they are those of the picture. Tells whether some could not be opened.
    pub fn follow(&self, context: &Arc<Context>, routing: &Routing) -> bool {
        let snapshot = &routing.snapshot;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|port, closed| {
            let stays = snapshot.doors.contains_key(port);
            if !stays {
                closed.cancel();
            }
            stays
        });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|port| snapshot.doors.contains_key(port));
        let mut complete = true;
        for port in snapshot.doors.keys().filter(|port| !open.contains_key(port)).copied().collect::<Vec<_>>() {
            match self.open(context, port) {
                Ok(closed) => {
                    open.insert(port, closed);
                    told.remove(&port);
                }
                Err(reason) => {
                    complete = false;
                    if told.insert(port) {
                        tell(context, routing, port, &reason);
                    }
                }
            }
        }
        complete
    }

    fn open(&self, context: &Arc<Context>, port: u16) -> Result<CancellationToken, String> {
        if self.reserved.contains(&port) {
            return Err(format!("port {port} is reserved by the platform; choose another port"));
        }
        let addresses = self.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
        let listeners: Result<Vec<_>, _> = addresses.map(|address| bind(address, "http")).collect();
        let closed = CancellationToken::new();
        for listener in listeners.map_err(|error| format!("port {port} cannot be opened on this host: {error}"))? {
            context.tasks.spawn(accept(context.clone(), listener, port, closed.clone()));
        }
        Ok(closed)
    }
}

/// Tells the apps that have a port why it stays closed.
fn tell(context: &Context, routing: &Routing, port: u16, reason: &str) {
    tracing::warn!(port, "{reason}");
    for name in apps_with(&routing.snapshot, port) {
        if let Some(app) = routing.app(&name) {
            context.journal.note(&app.state, format!("[PL03] {reason}"));
        }
    }
}

fn apps_with(snapshot: &Snapshot, port: u16) -> Vec<String> {
    let apps = snapshot.apps.values().filter(|app| app.ports.contains_key(&port));
    apps.map(|app| app.name.to_string()).collect()
}
