//! The catalog's picture joined with what the edge itself knows: the immutable value that a request reads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use catalog::{AppRoute, Change, MachineRoute, Named, PortRoute, Snapshot, Standing, Table};
use model::{AppName, MachineId, Timestamp, machine::ConcurrencyKind};

use crate::{
    distance::{Distance, Distances},
    machine::{AppState, Machine, Target},
    replay::Quota,
    warmup::Warmth,
    wish::Wish,
    worker::Hops,
};

/// How long a machine that fails its checks, or is kept away from traffic, is still expected to come back.
const HOPE: Duration = Duration::from_secs(300);

/// What a request is routed by. Immutable; a clone shares everything.
#[derive(Clone, Default)]
pub struct Routing {
    /// The catalog's picture.
    pub snapshot: Arc<Snapshot>,
    apps: Table<App>,
    machines: Table<Machine>,
}

/// An app with its live state.
pub struct App {
    /// What the catalog says of it.
    pub route: Arc<AppRoute>,
    /// What its requests share.
    pub state: Arc<AppState>,
    ready: BTreeMap<u16, Arc<Vec<Candidate>>>,
    ready_for_datagrams: BTreeMap<u16, Arc<Vec<Candidate>>>,
}

/// A ready machine behind a public port.
pub struct Candidate {
    /// What the catalog says of it.
    pub route: Arc<MachineRoute>,
    /// How far its region is.
    pub distance: Arc<Distance>,
    /// Where it is dialed.
    pub target: Arc<Target>,
    /// Speak HTTP/2 with prior knowledge to it.
    pub h2: bool,
    /// Connections to it may be used for one request after another.
    pub reuse: bool,
    /// Above it, others are preferred.
    pub soft_limit: u32,
    /// Never more than this at a time.
    pub hard_limit: Option<u32>,
}

impl Routing {
    /// An app by name.
    pub fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    /// Every app, in no order.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.iter()
    }

    /// A machine that the edge knows, whether or not the catalog still does.
    pub fn machine(&self, id: &MachineId) -> Option<&Arc<Machine>> {
        self.machines.get(id.as_str())
    }

    /// A machine of an app failed: it is held against it, in comparison with the others of its service.
    pub fn blame(&self, app: &AppName, failed: &Arc<Target>) {
        let ports = self.apps.get(app.as_str()).map(|app| app.ready.values());
        let service = ports.and_then(|mut ports| {
            ports.find(|candidates| candidates.iter().any(|candidate| Arc::ptr_eq(&candidate.target, failed)))
        });
        let others = service.into_iter().flat_map(|ready| ready.iter()).map(|candidate| &candidate.target);
        let others = others.filter(|other| !Arc::ptr_eq(other, failed));
        failed.failed(&others.map(|other| other.tally()).collect::<Vec<_>>());
    }
}

impl App {
    /// What the app offers on a public port.
    pub fn port(&self, port: u16) -> Option<&PortRoute> {
        self.route.ports.get(&port).map(|route| &**route)
    }

    /// The machines that take traffic on a public port.
    pub fn ready(&self, port: u16) -> &[Candidate] {
        self.ready.get(&port).map_or(&[], |ready| ready.as_slice())
    }

    /// The machines that take datagrams on a public UDP port.
    pub fn ready_for_datagrams(&self, port: u16) -> &[Candidate] {
        self.ready_for_datagrams.get(&port).map_or(&[], |ready| ready.as_slice())
    }

    /// A public port by which a machine is reached at this port inside the guest.
    pub fn public_port(&self, machine: &MachineId, internal_port: u16) -> Option<u16> {
        leading_to(&self.route.ports, machine, internal_port)
    }

    /// The same for datagrams.
    pub fn public_datagram_port(&self, machine: &MachineId, internal_port: u16) -> Option<u16> {
        leading_to(&self.route.datagrams, machine, internal_port)
    }

    /// Whether a machine that meets a wish may soon take traffic on a public port, though none does now.
    pub fn is_expected(&self, port: u16, wish: &Wish, now: Timestamp) -> bool {
        let Some(route) = self.port(port) else { return false };
        let fresh = |since: Timestamp| now.0.saturating_sub(since.0) < HOPE.as_millis() as u64;
        let wanted = |machine: &MachineRoute| wish.rank(&machine.id, &machine.region).is_some();
        route.backends.iter().filter(|backend| wanted(&backend.machine)).any(|backend| match backend.machine.standing {
            Standing::Ready | Standing::Coming => true,
            Standing::Failing { since } | Standing::Cordoned { since } => fresh(since),
            Standing::Asleep | Standing::Away => false,
        })
    }

    /// Its machines by state, in words: `1 starting, 2 stopped`.
    pub fn machines_in_words(&self) -> String {
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for machine in &self.route.machines {
            *states.entry(in_words(machine)).or_default() += 1;
        }
        let words: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
        words.join(", ")
    }
}

fn in_words(machine: &MachineRoute) -> String {
    match machine.standing {
        Standing::Failing { .. } => "failing its checks".into(),
        Standing::Cordoned { .. } => "cordoned".into(),
        _ => machine.state.to_string(),
    }
}

impl Named for App {
    fn name(&self) -> &str {
        self.route.name.as_str()
    }
}

impl Named for Machine {
    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// Live state by identity: it outlives every picture that shows it.
pub struct Registry {
    /// How far regions are.
    distances: Arc<Distances>,
    /// What was joined last.
    routing: Routing,
    /// Machines that the catalog no longer knows, but that had something under way.
    leaving: BTreeSet<MachineId>,
    /// Apps that the catalog no longer knows, but that something was under way for.
    parted: HashMap<AppName, Arc<AppState>>,
    /// Machines that are ready have become so just now, not before this edge began to follow.
    warmth: Warmth,
    /// How many replays are remembered in all.
    replays: Quota,
    /// Machines that have become ready since somebody asked.
    opened: Vec<Arc<MachineRoute>>,
    hops: Arc<Hops>,
}

impl Registry {
    /// Knows no machine yet.
    pub fn new(distances: Arc<Distances>, hops: Arc<Hops>) -> Self {
        Self {
            distances,
            routing: Routing::default(),
            leaving: BTreeSet::new(),
            parted: HashMap::new(),
            warmth: Warmth::Warm,
            replays: Quota::default(),
            opened: Vec::new(),
            hops,
        }
    }

    /// Joins a picture with the live state. It costs what differs from the picture before. Machines that are no longer
    /// ready are closed before this returns.
    pub fn join(&mut self, snapshot: Arc<Snapshot>) -> Routing {
        self.forget();
        let before = std::mem::replace(&mut self.routing.snapshot, snapshot.clone());
        // A machine that changes its app goes before it comes.
        for change in snapshot.apps.changes(&before.apps) {
            match change {
                Change::Came(_) => {}
                Change::Became { before, now } => self.part(&before, &now.machines),
                Change::Went(app) => {
                    self.part(&app, &[]);
                    if let Some(app) = self.routing.apps.remove(app.name.as_str()) {
                        self.parted.insert(app.route.name.clone(), app.state.clone());
                    }
                }
            }
        }
        for change in snapshot.apps.changes(&before.apps) {
            if let Change::Came(app) | Change::Became { now: app, .. } = change {
                self.take(&app);
            }
        }
        self.warmth = Warmth::Cold;
        self.routing.clone()
    }

    /// The machines that have become ready since this was asked last.
    pub fn opened(&mut self) -> Vec<Arc<MachineRoute>> {
        std::mem::take(&mut self.opened)
    }

    /// Forgets what is gone and has nothing under way any more.
    fn forget(&mut self) {
        let machines = &mut self.routing.machines;
        self.leaving.retain(|id| {
            let busy = machines.get(id.as_str()).is_some_and(|machine| machine.under_way() > 0);
            if !busy {
                machines.remove(id.as_str());
            }
            busy
        });
        self.parted.retain(|_, state| Arc::strong_count(state) > 1);
    }

    /// Lets go of the machines of an app that are not among those that stay.
    fn part(&mut self, app: &AppRoute, stay: &[Arc<MachineRoute>]) {
        let stay: BTreeSet<&MachineId> = stay.iter().map(|machine| &machine.id).collect();
        for gone in app.machines.iter().filter(|machine| !stay.contains(&machine.id)) {
            let Some(machine) = self.routing.machines.get(gone.id.as_str()) else { continue };
            machine.close();
            if machine.under_way() > 0 {
                self.leaving.insert(gone.id.clone());
            } else {
                self.routing.machines.remove(gone.id.as_str());
            }
        }
    }

    /// Takes in an app as it now is.
    fn take(&mut self, route: &Arc<AppRoute>) {
        for machine in &route.machines {
            self.leaving.remove(&machine.id);
            let live = self.machine(&machine.id);
            if !machine.is_ready() {
                live.close();
            } else if live.open(self.warmth) {
                self.opened.push(machine.clone());
            }
        }
        let name = &route.name;
        let known = self.routing.apps.get(name.as_str()).map(|app| app.state.clone());
        let state = known.or_else(|| self.parted.remove(name));
        let state = state.unwrap_or_else(|| Arc::new(AppState::new(name.clone(), self.replays.clone())));
        let ready = self.each_ready(&state, &route.ports);
        // A datagram keeps its port, so each port has its own targets.
        let datagrams = route.datagrams.iter();
        let datagrams = datagrams.map(|(port, offered)| (*port, Arc::new(self.ready(&state, offered, Some(*port)))));
        let ready_for_datagrams = datagrams.collect();
        self.routing.apps.insert(Arc::new(App { route: route.clone(), state, ready, ready_for_datagrams }));
    }

    fn machine(&mut self, id: &MachineId) -> Arc<Machine> {
        if let Some(known) = self.routing.machines.get(id.as_str()) {
            return known.clone();
        }
        let new = Arc::new(Machine::new(id.clone()));
        self.routing.machines.insert(new.clone());
        new
    }

    /// The machines behind each port. The ports of a range share them.
    fn each_ready(
        &mut self,
        app: &AppState,
        ports: &BTreeMap<u16, Arc<PortRoute>>,
    ) -> BTreeMap<u16, Arc<Vec<Candidate>>> {
        let mut last: Option<(&Arc<PortRoute>, Arc<Vec<Candidate>>)> = None;
        let ready = ports.iter().map(|(port, offered)| {
            let same = last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, offered)).map(|(_, ready)| ready.clone());
            let ready = same.unwrap_or_else(|| Arc::new(self.ready(app, offered, None)));
            last = Some((offered, ready.clone()));
            (*port, ready)
        });
        ready.collect()
    }

    /// The machines behind a port, dialed at the service's internal port, or at another one.
    fn ready(&mut self, app: &AppState, port: &PortRoute, at: Option<u16>) -> Vec<Candidate> {
        let ready = port.backends.iter().filter(|backend| backend.machine.is_ready());
        let ready: Vec<_> = ready.collect();
        let candidates = ready.into_iter().map(|backend| Candidate {
            route: backend.machine.clone(),
            distance: self.distances.to(&backend.machine.region),
            target: self.target(app, &backend.machine, at.unwrap_or(backend.internal_port)),
            h2: backend.h2,
            reuse: backend.counts == ConcurrencyKind::Requests,
            soft_limit: backend.soft_limit,
            hard_limit: backend.hard_limit,
        });
        candidates.collect()
    }

    fn target(&mut self, app: &AppState, machine: &MachineRoute, port: u16) -> Arc<Target> {
        let address = SocketAddr::new(IpAddr::V4(machine.host_local), port);
        let live = self.machine(&machine.id);
        let hop = self.hops.to(machine);
        live.target(address, hop.as_ref(), || Target::new(live.clone(), address, hop.clone(), app.freed(port)))
    }
}

/// Which of these ports leads to this port of a machine.
fn leading_to(ports: &BTreeMap<u16, Arc<PortRoute>>, machine: &MachineId, internal_port: u16) -> Option<u16> {
    let leads_there = |port: &PortRoute| {
        port.backends.iter().any(|it| it.machine.id == *machine && it.internal_port == internal_port)
    };
    ports.iter().find(|(_, port)| leads_there(port)).map(|(port, _)| *port)
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
