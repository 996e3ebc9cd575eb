//! What the edge itself knows of a machine: what is under way to it, and whether more may begin.
//!
//! A request first counts itself ([`Target::lease`]) and then looks whether the machine is open; whoever closes a machine
//! first closes it and then looks at the count. So once a machine is closed and its count is zero, nothing is under way
//! to it and nothing can begin.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use model::{AppName, MachineId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{
    account::{AppMetrics, MachineMetrics},
    journal::Allowance,
    outlier::{self, Health, Standing, Tally},
    replay::{Quota, ReplayCache},
    upstream::Pool,
    wake::{Drowsy, Falling},
    warmup::{self, Warmth},
    worker::Hop,
};

/// A machine.
pub struct Machine {
    /// Which.
    pub id: MachineId,
    open: AtomicBool,
    /// Grows each time it is closed: what belongs to an earlier life is not used again.
    epoch: AtomicU64,
    under_way: AtomicUsize,
    settled: Notify,
    /// Made for the first connection that asks: most machines have none.
    closing: OnceLock<watch::Sender<bool>>,
    ready_since: Mutex<Instant>,
    /// It has become ready a moment ago, so that `ready_since` has to be looked at.
    warming: AtomicBool,
    /// Its ports, as long as something is under way to them or may begin.
    targets: Mutex<Vec<Weak<Target>>>,
    /// For the sake of its sleep, where it sleeps at all.
    drowsy: OnceLock<Box<Drowsy>>,
    metrics: OnceLock<Box<MachineMetrics>>,
}

impl Machine {
    /// A machine that takes nothing yet.
    pub fn new(id: MachineId) -> Self {
        Self {
            id,
            open: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            settled: Notify::new(),
            closing: OnceLock::new(),
            ready_since: Mutex::new(Instant::now()),
            warming: AtomicBool::new(false),
            targets: Mutex::default(),
            drowsy: OnceLock::new(),
            metrics: OnceLock::new(),
        }
    }

    /// What is counted of it. A machine without traffic costs nothing.
    pub fn metrics(&self) -> &MachineMetrics {
        self.metrics.get_or_init(Box::default)
    }

    /// What has been counted of it, if anything was.
    pub fn counted(&self) -> Option<&MachineMetrics> {
        self.metrics.get().map(|metrics| &**metrics)
    }

    /// Lets traffic begin. Tells whether it was closed.
    pub fn open(&self, warmth: Warmth) -> bool {
        let was_closed = !self.open.load(SeqCst);
        if was_closed {
            *self.ready_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.warming.store(warmth == Warmth::Cold, Relaxed);
            if let Some(closing) = self.closing.get() {
                closing.send_replace(false);
            }
            if let Some(drowsy) = self.drowsy.get() {
                drowsy.open();
            }
            self.open.store(true, SeqCst);
        }
        was_closed
    }

    /// Lets nothing more begin, and gives up connections that lie idle.
    pub fn close(&self) {
        if self.open.swap(false, SeqCst) {
            self.epoch.fetch_add(1, SeqCst);
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets.iter().filter_map(Weak::upgrade).for_each(|target| target.pool.clear());
        }
    }

    /// What is known for the sake of its sleep; from now on it is kept.
    pub fn drowsy(&self) -> &Drowsy {
        self.drowsy.get_or_init(Box::default)
    }

    /// Since when nothing has been under way to it; `None` if something is.
    pub fn idle_since(&self) -> Option<Instant> {
        (self.under_way() == 0).then(|| self.drowsy().used())
    }

    /// It is used at this moment.
    pub fn use_at(&self, now: impl FnOnce() -> Instant) {
        if let Some(drowsy) = self.drowsy.get() {
            drowsy.use_at(now());
        }
    }

    /// How much of its share of requests it gets, in percent.
    pub fn share(&self) -> u8 {
        if !self.warming.load(Relaxed) {
            return warmup::WHOLE;
        }
        let ready_since = *self.ready_since.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::from(kit::clock::lately());
        let share = warmup::share(now.saturating_duration_since(ready_since));
        self.warming.store(share < warmup::WHOLE, Relaxed);
        share
    }

    /// The port at this address, reached this way; made if there is none.
    pub fn target(&self, address: SocketAddr, hop: Option<&Arc<Hop>>, make: impl FnOnce() -> Target) -> Arc<Target> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let door = hop.map(|hop| &hop.worker);
        let is_same = |it: &Arc<Target>| it.address == address && it.hop.as_ref().map(|hop| &hop.worker) == door;
        if let Some(known) = targets.iter().filter_map(Weak::upgrade).find(is_same) {
            return known;
        }
        targets.retain(|target| target.strong_count() > 0);
        let new = Arc::new(make());
        targets.push(Arc::downgrade(&new));
        new
    }

    /// Whether traffic may begin.
    pub fn is_open(&self) -> bool {
        self.open.load(SeqCst)
    }

    /// Which of its lives this is.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// How many requests and connections are under way to it.
    pub fn under_way(&self) -> usize {
        self.under_way.load(SeqCst)
    }

    /// How long it has been ready.
    pub fn ready_for(&self) -> Duration {
        self.ready_since.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Asks long-lived connections that can be ended in good order to end.
    pub fn ask_to_close(&self) {
        self.closing.get_or_init(watch::Sender::default).send_replace(true);
    }

    /// Tells when long-lived connections shall end.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.get_or_init(watch::Sender::default).subscribe()
    }

    /// Waits until nothing is under way to it.
    pub async fn settled(&self) {
        loop {
            let mut notified = std::pin::pin!(self.settled.notified());
            notified.as_mut().enable();
            if self.under_way() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// An app: what its requests share.
pub struct AppState {
    /// Which.
    pub name: AppName,
    /// How many requests wait for a machine.
    pub held: AtomicUsize,
    /// Told when those who wait shall look again, though the picture has not changed.
    pub stirred: Notify,
    /// Its machines that are falling asleep.
    pub falling: Falling,
    /// How many connections of clients are for it.
    pub connections: Arc<AtomicUsize>,
    /// How many requests for it are under way.
    pub requests: Arc<AtomicUsize>,
    /// How many lines about its traffic may be written to its log.
    pub allowance: Mutex<Allowance>,
    /// How many access records may be written to its log.
    pub access_allowance: Mutex<Allowance>,
    /// Where its requests were sent that it sent elsewhere.
    pub replays: ReplayCache,
    /// Who waits for a place, by the port inside the guest.
    freed: Mutex<BTreeMap<u16, Arc<Notify>>>,
    metrics: OnceLock<Box<AppMetrics>>,
}

impl AppState {
    /// An app for which nothing waits.
    pub fn new(name: AppName, quota: Quota) -> Self {
        Self {
            name,
            held: AtomicUsize::new(0),
            stirred: Notify::new(),
            falling: Falling::default(),
            connections: Arc::default(),
            requests: Arc::default(),
            allowance: Mutex::new(Allowance::of_refusals()),
            access_allowance: Mutex::new(Allowance::of_access()),
            replays: ReplayCache::new(quota),
            freed: Mutex::default(),
            metrics: OnceLock::new(),
        }
    }

    /// Told each time that a place becomes free behind this port inside the guest.
    pub fn freed(&self, port: u16) -> Arc<Notify> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default().clone()
    }

    /// What is counted of it. An app without traffic costs nothing.
    pub fn metrics(&self) -> &AppMetrics {
        self.metrics.get_or_init(Box::default)
    }

    /// What has been counted of it, if anything was.
    pub fn counted(&self) -> Option<&AppMetrics> {
        self.metrics.get().map(|metrics| &**metrics)
    }
}

/// A port of a machine, as it is dialed.
pub struct Target {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Where its own host reaches the port.
    pub address: SocketAddr,
    /// The way to its host's worker; nothing if it is on this host, or reached as if it were.
    pub hop: Option<Arc<Hop>>,
    /// Connections that can be used again.
    pub pool: Arc<Pool>,
    /// Told each time that a place becomes free; shared by the machines of one service.
    pub freed: Arc<Notify>,
    load: AtomicU32,
    /// What was under way to it at most since it was looked at last, and before that.
    peaks: [AtomicU32; 2],
    health: Mutex<Health>,
    /// Nothing is held against it, so that `health` need not be asked.
    clean: AtomicBool,
}

impl Target {
    /// A target without load.
    pub fn new(machine: Arc<Machine>, address: SocketAddr, hop: Option<Arc<Hop>>, freed: Arc<Notify>) -> Self {
        let (load, health, clean) = (AtomicU32::new(0), Mutex::default(), AtomicBool::new(true));
        let peaks = Default::default();
        Self { machine, address, hop, pool: Arc::default(), freed, load, peaks, health, clean }
    }

    /// How many requests and connections are under way to it.
    pub fn load(&self) -> u32 {
        self.load.load(SeqCst)
    }

    /// Whether requests to it fail.
    pub fn standing(&self) -> Standing {
        if self.clean.load(Relaxed) { Standing::Good } else { self.health(|health, now| health.standing(now)) }
    }

    /// It could not be reached, or broke off. Where that happens much more often than at the `others` of its service,
    /// it is avoided for longer.
    pub fn failed(&self, others: &[Tally]) {
        self.health(|health, now| {
            health.failed(now);
            if outlier::is_outlier(health.tally(now), others) {
                health.stands_out(now);
            }
        });
    }

    /// It was reached, at this moment.
    pub fn worked(&self, now: Instant) {
        if let Some(drowsy) = self.machine.drowsy.get() {
            drowsy.note_reached();
        }
        self.health_at(now, Health::worked);
    }

    /// How often it failed in the last while, and how often not.
    pub fn tally(&self) -> Tally {
        self.health(|health, now| health.tally(now))
    }

    fn health<T>(&self, with: impl FnOnce(&mut Health, Instant) -> T) -> T {
        self.health_at(Instant::now(), with)
    }

    fn health_at<T>(&self, now: Instant, with: impl FnOnce(&mut Health, Instant) -> T) -> T {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let result = with(&mut health, now);
        self.clean.store(health.is_clean(), Relaxed);
        result
    }

    /// Takes one place, if the machine is open and below its hard limit.
    pub fn lease(self: &Arc<Self>, hard_limit: Option<u32>) -> Option<Lease> {
        let limit = hard_limit.unwrap_or(u32::MAX);
        let before = self.load.fetch_update(SeqCst, SeqCst, |load| (load < limit).then_some(load + 1)).ok()?;
        if before >= self.peaks[0].load(Relaxed) {
            self.peaks[0].fetch_max(before + 1, Relaxed);
        }
        self.machine.under_way.fetch_add(1, SeqCst);
        if !self.machine.open.load(SeqCst) {
            self.release();
            return None;
        }
        Some(Lease { target: self.clone(), epoch: self.machine.epoch() })
    }

    /// What was under way to it at most, in the time between the last two looks and since.
    pub fn peak(&self) -> u32 {
        self.peaks.iter().map(|peak| peak.load(Relaxed)).max().unwrap_or_default()
    }

    /// The same; from now on another time begins.
    pub fn next_peak(&self) -> u32 {
        let peak = self.peak();
        self.peaks[1].store(self.peaks[0].swap(self.load(), Relaxed), Relaxed);
        peak
    }

    fn release(&self) {
        self.machine.use_at(Instant::now);
        self.load.fetch_sub(1, SeqCst);
        if self.machine.under_way.fetch_sub(1, SeqCst) == 1 {
            self.machine.settled.notify_waiters();
        }
    }
}

/// One request or connection under way. Dropping it gives the place free.
pub struct Lease {
    /// Where it goes.
    pub target: Arc<Target>,
    /// The life of the machine that it began in.
    pub epoch: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.target.release();
        self.target.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Arc<Target> {
        let machine = Arc::new(Machine::new(MachineId::from_random([1; 7])));
        Arc::new(Target::new(machine, ([127, 0, 0, 1], 1).into(), None, Arc::default()))
    }

    #[test]
    fn nothing_begins_on_a_closed_machine_or_beyond_its_hard_limit() {
        let target = target();
        assert!(target.lease(None).is_none());
        target.machine.open(Warmth::Warm);
        let one = target.lease(Some(1)).unwrap();
        assert!(target.lease(Some(1)).is_none());
        assert_eq!((target.load(), target.machine.under_way()), (1, 1));
        drop(one);
        assert!(target.lease(Some(1)).is_some());
        target.machine.close();
        assert!(target.lease(None).is_none());
    }

    #[tokio::test]
    async fn a_machine_settles_with_its_last_lease() {
        let target = target();
        target.machine.settled().await;
        target.machine.open(Warmth::Warm);
        let leases = [target.lease(None).unwrap(), target.lease(None).unwrap()];
        let machine = target.machine.clone();
        let waiting = tokio::spawn(async move { machine.settled().await });
        drop(leases);
        waiting.await.unwrap();
    }

    #[test]
    fn a_target_that_failed_is_avoided_until_it_works() {
        let target = target();
        target.failed(&[]);
        assert_eq!(target.standing(), Standing::Avoided(outlier::Why::Failing));
        target.worked(Instant::now());
        assert_eq!(target.standing(), Standing::Good);
    }
}
