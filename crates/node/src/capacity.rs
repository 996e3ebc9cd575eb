//! How much memory this host still has for machines. Whoever runs holds a reservation; nothing is promised twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use model::MachineId;

/// Memory that stays with the host: an eighth, and at least this.
const HOST_SHARE_MB: u64 = 256;
const NOT_POISONED: &str = "nothing panics while it holds the reservations";

/// The memory of a host in MiB, and who holds how much of it.
#[derive(Debug)]
pub struct Capacity {
    machines_mb: u64,
    held: Mutex<BTreeMap<MachineId, u64>>,
}

/// A machine's claim on the host's memory. Dropping it gives the memory back.
#[derive(Debug)]
pub struct Reservation {
    capacity: Arc<Capacity>,
    machine: MachineId,
}

impl Capacity {
    /// The capacity of this host.
    pub fn of_host() -> Arc<Self> {
        let info = rustix::system::sysinfo();
        let total_mb = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20;
        Self::new(total_mb - (total_mb / 8).max(HOST_SHARE_MB).min(total_mb))
    }

    fn new(machines_mb: u64) -> Arc<Self> {
        Arc::new(Self { machines_mb, held: Mutex::default() })
    }

    /// Reserves memory for a machine; a reservation that it has already changes its size.
    ///
    /// # Errors
    /// There is not enough; the text says what to do.
    pub fn reserve(self: &Arc<Self>, machine: &MachineId, mb: u64) -> Result<Reservation, String> {
        self.check(machine, mb)?;
        Ok(self.hold(machine, mb))
    }

    /// Whether a machine could reserve so much now.
    ///
    /// # Errors
    /// There is not enough; the text says what to do.
    pub fn check(&self, machine: &MachineId, mb: u64) -> Result<(), String> {
        let held = self.held.lock().expect(NOT_POISONED);
        let others: u64 = held.iter().filter(|(id, _)| *id != machine).map(|(_, mb)| mb).sum();
        let free = self.machines_mb.saturating_sub(others);
        if mb <= free {
            return Ok(());
        }
        Err(format!(
            "the machine needs {mb} MB of memory with its virtual machine monitor, and this host has {free} MB of {} MB \
             left for machines; stop or destroy others, or give this one less memory",
            self.machines_mb
        ))
    }

    /// Reserves memory for a machine that runs already.
    pub fn hold(self: &Arc<Self>, machine: &MachineId, mb: u64) -> Reservation {
        self.held.lock().expect(NOT_POISONED).insert(machine.clone(), mb);
        Reservation { capacity: Arc::clone(self), machine: machine.clone() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.capacity.held.lock().expect(NOT_POISONED).remove(&self.machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_promised_once_and_comes_back() {
        let capacity = Capacity::new(1000);
        let (one, two) = (MachineId::from_random([1; 7]), MachineId::from_random([2; 7]));
        let first = capacity.reserve(&one, 600).unwrap();
        let refused = capacity.reserve(&two, 600).unwrap_err();
        assert!(refused.contains("600 MB") && refused.contains("400 MB") && refused.contains("stop or destroy"));
        assert!(capacity.check(&one, 1000).is_ok(), "its own share is free for itself");
        drop(first);
        capacity.reserve(&two, 600).unwrap();
    }
}
