//! What goes wrong, and when.

use std::time::Duration;

use crate::Random;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// All machines of a region die at once, and come back.
    RegionDies,
    /// Nobody outside reaches the worker of a region, and nobody inside does, though its machines run.
    WorkerCutOff,
    /// One machine of a region refuses every other connection.
    MachineFlaky,
    /// The machines of a region are replaced, one after the other.
    RollingRestart,
    /// More requests come in a region than its machines take at their hard limit.
    Surge,
    /// More come than its machines take below their soft limit, but fewer than at their hard limit.
    Busy,
    /// Edges hear nothing new of the catalog.
    CatalogSilent,
}

/// Something goes wrong in a region, for a while.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What.
    pub trouble: Trouble,
    /// Where: the place of the region in the plan.
    pub region: usize,
    /// From when.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
}

impl Fault {
    /// The fault that a seed draws.
    pub fn drawn(random: &mut Random, regions: usize) -> Self {
        use Trouble as T;
        const ALL: [Trouble; 7] =
            [T::RegionDies, T::WorkerCutOff, T::MachineFlaky, T::RollingRestart, T::Surge, T::Busy, T::CatalogSilent];
        let from = Duration::from_secs(20 + random.below(10) as u64);
        let lasts = Duration::from_secs(10 + random.below(10) as u64);
        Self { trouble: ALL[random.below(ALL.len())], region: random.below(regions), from, until: from + lasts }
    }

    /// Whether it is going on.
    pub fn is_on(&self, now: Duration) -> bool {
        (self.from..self.until).contains(&now)
    }
}
