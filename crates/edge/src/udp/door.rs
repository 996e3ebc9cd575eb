//! A public UDP port: what arrives finds its flow, or begins one.

use std::{io::ErrorKind::WouldBlock, net::SocketAddr, ops::Range, sync::Arc, time::Duration};

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
    source::is_forged,
    table::{Key, Limits, Table},
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
    let mut door = Door { socket: socket.clone(), port, flows: Table::new(limits), context: context.clone() };
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // A port without flows wakes nobody: there may be thousands.
        let has_flows = !door.flows.is_empty();
        tokio::select! {
            _ = socket.readable() => door.receive(),
            _ = sweep.tick(), if has_flows => door.flows.sweep(Instant::now()),
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
        let is_good = self.flows.find(&key, now).map(Flow::is_good);
        if is_good == Some(false) {
            self.flows.remove(&key);
        }
        if is_good != Some(true) {
            let Some(flow) = self.begin(key) else { return };
            self.flows.insert(key, flow, now);
        }
        if let Some(flow) = self.flows.find(&key, now) {
            flow.send(&self.context, batch, which, now);
        }
    }

    /// Begins a flow, if there is room and a machine.
    fn begin(&mut self, key: Key) -> Option<Flow> {
        if self.flows.make_room(&key).is_err() {
            tracing::debug!(client = %key.0, port = self.port, "a flow of datagrams is turned away: too many");
            return None;
        }
        let context = &self.context;
        let routing = context.routing.load();
        let app = routing.app(routing.snapshot.datagrams.get(&self.port)?.as_str())?;
        let ready = app.ready_for_datagrams(self.port);
        // Those that cannot be reached only if there are no others.
        let is_good = |candidate: &&Candidate| candidate.target.standing() == Standing::Good;
        let has_good = ready.iter().any(|candidate| is_good(&candidate));
        let able = || ready.iter().filter(|candidate| !has_good || is_good(candidate));
        let closest = able().map(|candidate| candidate.distance.place()).min();
        let close: Vec<_> = able().filter(|candidate| Some(candidate.distance.place()) == closest).collect();
        let client = SocketAddr::new(key.0.ip().to_canonical(), key.0.port());
        let Some(place) = choose(close.iter().map(|candidate| candidate.route.id.as_str()), client) else {
            self.nobody_for(app);
            return None;
        };
        Flow::open(context, &self.socket, key, app.state.clone(), close[place].target.clone())
    }

    /// A datagram found no machine: one that sleeps is woken. The datagram is lost, as networks lose some, and its client
    /// sends it again.
    fn nobody_for(&self, app: &App) {
        let wish = Wish::default();
        let route = app.route.datagrams.get(&self.port);
        let refusal = match route.map(|route| wake::rouse(&self.context, app, route, &wish)) {
            Some(Outlook::Waking) => return,
            Some(Outlook::Failed(refusal)) => refusal,
            Some(Outlook::Nobody) | None => Refusal::NoMachine {
                app: app.route.name.clone(),
                wanted: String::new(),
                machines: app.machines_in_words(),
            },
        };
        self.context.journal.refused(&app.state, &refusal, &format!("(datagram to port {})", self.port));
    }
}
