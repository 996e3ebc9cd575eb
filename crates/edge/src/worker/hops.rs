//! The ways to all workers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use catalog::{MachineRoute, Worker};
use model::HostId;
use tokio::sync::Notify;

use super::{Backhaul, Credentials, Hop};

/// The ways to other hosts, kept as long as they are used, so that all that goes to one host goes one way.
pub struct Hops {
    here: Option<HostId>,
    credentials: Arc<Credentials>,
    ways: Mutex<BTreeMap<Arc<Worker>, Weak<Hop>>>,
    /// There is one more.
    pub came: Notify,
}

impl Hops {
    /// None yet.
    pub fn new(backhaul: &Backhaul) -> Self {
        Self {
            here: backhaul.host.clone(),
            credentials: backhaul.credentials.clone(),
            ways: Mutex::default(),
            came: Notify::new(),
        }
    }

    /// The way to a machine's host; nothing if that is this one, or has no door.
    pub fn to(&self, machine: &MachineRoute) -> Option<Arc<Hop>> {
        let worker = self.worker(machine)?;
        let mut ways = self.ways();
        if let Some(known) = ways.get(worker).and_then(Weak::upgrade) {
            return Some(known);
        }
        ways.retain(|_, hop| hop.strong_count() > 0);
        let hop = Arc::new(Hop::new(worker.clone(), machine.region.clone(), self.credentials.clone()));
        ways.insert(worker.clone(), Arc::downgrade(&hop));
        self.came.notify_one();
        Some(hop)
    }

    /// Those that are used.
    pub fn all(&self) -> Vec<Arc<Hop>> {
        self.ways().values().filter_map(Weak::upgrade).collect()
    }

    /// By whom a machine is reached that is not on this host.
    pub fn worker<'m>(&self, machine: &'m MachineRoute) -> Option<&'m Arc<Worker>> {
        machine.worker.as_ref().filter(|worker| self.here.as_ref() != Some(&worker.host))
    }

    fn ways(&self) -> MutexGuard<'_, BTreeMap<Arc<Worker>, Weak<Hop>>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
