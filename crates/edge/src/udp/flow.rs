//! One client's flow: its machine, its socket, and the task that brings the machine's answers back.

use std::{
    io,
    ops::Range,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{io::Interest, net::UdpSocket, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    batch::{Batch, with_batch},
    source,
    table::{Answers, Key},
};
use crate::{
    Refusal,
    context::Context,
    machine::{AppState, Target},
};

/// How many flows there may be in all.
pub struct Slots {
    taken: AtomicUsize,
    bound: usize,
}

/// A flow's place. Dropping it gives it free.
struct Slot(Arc<Slots>);

impl Slots {
    /// So many, all free.
    pub fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), bound })
    }

    fn take(self: &Arc<Self>) -> Option<Slot> {
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
    shared: Arc<Shared>,
    _ends: DropGuard,
    _slot: Slot,
}

/// What the flow's two directions share.
struct Shared {
    socket: UdpSocket,
    target: Arc<Target>,
    /// The life of the machine that the flow began in.
    epoch: u64,
    app: Arc<AppState>,
    began: Instant,
    /// When the machine answered last, in milliseconds after the beginning and one more; 0 if it never did.
    answered_ms: AtomicU64,
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
        let epoch = target.machine.epoch();
        let socket = match context.keeps_sources.get() {
            Some(_) => source::kept(target.address, key.0).unwrap_or_else(|| source::own(target.address)),
            None => source::own(target.address),
        };
        let socket =
            socket.inspect_err(|error| tracing::warn!("a flow of datagrams cannot be opened: {error}")).ok()?;
        let (began, answered_ms) = (Instant::now(), AtomicU64::new(0));
        let shared = Arc::new(Shared { socket, target, epoch, app, began, answered_ms });
        let ends = CancellationToken::new();
        let answers = bring_back(context.clone(), shared.clone(), door.clone(), key);
        let answers = ends.clone().run_until_cancelled_owned(answers);
        context.tasks.spawn(async move {
            answers.await;
        });
        Some(Self { shared, _ends: ends.drop_guard(), _slot: slot })
    }

    /// Whether its machine still takes traffic, in the same life.
    pub fn is_good(&self) -> bool {
        let machine = &self.shared.target.machine;
        machine.is_open() && machine.epoch() == self.shared.epoch
    }

    /// Sends datagrams to the machine.
    pub fn send(&self, context: &Context, batch: &Batch, which: Range<usize>, now: Instant) {
        let shared = &self.shared;
        shared.target.machine.use_at(|| now);
        let bytes: usize = batch.arrived()[which.clone()].iter().map(|arrived| arrived.length).sum();
        shared.app.metrics().data_in.add(bytes as u64);
        let fd = shared.socket.as_raw_fd();
        match batch.send(fd, which.clone(), None, None) {
            Ok(_) => {}
            // It was about an earlier datagram; now it has been told.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                shared.refused(context);
                let _ = batch.send(fd, which, None, None);
            }
            Err(error) => tracing::debug!("datagrams are dropped: {error}"),
        }
    }
}

impl Answers for Flow {
    fn answered(&self) -> Option<Instant> {
        let after = self.shared.answered_ms.load(Relaxed).checked_sub(1)?;
        Some(self.shared.began + std::time::Duration::from_millis(after))
    }
}

impl Shared {
    fn refused(&self, context: &Context) {
        let (machine, port) = (self.target.machine.id.clone(), self.target.address.port());
        let refusal = Refusal::ConnectRefused { machine, port };
        context.journal.refused(&self.app, &refusal, &format!("(datagram to port {port})"));
    }
}

/// Sends the machine's answers to the client, until the flow ends.
async fn bring_back(context: Arc<Context>, flow: Arc<Shared>, door: Arc<UdpSocket>, (client, from): Key) {
    loop {
        let passed = flow.socket.async_io(Interest::READABLE, || {
            with_batch(|batch| {
                batch.receive(&flow.socket)?;
                let arrived = batch.arrived();
                let bytes: usize = arrived.iter().map(|it| it.length).sum();
                // What the client's network does not take is lost, as it would be further on.
                let _ = batch.send(door.as_raw_fd(), 0..arrived.len(), Some(client), from);
                flow.app.metrics().data_out.add(bytes as u64);
                flow.answered_ms.store(flow.began.elapsed().as_millis() as u64 + 1, Relaxed);
                batch.end()
            })
        });
        match passed.await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => flow.refused(&context),
            Err(error) => {
                tracing::debug!("a flow of datagrams ended: {error}");
                return;
            }
        }
    }
}
