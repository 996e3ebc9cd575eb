//! The ways to all workers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use catalog::{MachineRoute, Worker};
use model::HostId;

use super::{Backhaul, Credentials, Hop};

/// The ways to other hosts, kept as long as they are used, so that all that goes to one host goes one way.
pub struct Hops {
    here: Option<HostId>,
    credentials: Arc<Credentials>,
    ways: Mutex<BTreeMap<Arc<Worker>, Weak<Hop>>>,
}

impl Hops {
    /// None yet.
    pub fn new(backhaul: &Backhaul) -> Self {
        Self { here: backhaul.host.clone(), credentials: backhaul.credentials.clone(), ways: Mutex::default() }
    }

    /// The way to a machine's host; nothing if that is this one, or has no door.
    pub fn to(&self, machine: &MachineRoute) -> Option<Arc<Hop>> {
        let worker = self.worker(machine)?;
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ways.get(worker).and_then(Weak::upgrade) {
            return Some(known);
        }
        ways.retain(|_, hop| hop.strong_count() > 0);
        let hop = Arc::new(Hop::new(worker.clone(), self.credentials.clone()));
        ways.insert(worker.clone(), Arc::downgrade(&hop));
        Some(hop)
    }

    /// By whom a machine is reached that is not on this host.
    pub fn worker<'m>(&self, machine: &'m MachineRoute) -> Option<&'m Arc<Worker>> {
        machine.worker.as_ref().filter(|worker| self.here.as_ref() != Some(&worker.host))
    }
}
