//! The catalog's picture joined with what the edge itself knows: the immutable value that a request reads.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use catalog::{AppRoute, MachineRoute, PortRoute, Snapshot, Standing};
use model::{AppName, MachineId, Region, Timestamp, machine::ConcurrencyKind};
use tokio::sync::Notify;

use crate::{
    geography,
    machine::{AppState, Machine, Target},
    replay::Quota,
    wish::Wish,
};

/// How long a machine that fails its checks, or is kept away from traffic, is still expected to come back.
const HOPE: Duration = Duration::from_secs(300);

/// What a request is routed by. Immutable.
#[derive(Default)]
pub struct Routing {
    /// The catalog's picture.
    pub snapshot: Arc<Snapshot>,
    apps: HashMap<AppName, Arc<App>>,
    machines: HashMap<MachineId, Arc<Machine>>,
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
    /// The place of its region among all, the closest first.
    pub region: u16,
    /// How near it is, lower is nearer.
    pub near: u8,
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
        self.apps.values()
    }

    /// A machine that the edge knows, whether or not the catalog still does.
    pub fn machine(&self, id: &MachineId) -> Option<&Arc<Machine>> {
        self.machines.get(id)
    }

    /// A machine of an app failed: it is held against it, in comparison with the others of its service.
    pub fn blame(&self, app: &AppName, failed: &Arc<Target>) {
        let ports = self.apps.get(app).map(|app| app.ready.values());
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

    /// Whether a machine that meets a wish may soon take traffic on a public port, though none does now.
    pub fn is_expected(&self, port: u16, wish: &Wish, now: Timestamp) -> bool {
        let Some(route) = self.port(port) else { return false };
        let fresh = |since: Timestamp| now.0.saturating_sub(since.0) < HOPE.as_millis() as u64;
        let wanted = |machine: &MachineRoute| wish.rank(&machine.id, &machine.region).is_some();
        route.backends.iter().filter(|backend| wanted(&backend.machine)).any(|backend| match backend.machine.standing {
            Standing::Ready | Standing::Coming => true,
            Standing::Failing { since } | Standing::Cordoned { since } => fresh(since),
            Standing::Away => false,
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

/// Live state by identity: it outlives every picture that shows it.
pub struct Registry {
    /// Where this edge runs.
    region: Region,
    /// The regions of the picture, the closest first.
    order: HashMap<Region, u16>,
    machines: HashMap<MachineId, Entry>,
    apps: HashMap<AppName, Shared>,
    /// How many replays are remembered in all.
    replays: Quota,
}

/// What the machines of an app share.
struct Shared {
    state: Arc<AppState>,
    /// Who waits for a place, by the port inside the guest.
    freed: BTreeMap<u16, Arc<Notify>>,
}

struct Entry {
    machine: Arc<Machine>,
    targets: BTreeMap<SocketAddr, Arc<Target>>,
}

impl Registry {
    /// Knows nothing yet, but where this edge runs.
    pub fn new(region: Region) -> Self {
        Self {
            region,
            order: HashMap::new(),
            machines: HashMap::new(),
            apps: HashMap::new(),
            replays: Quota::default(),
        }
    }

    /// Joins a picture with the live state. Machines that are no longer ready are closed before this returns.
    pub fn join(&mut self, snapshot: Arc<Snapshot>) -> Routing {
        self.close_and_open(&snapshot);
        self.forget(&snapshot);
        self.order = order(&self.region, &snapshot);
        let apps = snapshot.apps.values().map(|route| (route.name.clone(), Arc::new(self.app(route)))).collect();
        let machines = self.machines.iter().map(|(id, entry)| (id.clone(), entry.machine.clone())).collect();
        Routing { snapshot, apps, machines }
    }

    fn close_and_open(&mut self, snapshot: &Snapshot) {
        let ready: HashMap<&MachineId, bool> =
            snapshot.machines().map(|machine| (&machine.id, machine.is_ready())).collect();
        for (id, entry) in &self.machines {
            if !ready.get(id).copied().unwrap_or(false) && entry.machine.close() {
                entry.targets.values().for_each(|target| target.pool.clear());
            }
        }
        for (id, _) in ready.into_iter().filter(|(_, ready)| *ready) {
            self.entry(id).machine.open();
        }
    }

    /// Forgets what is gone and has nothing under way.
    fn forget(&mut self, snapshot: &Snapshot) {
        let known: HashMap<&MachineId, ()> = snapshot.machines().map(|machine| (&machine.id, ())).collect();
        self.machines.retain(|id, entry| known.contains_key(id) || entry.machine.under_way() > 0);
        self.apps.retain(|name, shared| snapshot.apps.contains_key(name) || Arc::strong_count(&shared.state) > 1);
    }

    fn entry(&mut self, id: &MachineId) -> &mut Entry {
        self.machines
            .entry(id.clone())
            .or_insert_with(|| Entry { machine: Arc::new(Machine::new(id.clone())), targets: BTreeMap::new() })
    }

    fn app(&mut self, route: &Arc<AppRoute>) -> App {
        let name = route.name.clone();
        let (shared, quota) = (self.apps.entry(name.clone()), self.replays.clone());
        let new = || Shared { state: Arc::new(AppState::new(name, quota)), freed: BTreeMap::new() };
        let state = shared.or_insert_with(new).state.clone();
        let ready = self.each_ready(&route.name, &route.ports);
        // A datagram keeps its port, so each port has its own targets.
        let datagrams = route.datagrams.iter();
        let datagrams =
            datagrams.map(|(port, offered)| (*port, Arc::new(self.ready(&route.name, offered, Some(*port)))));
        let ready_for_datagrams = datagrams.collect();
        App { route: route.clone(), state, ready, ready_for_datagrams }
    }

    /// The machines behind each port. The ports of a range share them.
    fn each_ready(
        &mut self,
        app: &AppName,
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
    fn ready(&mut self, app: &AppName, port: &PortRoute, at: Option<u16>) -> Vec<Candidate> {
        let ready = port.backends.iter().filter(|backend| backend.machine.is_ready());
        let candidates = ready.map(|backend| Candidate {
            route: backend.machine.clone(),
            region: self.order.get(&backend.machine.region).copied().unwrap_or(u16::MAX),
            near: 0,
            target: self.target(app, &backend.machine, at.unwrap_or(backend.internal_port)),
            h2: backend.h2,
            reuse: backend.counts == ConcurrencyKind::Requests,
            soft_limit: backend.soft_limit,
            hard_limit: backend.hard_limit,
        });
        candidates.collect()
    }

    fn target(&mut self, app: &AppName, machine: &MachineRoute, port: u16) -> Arc<Target> {
        let shared = self.apps.get_mut(app).map(|shared| shared.freed.entry(port).or_default().clone());
        let freed = shared.unwrap_or_default();
        let address = SocketAddr::new(IpAddr::V4(machine.host_local), port);
        let entry = self.entry(&machine.id);
        let target = entry.targets.entry(address);
        target.or_insert_with(|| Arc::new(Target::new(entry.machine.clone(), address, freed))).clone()
    }
}

/// The regions of a picture, the closest first.
fn order(from: &Region, snapshot: &Snapshot) -> HashMap<Region, u16> {
    let regions: BTreeSet<&Region> = snapshot.machines().map(|machine| &machine.region).collect();
    let mut regions: Vec<&Region> = regions.into_iter().collect();
    regions.sort_by_key(|region| geography::guess(from, region));
    regions.into_iter().cloned().zip(0..).collect()
}
