//! One awake machine's own timer, which puts it to sleep when it is not needed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::internal::{Idleness, Nap};
use catalog::MachineRoute;
use model::{MachineId, machine::SleepRule};
use tokio::time::{Instant, sleep_until};

use super::idle::{Load, Peer, Spare, spare};
use crate::{
    context::Context,
    machine::{AppState, Machine},
    routing::{App, Candidate},
};

/// How soon at the earliest a machine is looked at again that could not be put to sleep.
const AT_LEAST: Duration = Duration::from_secs(1);

/// The machines of an app that are falling asleep: nobody counts on them any more.
#[derive(Default)]
pub struct Falling(Mutex<BTreeSet<MachineId>>);

/// A machine that is falling asleep. Dropping it ends that.
struct Claim {
    app: Arc<AppState>,
    machine: MachineId,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.app.falling.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.machine);
    }
}

/// Watches a machine that has just become ready, if it may sleep at all, until it is no longer ready.
pub fn watch(context: &Arc<Context>, route: &Arc<MachineRoute>) {
    let Some(rule) = SleepRule::of(&route.services) else { return };
    // Another host's machines are put to sleep there.
    if context.hops.worker(route).is_some() {
        return;
    }
    let Some(machine) = context.routing.load().machine(&route.id).cloned() else { return };
    machine.drowsy();
    let after = rule.after.unwrap_or(context.bounds.sleep_after);
    let epoch = machine.epoch();
    let watch = Watch { context: context.clone(), route: route.clone(), machine, epoch, rule, after };
    // A process that retires leaves this to the one that takes over.
    let retiring = context.retiring.token().clone();
    context.tasks.spawn(async move {
        retiring.run_until_cancelled(watch.run()).await;
    });
}

struct Watch {
    context: Arc<Context>,
    route: Arc<MachineRoute>,
    machine: Arc<Machine>,
    /// The life of the machine that is watched.
    epoch: u64,
    rule: SleepRule,
    after: Duration,
}

impl Watch {
    async fn run(self) {
        let mut not_before = Instant::now() + self.after;
        loop {
            sleep_until(self.due(not_before)).await;
            if !self.is_alive() {
                return;
            }
            let now = Instant::now();
            if now < self.due(not_before) {
                continue;
            }
            not_before = match self.put_to_sleep(now).await {
                Ok(()) => return,
                Err(pause) => Instant::now() + pause.max(AT_LEAST),
            };
        }
    }

    fn is_alive(&self) -> bool {
        self.machine.is_open() && self.machine.epoch() == self.epoch
    }

    /// When to look next: as soon as it has had nothing to do for long enough, else now and then.
    fn due(&self, not_before: Instant) -> Instant {
        self.machine.idle_since().map_or(not_before, |since| not_before.max(since + self.after))
    }

    /// Puts it to sleep if it is not needed; else, when to look again.
    async fn put_to_sleep(&self, now: Instant) -> Result<(), Duration> {
        let routing = self.context.routing.load_full();
        let (Some(app), Some(waker)) = (routing.app(self.route.app.as_str()), self.context.waker()) else {
            return Err(self.after);
        };
        let Some((claim, spare)) = self.claim(app, now) else { return Err(self.after) };
        let idleness = match spare {
            Spare::Idle => Idleness::Idle(self.after),
            Spare::Excess => Idleness::Spare(self.after),
        };
        match waker.sleep(&self.route.id, self.rule.how, idleness).await {
            Ok(Nap::Asleep) => {
                self.until_closed().await;
                drop(claim);
                Ok(())
            }
            // It may say sooner that it has done.
            Ok(Nap::Busy(left)) => Err(left.min(self.after)),
            Ok(Nap::Disturbed) => Err(self.after),
            Err(error) => {
                tracing::warn!(machine = %self.route.id, "a machine with nothing to do could not be put to sleep: {error}");
                Err(self.after)
            }
        }
    }

    /// Whether it is not needed. If so, nobody else counts on it while the claim lives.
    fn claim(&self, app: &App, now: Instant) -> Option<(Claim, Spare)> {
        let idle = self.machine.idle_since().is_some_and(|since| since + self.after <= now);
        let mut falling = app.state.falling.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (others, loads) = self.loads(app, &falling);
        let spare = spare(idle, others, self.rule.least_awake, &loads)?;
        falling.insert(self.route.id.clone());
        Some((Claim { app: app.state.clone(), machine: self.route.id.clone() }, spare))
    }

    /// How many others of its process group are awake in its region, and what each of its services had to do.
    fn loads(&self, app: &App, falling: &BTreeSet<MachineId>) -> (usize, Vec<Load>) {
        let (mut others, mut loads) = (BTreeSet::new(), Vec::new());
        let mut last: Option<*const Candidate> = None;
        let counts = |it: &&Candidate| self.is_other(it) && !falling.contains(&it.route.id);
        for port in app.route.ports.keys() {
            let ready = app.ready(*port);
            // The ports of a range share their machines.
            if last.replace(ready.as_ptr()) == Some(ready.as_ptr()) {
                continue;
            }
            let Some(me) = ready.iter().find(|it| it.route.id == self.route.id) else { continue };
            let peers: Vec<&Candidate> = ready.iter().filter(counts).collect();
            others.extend(peers.iter().map(|it| it.route.id.clone()));
            let peer = |it: &&Candidate| Peer { peak: it.target.peak(), soft_limit: it.soft_limit };
            loads.push(Load { mine: me.target.next_peak(), others: peers.iter().map(peer).collect() });
        }
        for port in app.route.datagrams.keys() {
            // How much a flow of datagrams asks of a machine is not known, so none fits elsewhere.
            loads.push(Load { mine: u32::MAX, others: Vec::new() });
            others.extend(app.ready_for_datagrams(*port).iter().filter(counts).map(|it| it.route.id.clone()));
        }
        (others.len(), loads)
    }

    /// Whether it is another machine that can do the same here.
    fn is_other(&self, candidate: &Candidate) -> bool {
        let (me, other) = (&self.route, &candidate.route);
        let group = |route: &MachineRoute| route.metadata.get("fly_process_group").cloned();
        me.id != other.id && me.region == other.region && group(me) == group(other)
    }

    /// Waits until the picture no longer shows it awake.
    async fn until_closed(&self) {
        let mut pictures = self.context.routed.subscribe();
        loop {
            pictures.mark_unchanged();
            if !self.is_alive() || pictures.changed().await.is_err() {
                return;
            }
        }
    }
}
