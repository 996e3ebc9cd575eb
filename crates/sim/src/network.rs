//! A run: the plan, and what happens one event after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::Duration,
};

use catalog::{MachineRoute, Publisher, RowChange, Snapshot, Standing};
use edge::geography;
use model::{
    InstanceId, MachineId, NetworkId, Region, Timestamp,
    machine::{Concurrency, ConcurrencyKind, Handler, MachineState, Port, Service},
};
use tokio::time::Instant;

use crate::{
    Fault, Outcome, Random, Report, Served, Trouble,
    edges::{APP, Edge, PORT},
    events::Events,
    report::Ended,
    workers::{Machine, Word, service_time},
};

/// How often machines are checked.
const CHECK: Duration = Duration::from_secs(1);
/// How long a request waits before it is tried again, where there is nobody to try.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it waits in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a machine is kept from traffic before it is stopped in a rolling restart, and how long it is then away.
const DRAIN: Duration = Duration::from_secs(2);

/// What a network consists of, and what happens to it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Regions, each with an edge, a worker and clients. The catalog is made in the first.
    pub regions: Vec<&'static str>,
    /// Machines in each.
    pub machines: usize,
    /// Above it, others of a region are preferred.
    pub soft_limit: u32,
    /// Never more than this under way to a machine.
    pub hard_limit: u32,
    /// Requests a second in each region.
    pub per_second: f64,
    /// The same in the region of a fault while more come than its machines take below their soft limit.
    pub busy_per_second: f64,
    /// The same while more come than its machines take at all.
    pub surge_per_second: f64,
    /// What goes wrong.
    pub fault: Fault,
    /// How long clients send requests.
    pub lasts: Duration,
}

impl Plan {
    /// Five regions around the world, and a fault.
    pub fn around_the_world(fault: Fault) -> Self {
        Self {
            regions: vec!["fra", "ams", "iad", "sin", "syd"],
            machines: 3,
            soft_limit: 4,
            hard_limit: 20,
            per_second: 40.0,
            busy_per_second: 250.0,
            surge_per_second: 750.0,
            fault,
            lasts: Duration::from_secs(80),
        }
    }
}

/// A network under way.
pub struct Network {
    plan: Plan,
    random: Random,
    events: Events<Event>,
    regions: Vec<Region>,
    edges: Vec<Edge>,
    machines: Vec<Machine>,
    /// Machines that are kept from traffic.
    cordoned: BTreeSet<usize>,
    /// How often each machine has died: what it had taken before that is lost.
    lives: Vec<u32>,
    catalog: Publisher,
    requests: BTreeMap<usize, Request>,
    report: Report,
}

/// A request under way.
#[derive(Debug)]
struct Request {
    edge: usize,
    came: Duration,
    tried: Vec<MachineId>,
    bounced: u32,
    failed: u32,
}

#[derive(Debug)]
enum Event {
    /// A client sends a request to an edge.
    Arrive(usize),
    /// An edge looks for a machine.
    Choose(usize),
    /// A request reaches the worker of a machine.
    Reach {
        request: usize,
        machine: usize,
    },
    /// A machine is done with a request, if it still lives the life in which it took it.
    Done {
        request: usize,
        machine: usize,
        life: u32,
    },
    /// The edge hears what became of it.
    Back {
        request: usize,
        machine: usize,
        word: Word,
    },
    /// An edge hears of a picture.
    Hear {
        edge: usize,
        picture: Arc<Snapshot>,
    },
    /// Machines are checked.
    Check,
    /// A fault begins or ends.
    Fault,
    /// A machine is kept from traffic, stops, and comes back.
    Cordon(usize),
    Stop(usize),
    Return(usize),
}

impl Network {
    /// Carries out a plan with the chances of a seed.
    pub fn run(plan: Plan, seed: u64) -> Report {
        let mut network = Self::new(plan, seed);
        network.begin();
        while let Some(event) = network.events.pop() {
            network.happen(event);
        }
        network.report
    }

    fn new(plan: Plan, seed: u64) -> Self {
        let regions: Vec<Region> = plan.regions.iter().map(|name| name.parse().expect("a region's name")).collect();
        let began = Instant::now();
        let all = (0..regions.len() * plan.machines).map(|number| Machine::new(number, number / plan.machines));
        Self {
            random: Random::new(seed),
            events: Events::new(),
            edges: regions.iter().map(|region| Edge::new(region.clone(), began)).collect(),
            lives: vec![0; regions.len() * plan.machines],
            machines: all.collect(),
            cordoned: BTreeSet::new(),
            catalog: Publisher::in_memory(),
            requests: BTreeMap::new(),
            report: Report::default(),
            regions,
            plan,
        }
    }

    fn begin(&mut self) {
        self.events.after(Duration::ZERO, Event::Check);
        for edge in 0..self.edges.len() {
            self.events.after(Duration::from_secs(1), Event::Arrive(edge));
        }
        let Fault { trouble, region, from, until } = self.plan.fault;
        self.events.after(from, Event::Fault);
        self.events.after(until, Event::Fault);
        if trouble == Trouble::RollingRestart {
            let step = (until - from) / self.plan.machines as u32;
            for (number, machine) in self.of_region(region).enumerate() {
                let at = from + step * number as u32;
                self.events.after(at, Event::Cordon(machine));
                self.events.after(at + DRAIN, Event::Stop(machine));
                self.events.after(at + DRAIN + step / 4, Event::Return(machine));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(edge) => self.arrive(edge),
            Event::Choose(request) => self.choose(request),
            Event::Reach { request, machine } => self.reach(request, machine),
            Event::Done { request, machine, life } => self.done(request, machine, life),
            Event::Back { request, machine, word } => self.back(request, machine, word),
            Event::Hear { edge, picture } => self.edges[edge].hear(picture, self.events.now()),
            Event::Check => self.check(),
            Event::Fault => self.fault(),
            Event::Cordon(machine) => self.cordon(machine),
            Event::Stop(machine) => self.stop(machine),
            Event::Return(machine) => self.come_back(machine),
        }
    }

    fn arrive(&mut self, edge: usize) {
        let number = self.report.came;
        self.report.came += 1;
        let came = self.events.now();
        self.requests.insert(number, Request { edge, came, tried: Vec::new(), bounced: 0, failed: 0 });
        self.events.after(Duration::ZERO, Event::Choose(number));
        let gap = self.random.gap_s(self.rate(edge));
        if came < self.plan.lasts {
            self.events.after(Duration::from_secs_f64(gap), Event::Arrive(edge));
        }
    }

    fn rate(&self, edge: usize) -> f64 {
        let on = self.is_on(edge);
        match self.plan.fault.trouble {
            Trouble::Busy if on => self.plan.busy_per_second,
            Trouble::Surge if on => self.plan.surge_per_second,
            _ => self.plan.per_second,
        }
    }

    fn is_on(&self, region: usize) -> bool {
        self.plan.fault.region == region && self.plan.fault.is_on(self.events.now())
    }

    fn choose(&mut self, number: usize) {
        let (now, random) = (self.events.now(), self.random.two());
        let request = &self.requests[&number];
        if now - request.came > PATIENCE {
            return self.end(number, Outcome::Refused);
        }
        let Ok(id) = self.edges[request.edge].choose(&request.tried, random, now) else {
            return self.events.after(PAUSE, Event::Choose(number));
        };
        if request.tried.contains(&id) {
            self.requests.get_mut(&number).expect("it is under way").tried.clear();
            return self.events.after(PAUSE, Event::Choose(number));
        }
        let edge = request.edge;
        let machine = self.machines.iter().position(|machine| machine.id == id).expect("the catalog knows real ones");
        self.check_that_nearer_ones_are_out(number, machine);
        self.edges[edge].begins(&id);
        let way = self.way(edge, self.machines[machine].region);
        self.events.after(way, Event::Reach { request: number, machine });
    }

    /// The rule that matters: a request leaves for a region only if none in a nearer one is good, has room as far as the
    /// edge knows, and has not turned it away.
    fn check_that_nearer_ones_are_out(&mut self, number: usize, chosen: usize) {
        let (request, now) = (&self.requests[&number], self.events.now());
        let here = &self.regions[request.edge];
        let place =
            |region: usize| geography::place(geography::guess(here, &self.regions[region]), &self.regions[region]);
        let chosen = place(self.machines[chosen].region);
        let nearer = self.machines.iter().filter(|machine| place(machine.region) < chosen);
        let passed_over = nearer.filter(|machine| !request.tried.contains(&machine.id));
        let edge = &self.edges[request.edge];
        for machine in passed_over.filter(|machine| edge.finds_good(&machine.id, now)) {
            self.report.broken.push(format!("{now:?}: request {number} passed by {} in a nearer region", machine.id));
        }
    }

    fn reach(&mut self, request: usize, machine: usize) {
        let region = self.machines[machine].region;
        let cut_off = self.plan.fault.trouble == Trouble::WorkerCutOff && self.is_on(region);
        let target = &mut self.machines[machine];
        let word = if cut_off { Word::Failed } else { target.ask(self.plan.hard_limit) };
        self.report.most_under_way = self.report.most_under_way.max(target.under_way);
        if word == Word::Taken {
            let life = self.lives[machine];
            let takes = service_time(self.random.unit());
            return self.events.after(takes, Event::Done { request, machine, life });
        }
        self.answer(request, machine, word);
    }

    fn done(&mut self, request: usize, machine: usize, life: u32) {
        let lives = self.lives[machine] == life;
        if lives {
            self.machines[machine].done();
        }
        self.answer(request, machine, if lives { Word::Taken } else { Word::Failed });
    }

    fn answer(&mut self, request: usize, machine: usize, word: Word) {
        let way = self.way(self.requests[&request].edge, self.machines[machine].region);
        self.events.after(way, Event::Back { request, machine, word });
    }

    fn back(&mut self, number: usize, machine: usize, word: Word) {
        let now = self.events.now();
        let request = self.requests.get_mut(&number).expect("it is under way");
        let (edge, id) = (&mut self.edges[request.edge], self.machines[machine].id.clone());
        edge.ends(&id);
        match word {
            Word::Taken => {
                edge.worked(&id, now);
                let region = self.machines[machine].region;
                let served = Served { region, bounced: request.bounced, failed: request.failed };
                return self.end(number, Outcome::Served(served));
            }
            Word::Bounced => request.bounced += 1,
            Word::Failed => {
                edge.failed(&id, now);
                request.failed += 1;
            }
        }
        request.tried.push(id);
        self.events.after(Duration::ZERO, Event::Choose(number));
    }

    fn end(&mut self, number: usize, outcome: Outcome) {
        let Some(request) = self.requests.remove(&number) else { return };
        let (edge, came, ended) = (request.edge, request.came, self.events.now());
        self.report.ended.push(Ended { edge, came, ended, outcome });
    }

    /// Looks at every machine and tells the edges what has changed.
    fn check(&mut self) {
        self.tell();
        if self.events.now() < self.plan.lasts {
            self.events.after(CHECK, Event::Check);
        }
    }

    fn tell(&mut self) {
        let before = self.catalog.reader().load();
        let rows: Vec<RowChange> = (0..self.machines.len()).map(|it| RowChange::Put(Box::new(self.row(it)))).collect();
        self.catalog.change(before.generation + 1, rows);
        let picture = self.catalog.reader().load();
        let news = picture.apps.changes(&before.apps).next().is_some();
        let silent = self.plan.fault.trouble == Trouble::CatalogSilent && self.plan.fault.is_on(self.events.now());
        if news && !silent {
            self.spread(&picture);
        }
    }

    fn spread(&mut self, picture: &Arc<Snapshot>) {
        for edge in 0..self.edges.len() {
            self.events.after(self.way(0, edge), Event::Hear { edge, picture: picture.clone() });
        }
    }

    fn fault(&mut self) {
        let Fault { trouble, region, .. } = self.plan.fault;
        let on = self.is_on(region);
        match trouble {
            Trouble::RegionDies => {
                self.of_region(region).for_each(|it| if on { self.stop(it) } else { self.come_back(it) })
            }
            Trouble::MachineFlaky => self.machines[region * self.plan.machines].flaky = on,
            // What is kept from edges is that a machine far from all of this has gone and come.
            Trouble::CatalogSilent if on => self.stop(region * self.plan.machines),
            Trouble::CatalogSilent => {
                self.come_back(region * self.plan.machines);
                let picture = self.catalog.reader().load();
                self.spread(&picture);
            }
            _ => {}
        }
    }

    fn cordon(&mut self, machine: usize) {
        self.cordoned.insert(machine);
        self.tell();
    }

    fn stop(&mut self, machine: usize) {
        let target = &mut self.machines[machine];
        (target.alive, target.under_way) = (false, 0);
        self.lives[machine] += 1;
    }

    fn come_back(&mut self, machine: usize) {
        self.machines[machine].alive = true;
        self.cordoned.remove(&machine);
    }

    fn of_region(&self, region: usize) -> std::ops::Range<usize> {
        region * self.plan.machines..(region + 1) * self.plan.machines
    }

    /// How long it takes from one region to another.
    fn way(&self, from: usize, to: usize) -> Duration {
        geography::guess(&self.regions[from], &self.regions[to]) / 2
    }

    /// What the catalog is told of a machine.
    fn row(&self, number: usize) -> MachineRoute {
        let (machine, network) = (&self.machines[number], NetworkId(1));
        let standing = match machine.alive {
            true if self.cordoned.contains(&number) => Standing::Cordoned { since: Timestamp(0) },
            true => Standing::Ready,
            false => Standing::Coming,
        };
        MachineRoute {
            id: machine.id.clone(),
            app: APP.parse().expect("a name"),
            org: "personal".parse().expect("a name"),
            network,
            region: self.regions[machine.region].clone(),
            version: InstanceId::new(1, [0; 10]),
            state: MachineState::Started,
            standing,
            host_local: Ipv4Addr::new(10, 0, machine.region as u8, number as u8 + 1),
            worker: None,
            private: network.machine_address(&machine.id),
            metadata: Arc::default(),
            services: Arc::new(vec![self.service()]),
            statics: Vec::new(),
            created_at: Timestamp(number as u64),
        }
    }

    fn service(&self) -> Service {
        let (soft_limit, hard_limit) = (Some(self.plan.soft_limit), Some(self.plan.hard_limit));
        let kind = ConcurrencyKind::Requests;
        Service {
            internal_port: 8080,
            ports: vec![Port { port: Some(PORT), handlers: vec![Handler::Http], ..Port::default() }],
            concurrency: Concurrency { kind, soft_limit, hard_limit, ..Concurrency::default() },
            ..Service::default()
        }
    }
}
