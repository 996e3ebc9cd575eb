//! A public UDP port: what arrives finds its flow, or begins one.

use std::{collections::BTreeSet, io::ErrorKind::WouldBlock, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Batch, with_batch},
    choose::choose,
    flow::Flow,
    held::Held,
    scouts::Scouts,
    source::is_forged,
    table::{Answers, Key, Limits, Table},
};
use crate::{
    Refusal,
    context::Context,
    outlier::Standing,
    routing::{App, Candidate},
    wake::{self, Outlook},
    wish::Wish,
};

/// How often silent flows are looked for.
const SWEEP: Duration = Duration::from_secs(2);
/// How often what waits for a machine is looked after.
const RETRY: Duration = Duration::from_millis(25);

/// Carries the datagrams of a public port until the edge retires or the port is `closed`; its flows end with it.
pub async fn serve(context: Arc<Context>, socket: Arc<UdpSocket>, port: u16, closed: CancellationToken) {
    context.opened.cancelled().await;
    let bounds = &context.bounds;
    let limits = Limits {
        flows: bounds.flows_per_port,
        flows_per_source: bounds.flows_per_source,
        one_way: bounds.flow_one_way,
        both_ways: bounds.flow_both_ways,
    };
    let (flows, held) = (Table::new(limits), Held::new(bounds.flow_one_way));
    let mut door =
        Door { socket: socket.clone(), port, flows, held, scouts: Scouts::default(), context: context.clone() };
    let (mut sweep, mut retry) = (interval(SWEEP), interval(RETRY));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A port without flows wakes nobody: there may be thousands.
        let (has_flows, has_held) = (!door.flows.is_empty(), !door.held.is_empty());
        tokio::select! {
            _ = socket.readable() => door.receive(),
            _ = sweep.tick(), if has_flows => door.flows.sweep(Instant::now()),
            _ = retry.tick(), if has_held => door.retry(),
            () = closed.cancelled() => return,
            () = context.retiring.cancelled() => return,
        }
    }
}

struct Door {
    context: Arc<Context>,
    socket: Arc<UdpSocket>,
    port: u16,
    flows: Table<Flow>,
    held: Held,
    scouts: Scouts,
}

impl Door {
    /// Receives a batch and sends it on.
    fn receive(&mut self) {
        let socket = self.socket.clone();
        let received = socket.try_io(Interest::READABLE, || {
            with_batch(|batch| {
                batch.receive(&*socket)?;
                self.carry(batch);
                batch.end()
            })
        });
        if let Err(error) = received.or_else(|error| if error.kind() == WouldBlock { Ok(()) } else { Err(error) }) {
            tracing::debug!(port = self.port, "no datagrams for a moment: {error}");
        }
    }

    /// Sends each datagram into its flow; those that follow each other in one flow together.
    fn carry(&mut self, batch: &Batch) {
        let (arrived, now) = (batch.arrived(), Instant::now());
        let key = |place: usize| (arrived[place].from, arrived[place].to);
        let mut begin = 0;
        while begin < arrived.len() {
            let length = (begin..arrived.len()).take_while(|place| key(*place) == key(begin)).count();
            self.pass(key(begin), batch, begin..begin + length, now);
            begin += length;
        }
    }

    fn pass(&mut self, key: Key, batch: &Batch, which: Range<usize>, now: Instant) {
        if is_forged(&self.context, key.0) {
            return;
        }
        if !self.held.has_unsent(&key)
            && let Some(flow) = self.flows.find(&key, now)
            && flow.is_good()
            && !flow.is_uncertain(&self.context)
        {
            return flow.send(&self.context, batch, which, now);
        }
        for place in which {
            let has_unsent = self.held.has_unsent(&key);
            let passed = if has_unsent { Passed::Later } else { self.send(key, batch, place..place + 1, now) };
            let tried = match passed {
                Passed::Sent | Passed::Lost => continue,
                Passed::Tried => Some(now),
                Passed::Later => None,
            };
            let slot = self.context.flows.take();
            let is_kept = slot.is_some_and(|slot| self.held.keep(key, batch.at(place), tried, slot, now));
            // More than can wait: perhaps somebody listens.
            if let Some(flow) = self.flows.find(&key, now).filter(|_| !is_kept && tried.is_none()) {
                flow.send(&self.context, batch, place..place + 1, now);
            }
        }
    }

    /// Sends datagrams into their flow.
    fn send(&mut self, key: Key, batch: &Batch, which: Range<usize>, now: Instant) -> Passed {
        let is_good = self.flows.find(&key, now).map(Flow::is_good);
        if is_good == Some(false) {
            self.flows.remove(&key);
        }
        if is_good != Some(true) {
            match self.begin(key) {
                Begun::Flow(flow) => self.flows.insert(key, flow, now),
                Begun::Later => return Passed::Later,
                Begun::Not => return Passed::Lost,
            }
        }
        let Some(flow) = self.flows.find(&key, now) else { return Passed::Lost };
        let is_uncertain = flow.is_uncertain(&self.context);
        if is_uncertain && !self.scouts.may_go(flow.machine(), now) {
            return Passed::Later;
        }
        flow.send(&self.context, batch, which, now);
        if is_uncertain { Passed::Tried } else { Passed::Sent }
    }

    /// Looks after what waits for a machine.
    fn retry(&mut self) {
        let (now, mut refused) = (Instant::now(), BTreeSet::new());
        for mut waiting in self.held.take(now) {
            let key = waiting.key;
            if waiting.tried.is_some() {
                // One whose flow had to make room has had its chance.
                let Some(flow) = self.flows.find(&key, now) else { continue };
                if flow.was_refused() || !flow.is_good() {
                    refused.insert(key);
                    self.scouts.refused(flow.machine(), now);
                }
                if !refused.contains(&key) {
                    if flow.answered().is_none() && !waiting.is_taken(now) {
                        self.held.put_back(waiting);
                    } else {
                        self.scouts.taken(flow.machine());
                    }
                    continue;
                }
            }
            let passed = with_batch(|batch| {
                batch.hold(&waiting.datagram);
                self.send(key, batch, 0..1, now)
            });
            waiting.tried = match passed {
                Passed::Sent | Passed::Lost => continue,
                Passed::Tried => Some(now),
                Passed::Later => None,
            };
            self.held.put_back(waiting);
        }
        if self.held.is_empty() {
            self.scouts.forget();
        }
    }

    /// Begins a flow, if there is room and a machine.
    fn begin(&mut self, key: Key) -> Begun {
        if self.flows.make_room(&key).is_err() {
            tracing::debug!(client = %key.0, port = self.port, "a flow of datagrams is turned away: too many");
            return Begun::Not;
        }
        let context = &self.context;
        let routing = context.routing.load();
        let Some(app) = routing.snapshot.datagrams.get(&self.port).and_then(|app| routing.app(app.as_str())) else {
            return Begun::Not;
        };
        let ready = app.ready_for_datagrams(self.port);
        // Those that cannot be reached only if there are no others.
        let is_good = |candidate: &&Candidate| candidate.target.standing() == Standing::Good;
        let has_good = ready.iter().any(|candidate| is_good(&candidate));
        let able = || ready.iter().filter(|candidate| !has_good || is_good(candidate));
        let closest = able().map(|candidate| candidate.distance.place()).min();
        let close: Vec<_> = able().filter(|candidate| Some(candidate.distance.place()) == closest).collect();
        let client = SocketAddr::new(key.0.ip().to_canonical(), key.0.port());
        let Some(place) = choose(close.iter().map(|candidate| candidate.route.id.as_str()), client) else {
            return if self.is_waking_one(app) { Begun::Later } else { Begun::Not };
        };
        let flow = Flow::open(context, &self.socket, key, app.state.clone(), close[place].target.clone());
        flow.map_or(Begun::Not, Begun::Flow)
    }

    /// A datagram found no machine: one that sleeps is woken. Tells whether one is on its way up.
    fn is_waking_one(&self, app: &App) -> bool {
        let wish = Wish::default();
        let route = app.route.datagrams.get(&self.port);
        let refusal = match route.map(|route| wake::rouse(&self.context, app, route, &wish)) {
            Some(Outlook::Waking) => return true,
            Some(Outlook::Failed(refusal)) => refusal,
            Some(Outlook::Nobody) | None => Refusal::NoMachine {
                app: app.route.name.clone(),
                wanted: String::new(),
                machines: app.machines_in_words(),
            },
        };
        self.context.journal.refused(&app.state, &refusal, &format!("(datagram to port {})", self.port));
        false
    }
}

/// What became of datagrams.
enum Passed {
    /// They are under way.
    Sent,
    /// The same, but nobody may listen yet.
    Tried,
    /// Their machine is on its way up.
    Later,
    /// As networks lose some.
    Lost,
}

/// What became of a flow.
enum Begun {
    Flow(Flow),
    /// Its machine is on its way up.
    Later,
    /// There is no room, or no machine.
    Not,
}
