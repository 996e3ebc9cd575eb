//! What an edge knows, and how it chooses.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use catalog::{Backend, Snapshot};
use edge::{
    geography,
    outlier::{self, Health, Standing},
    pick::{self, Pick},
    warmup,
};
use model::{MachineId, Region};
use tokio::time::Instant;

/// The app that all requests are for, and its public port.
pub const APP: &str = "shop";
/// The public port.
pub const PORT: u16 = 80;

/// An edge.
#[derive(Debug)]
pub struct Edge {
    region: Region,
    /// The picture it routes by.
    picture: Arc<Snapshot>,
    machines: BTreeMap<MachineId, Known>,
    /// The moment that all times are counted from.
    began: Instant,
}

/// What it knows of a machine beside the picture.
#[derive(Debug, Default)]
struct Known {
    under_way: u32,
    health: Health,
    ready: bool,
    /// Since when, if it has become ready while the edge looked.
    warming_since: Option<Duration>,
}

impl Edge {
    /// An edge that has heard nothing yet.
    pub fn new(region: Region, began: Instant) -> Self {
        Self { region, picture: Arc::default(), machines: BTreeMap::new(), began }
    }

    /// Hears of a newer picture.
    pub fn hear(&mut self, picture: Arc<Snapshot>, now: Duration) {
        let first = self.picture.apps.is_empty();
        self.picture = picture;
        for machine in self.picture.machines() {
            let known = self.machines.entry(machine.id.clone()).or_default();
            if machine.is_ready() && !known.ready {
                known.warming_since = (!first).then_some(now);
            }
            known.ready = machine.is_ready();
        }
    }

    /// The machine that takes a request which has tried these.
    pub fn choose(&self, tried: &[MachineId], random: [u32; 2], now: Duration) -> Result<MachineId, Pick> {
        let backends = self.ready();
        let candidates: Vec<_> = backends.iter().map(|backend| self.candidate(backend, tried, now)).collect();
        match pick::pick(&candidates, random) {
            Pick::Machine(index) => Ok(backends[index].machine.id.clone()),
            nobody => Err(nobody),
        }
    }

    /// A request goes to a machine.
    pub fn begins(&mut self, machine: &MachineId) {
        self.known(machine).under_way += 1;
    }

    /// A request that went to a machine has come back.
    pub fn ends(&mut self, machine: &MachineId) {
        self.known(machine).under_way -= 1;
    }

    /// A machine has answered.
    pub fn worked(&mut self, machine: &MachineId, now: Duration) {
        let now = self.began + now;
        self.known(machine).health.worked(now);
    }

    /// A machine has failed: it is held against it, in comparison with the others.
    pub fn failed(&mut self, machine: &MachineId, now: Duration) {
        let now = self.began + now;
        let others = self.ready().into_iter().map(|backend| backend.machine.id.clone()).filter(|id| id != machine);
        let others: Vec<_> = others.filter_map(|id| Some(self.machines.get(&id)?.health.tally(now))).collect();
        let health = &mut self.known(machine).health;
        health.failed(now);
        if outlier::is_outlier(health.tally(now), &others) {
            health.stands_out(now);
        }
    }

    /// Whether, as far as the edge knows, a machine is as good as any and has room.
    pub fn finds_good(&self, machine: &MachineId, now: Duration) -> bool {
        let backend = self.ready().into_iter().find(|backend| backend.machine.id == *machine).cloned();
        let Some(known) = self.machines.get(machine) else { return false };
        let good = known.health.standing(self.began + now) == Standing::Good;
        backend.is_some_and(|it| good && it.hard_limit.is_none_or(|limit| known.under_way < limit))
    }

    fn ready(&self) -> Vec<&Backend> {
        let port = self.picture.app(APP).and_then(|app| app.ports.get(&PORT));
        port.into_iter().flat_map(|port| &port.backends).filter(|backend| backend.machine.is_ready()).collect()
    }

    fn candidate(&self, backend: &Backend, tried: &[MachineId], now: Duration) -> pick::Candidate {
        let machine = &backend.machine;
        let known = self.machines.get(&machine.id);
        let warming_since = known.and_then(|known| known.warming_since);
        pick::Candidate {
            wished: Some(1),
            region: geography::place(geography::guess(&self.region, &machine.region), &machine.region),
            near: 0,
            load: known.map_or(0, |known| known.under_way),
            share: warming_since.map_or(warmup::WHOLE, |since| warmup::share(now - since)),
            soft_limit: backend.soft_limit,
            hard_limit: backend.hard_limit,
            standing: known.map_or(Standing::Good, |known| known.health.standing(self.began + now)),
            tried: tried.contains(&machine.id),
        }
    }

    fn known(&mut self, machine: &MachineId) -> &mut Known {
        self.machines.entry(machine.clone()).or_default()
    }
}
