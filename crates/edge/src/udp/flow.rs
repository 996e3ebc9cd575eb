//! One client's flow: its machine, its way there, and what brings the machine's answers back.

use std::{
    io,
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use model::MachineId;
use tokio::{io::Interest, net::UdpSocket, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    batch::{Batch, with_batch},
    carrier::{Back, Passage},
    source::socket_towards,
    table::{Answers, Key},
};
use crate::{
    Refusal,
    context::Context,
    machine::{AppState, Target},
};

/// What a flow's socket is listened to for: answers, and that nobody listens there.
pub const HEARS: Interest = Interest::READABLE.add(Interest::ERROR);

/// How many flows there may be in all.
pub struct Slots {
    taken: AtomicUsize,
    bound: usize,
}

/// A flow's place. Dropping it gives it free.
pub struct Slot(Arc<Slots>);

impl Slots {
    /// So many, all free.
    pub fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), bound })
    }

    /// Takes one, if there is one.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let bound = self.bound;
        let taken = self.taken.fetch_update(Relaxed, Relaxed, |taken| (taken < bound).then_some(taken + 1));
        taken.ok().map(|_| Slot(self.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

/// A flow. Dropping it ends it.
pub struct Flow {
    target: Arc<Target>,
    /// The life of the machine that the flow began in.
    epoch: u64,
    app: Arc<AppState>,
    answered: Arc<Answered>,
    way: Way,
    _slot: Slot,
}

/// How a flow's datagrams reach the machine.
enum Way {
    /// By a socket of their own.
    Socket { socket: Arc<UdpSocket>, _ends: DropGuard },
    /// By its host's worker.
    Worker(Passage),
}

/// What is known of a machine's answers to a flow.
pub struct Answered {
    began: Instant,
    /// When it answered last, in milliseconds after the beginning and one more; 0 if it never did.
    after_ms: AtomicU64,
    /// None will come any more.
    is_over: AtomicBool,
    /// The machine said that nobody listens, since it was asked last.
    is_refused: AtomicBool,
}

impl Answered {
    fn never() -> Arc<Self> {
        let (is_over, is_refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { began: Instant::now(), after_ms: AtomicU64::new(0), is_over, is_refused })
    }

    /// It answers.
    pub fn now(&self) {
        self.after_ms.store(self.began.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// No answer comes any more.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

impl Flow {
    /// Opens a flow to a machine, whose answers go out of `door`.
    pub fn open(
        context: &Arc<Context>,
        door: &Arc<UdpSocket>,
        key: Key,
        app: Arc<AppState>,
        target: Arc<Target>,
    ) -> Option<Self> {
        let slot = context.flows.take()?;
        let (epoch, answered) = (target.machine.epoch(), Answered::never());
        let back =
            Back { door: door.clone(), key, app: app.clone(), target: target.clone(), answered: answered.clone() };
        let way = match &target.hop {
            Some(hop) => Way::Worker(Passage::begin(context, hop, back)?),
            None => {
                let socket = socket_towards(context, target.address, key.0);
                let socket =
                    socket.inspect_err(|error| tracing::warn!("a flow of datagrams cannot be opened: {error}")).ok()?;
                let (socket, ends) = (Arc::new(socket), CancellationToken::new());
                let answers = bring_back(context.clone(), socket.clone(), back);
                let answers = ends.clone().run_until_cancelled_owned(answers);
                context.tasks.spawn(async move {
                    answers.await;
                });
                Way::Socket { socket, _ends: ends.drop_guard() }
            }
        };
        Some(Self { target, epoch, app, answered, way, _slot: slot })
    }

    /// Whether its machine still takes traffic, in the same life.
    pub fn is_good(&self) -> bool {
        let machine = &self.target.machine;
        machine.is_open() && machine.epoch() == self.epoch && !self.answered.is_over.load(Relaxed)
    }

    /// Whether its machine has just come up and has not answered it, so that its program may not listen yet.
    pub fn is_uncertain(&self, context: &Context) -> bool {
        self.answered().is_none() && is_starting(context, &self.target)
    }

    /// Its machine.
    pub fn machine(&self) -> &MachineId {
        &self.target.machine.id
    }

    /// Whether the machine has said that nobody listens, since this was asked last.
    pub fn was_refused(&self) -> bool {
        self.answered.is_refused.swap(false, Relaxed)
    }

    /// Sends datagrams to the machine.
    pub fn send(&self, context: &Context, batch: &Batch, which: Range<usize>, now: Instant) {
        self.target.machine.use_at(|| now);
        let bytes: usize = batch.arrived()[which.clone()].iter().map(|arrived| arrived.length).sum();
        self.app.metrics().data_in.add(bytes as u64);
        let socket = match &self.way {
            Way::Socket { socket, .. } => socket.as_raw_fd(),
            Way::Worker(passage) => return passage.send(which.map(|place| batch.at(place))),
        };
        match batch.send(socket, which.clone(), None, None) {
            Ok(_) => {}
            // It was about an earlier datagram; now it has been told.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused(context, &self.app, &self.target, &self.answered);
                let _ = batch.send(socket, which, None, None);
            }
            Err(error) => tracing::debug!("datagrams are dropped: {error}"),
        }
    }
}

impl Answers for Flow {
    fn answered(&self) -> Option<Instant> {
        let after = self.answered.after_ms.load(Relaxed).checked_sub(1)?;
        Some(self.answered.began + Duration::from_millis(after))
    }
}

/// Whether a machine has come up so lately that its program may not listen yet.
pub fn is_starting(context: &Context, target: &Target) -> bool {
    target.machine.ready_for() < context.bounds.startup_grace
}

/// Nobody listens there. While the machine starts that is no fault.
fn refused(context: &Context, app: &AppState, target: &Target, answered: &Answered) {
    answered.is_refused.store(true, Relaxed);
    if is_starting(context, target) {
        return;
    }
    let (machine, port) = (target.machine.id.clone(), target.address.port());
    let refusal = Refusal::ConnectRefused { machine, port };
    context.journal.refused(app, &refusal, &format!("(datagram to port {port})"));
}

/// Sends the machine's answers to the client, until the flow ends.
async fn bring_back(
    context: Arc<Context>,
    socket: Arc<UdpSocket>,
    Back { door, key: (client, from), app, target, answered }: Back,
) {
    loop {
        let passed = socket.async_io(HEARS, || {
            with_batch(|batch| {
                batch.receive(&*socket)?;
                let arrived = batch.arrived();
                let bytes: usize = arrived.iter().map(|it| it.length).sum();
                // What the client's network does not take is lost, as it would be further on.
                let _ = batch.send(door.as_raw_fd(), 0..arrived.len(), Some(client), from);
                app.metrics().data_out.add(bytes as u64);
                answered.now();
                batch.end()
            })
        });
        match passed.await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused(&context, &app, &target, &answered);
            }
            Err(error) => {
                tracing::debug!("a flow of datagrams ended: {error}");
                return answered.end();
            }
        }
    }
}
