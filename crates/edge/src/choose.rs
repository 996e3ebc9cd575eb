//! Waiting for a machine.
//!
//! ```text
//!            ┌──────────── the picture changed, a place became free ◀───┐
//!            ▼                                                          │
//!  request ─▶ pick ── a machine with room ─▶ lease                      │
//!              ├───── all at their hard limit ─▶ queue (bounded) ───────┤─ too long ─▶ PL01
//!              ├───── none ready, one on its way up ─▶ hold (bounded) ──┤─ too long ─▶ PR04
//!              ├───── none ready, one sleeps ─▶ wake it, hold ──────────┘─ none can be woken ─▶ PM01, PM03, PM08
//!              └───── none ready, none expected ─▶ PR01 at once
//! ```
//!
//! Holding is what makes the redeploy of an app of one machine lose nothing. Where all awake machines are above their soft
//! limits or at their hard ones, one more is woken beside.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use catalog::MachineRoute;
use model::{AppName, MachineId, Timestamp};
use tokio::time::{Instant, timeout_at};

use crate::{
    Refusal,
    context::Context,
    machine::{AppState, Lease},
    pick::{self, Pick},
    routing::{App, Candidate, Routing},
    wake::{self, Outlook},
    wish::Wish,
};

/// A machine that was chosen, with a place on it.
pub struct Chosen {
    /// The place. It is given free when this is dropped.
    pub lease: Lease,
    /// What the catalog says of the machine.
    pub route: Arc<MachineRoute>,
    /// Speak HTTP/2 with prior knowledge to it.
    pub h2: bool,
    /// Connections to it may be used for one request after another.
    pub reuse: bool,
    /// No other machine would do.
    pub only: bool,
    /// When the connection has to be there.
    pub reach_by: Option<Instant>,
}

impl Chosen {
    /// This one, whatever others there are.
    pub fn of(candidate: &Candidate, lease: Lease) -> Self {
        let Candidate { route, h2, reuse, .. } = candidate;
        Self { lease, route: route.clone(), h2: *h2, reuse: *reuse, only: true, reach_by: None }
    }
}

/// A request's way to a machine: what it has tried and since when it waits.
pub struct Search<'a> {
    context: &'a Arc<Context>,
    app: &'a AppName,
    port: u16,
    /// The app as it was seen a moment ago.
    seen: Option<&'a Arc<App>>,
    wish: Wish,
    reach_by: Option<Instant>,
    /// When waiting began, if it did.
    began: Option<Instant>,
    tried: BTreeSet<MachineId>,
    attempts: u32,
}

/// How often at most a request is tried.
const MAX_ATTEMPTS: u32 = 90;
/// How often each machine is tried that is up and refuses all the same.
const ROUNDS_WHEN_UP: u32 = 3;
/// The first pause before machines are tried again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(400));

impl<'a> Search<'a> {
    /// A search for a machine of an app that has this public port.
    pub fn new(context: &'a Arc<Context>, app: &'a AppName, port: u16) -> Self {
        let (wish, tried) = (Wish::default(), BTreeSet::new());
        Self { context, app, port, seen: None, wish, reach_by: None, began: None, tried, attempts: 0 }
    }

    /// Begins with the picture of the app that was seen a moment ago.
    pub fn seen(mut self, app: &'a Arc<App>) -> Self {
        self.seen = Some(app);
        self
    }

    /// Looks for what a request wants.
    pub fn wishing(mut self, wish: Wish) -> Self {
        self.wish = wish;
        self
    }

    /// Looks for it no longer than this.
    pub fn reach_by(mut self, reach_by: Option<Instant>) -> Self {
        self.reach_by = reach_by;
        self
    }

    /// A machine with room, waiting for one as long as the bounds allow.
    pub async fn next(&mut self) -> Result<Chosen, Refusal> {
        // Most of the time there is nothing to wait for.
        let attempt = match self.seen.take() {
            Some(app) => self.try_now(app),
            None => self.try_now(self.known(&self.context.routing.load())?),
        };
        if let Attempt::Chosen(chosen) = attempt {
            return Ok(chosen);
        }
        let began = self.began();
        let mut changes = self.context.routed.subscribe();
        let mut held: Option<Held> = None;
        loop {
            changes.mark_unchanged();
            let routing = self.context.routing.load_full();
            let app = self.known(&routing)?;
            let place =
                app.ready(self.port).first().map(|candidate| candidate.target.freed.clone()).unwrap_or_default();
            let mut freed = std::pin::pin!(place.notified());
            freed.as_mut().enable();
            let mut stirred = std::pin::pin!(app.state.stirred.notified());
            stirred.as_mut().enable();
            let wait = match self.try_now(app) {
                Attempt::Chosen(chosen) => return Ok(chosen),
                Attempt::Full => self.context.bounds.queue,
                Attempt::Closed => self.context.bounds.hold,
                Attempt::Nobody => self.hope(app)?,
            };
            if held.is_none() {
                held = Some(Held::new(&app.state, self.context.bounds.held_per_app)?);
            }
            let news = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = freed => {}
                    () = stirred => {}
                }
            };
            let enough = began + wait;
            let until = self.reach_by.map_or(enough, |reach_by| reach_by.min(enough));
            if timeout_at(until, news).await.is_err() {
                return Err(if until < enough { self.late() } else { self.waited(app) });
            }
        }
    }

    /// An attempt failed before anything was sent: whether to go on with [`Self::next`], after a pause where there is
    /// nobody else to try.
    pub async fn failed(&mut self, lease: &Lease, cause: Refusal) -> Result<(), Refusal> {
        let began = self.began();
        self.context.routing.load().blame(self.app, &lease.target);
        self.attempts += 1;
        let machine = &lease.target.machine;
        self.tried.insert(machine.id.clone());
        if !self.all_tried() && self.attempts < MAX_ATTEMPTS {
            return Ok(());
        }
        if self.reach_by.is_some_and(|reach_by| reach_by <= Instant::now()) {
            return Err(self.late());
        }
        let starting = machine.ready_for() < self.context.bounds.startup_grace;
        let enough = if starting { MAX_ATTEMPTS } else { ROUNDS_WHEN_UP * self.tried.len() as u32 };
        if self.attempts >= enough.min(MAX_ATTEMPTS) || began.elapsed() >= self.context.bounds.hold {
            return Err(self.exhausted(cause));
        }
        let doublings = (self.attempts - self.tried.len() as u32).min(8);
        let pause = Instant::now() + PAUSE.0.saturating_mul(1 << doublings).min(PAUSE.1);
        tokio::time::sleep_until(self.reach_by.map_or(pause, |reach_by| reach_by.min(pause))).await;
        Ok(())
    }

    /// An attempt failed that must not be made again.
    pub fn given_up(&self, lease: &Lease, cause: Refusal) -> Refusal {
        if cause.machine().is_some() {
            self.context.routing.load().blame(self.app, &lease.target);
        }
        cause
    }

    fn known<'r>(&self, routing: &'r Routing) -> Result<&'r Arc<App>, Refusal> {
        let app = routing.app(self.app.as_str());
        let machines = || "it has just lost its last one".into();
        let gone = || Refusal::NoMachine { app: self.app.clone(), wanted: String::new(), machines: machines() };
        app.ok_or_else(gone)
    }

    /// How long to wait for a machine where none takes traffic.
    fn hope(&self, app: &App) -> Result<Duration, Refusal> {
        let route = app.port(self.port);
        let outlook = route.map_or(Outlook::Nobody, |route| wake::rouse(self.context, app, route, &self.wish));
        match outlook {
            Outlook::Waking => Ok(self.context.bounds.hold),
            _ if app.is_expected(self.port, &self.wish, Timestamp(kit::clock::unix_ms())) => {
                Ok(self.context.bounds.hold)
            }
            Outlook::Failed(refusal) => Err(refusal),
            Outlook::Nobody => Err(self.hopeless(app)),
        }
    }

    /// Wakes one more machine, as far as the app has one that sleeps, where the best that is awake is busy.
    fn reinforce(&self, app: &App, best: &Candidate) {
        if let Some(route) = app.port(self.port) {
            wake::reinforce(self.context, app, route, &self.wish, &best.route.region);
        }
    }

    fn try_now(&self, app: &App) -> Attempt {
        let ready = app.ready(self.port);
        // Read once: loads change while the choice is made.
        let candidates = ready.iter().map(|candidate| pick::Candidate {
            wished: self.wish.rank(&candidate.route.id, &candidate.route.region),
            region: candidate.distance.place(),
            near: candidate.target.hop.as_ref().map_or(0, |hop| hop.near()),
            load: candidate.target.load(),
            share: candidate.target.machine.share(),
            soft_limit: candidate.soft_limit,
            hard_limit: candidate.hard_limit,
            standing: candidate.target.standing(),
            tried: self.tried.contains(&candidate.target.machine.id),
        });
        let candidates: Vec<_> = candidates.collect();
        match pick::pick(&candidates, random()) {
            Pick::Nobody => Attempt::Nobody,
            Pick::Full => {
                let wanted = ready.iter().zip(&candidates).filter(|(_, seen)| seen.wished.is_some());
                wanted.min_by_key(|(_, seen)| seen.region).iter().for_each(|(best, _)| self.reinforce(app, best));
                Attempt::Full
            }
            Pick::Machine(index) => {
                let candidate = &ready[index];
                if candidates[index].load >= candidate.soft_limit {
                    self.reinforce(app, candidate);
                }
                let lease = candidate.target.lease(candidate.hard_limit);
                lease.map_or(Attempt::Closed, |lease| {
                    // Once all have refused, the next one is the only one that is left.
                    let only = candidates.iter().all(|it| it.wished.is_none() || it.tried)
                        || candidates.iter().filter(|it| it.wished.is_some()).count() == 1;
                    Attempt::Chosen(Chosen { only, reach_by: self.reach_by, ..Chosen::of(candidate, lease) })
                })
            }
        }
    }

    fn all_tried(&self) -> bool {
        let routing = self.context.routing.load();
        let ready = routing.app(self.app.as_str()).map(|app| app.ready(self.port)).unwrap_or_default();
        let mut wanted = ready.iter().filter(|it| self.wish.rank(&it.route.id, &it.route.region).is_some());
        wanted.all(|candidate| self.tried.contains(&candidate.route.id))
    }

    fn hopeless(&self, app: &App) -> Refusal {
        let wanted = self.wish.to_string();
        Refusal::NoMachine { app: self.app.clone(), wanted, machines: app.machines_in_words() }
    }

    /// Since when it waits. Most requests never do, and do not ask the clock.
    fn began(&mut self) -> Instant {
        *self.began.get_or_insert_with(Instant::now)
    }

    fn waited_for(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }

    fn waited(&self, app: &App) -> Refusal {
        let (name, waited) = (self.app.clone(), self.waited_for());
        let wanted = |it: &Candidate| self.wish.rank(&it.route.id, &it.route.region).is_some();
        if !app.ready(self.port).iter().any(wanted) {
            return Refusal::NotReady { app: name, waited, machines: app.machines_in_words() };
        }
        Refusal::Full { app: name, waited }
    }

    /// The order that sent the request here gave it less time.
    fn late(&self) -> Refusal {
        Refusal::ReplayTimeout { app: self.app.clone(), waited: self.waited_for() }
    }

    fn exhausted(&self, cause: Refusal) -> Refusal {
        if self.tried.len() < 2 {
            return cause;
        }
        Refusal::Exhausted { attempts: self.attempts, last: Box::new(cause) }
    }
}

/// What one look at the picture came to.
enum Attempt {
    Chosen(Chosen),
    /// All are at their hard limit.
    Full,
    /// The chosen one was closed or filled a moment ago: the picture is about to change.
    Closed,
    /// None is ready.
    Nobody,
}

/// One that waits. Their number is bounded per app.
struct Held(Arc<AppState>);

impl Held {
    fn new(app: &Arc<AppState>, bound: usize) -> Result<Self, Refusal> {
        let held = Self(app.clone());
        if app.held.fetch_add(1, SeqCst) >= bound {
            return Err(Refusal::TooManyWaiting { app: app.name.clone() });
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
    }
}

/// Two independent numbers for the draw.
fn random() -> [u32; 2] {
    use std::{cell::Cell, num::Wrapping};
    thread_local! {
        static STATE: Cell<u64> = Cell::new(u64::from_le_bytes(kit::random::bytes()));
    }
    // SplitMix64 (Steele, Lea, Flood 2014): fair enough to spread load, and no secret depends on it.
    let mut z = STATE.with(|state| {
        let next = Wrapping(state.get()) + Wrapping(0x9e37_79b9_7f4a_7c15);
        state.set(next.0);
        next
    });
    z = (z ^ (z >> 30)) * Wrapping(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)) * Wrapping(0x94d0_49bb_1331_11eb);
    let z = (z ^ (z >> 31)).0;
    [z as u32, (z >> 32) as u32]
}
