//! Connections to one port of one machine that can be used again.
//!
//! HTTP/1.1 connections lie idle for a few seconds at most; an HTTP/2 connection carries as many requests as the machine takes
//! over one. A connection
//! belongs to the life of the machine that it was made in, and is never used in a later one.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Requests, Turn, exchange::Link};

/// How long a connection lies idle: shorter than the keep-alive of common servers, so that they do not close it while
/// a request is on its way.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// How many lie idle. More than a machine works on at the same time would be made anew all the time.
const MAX_IDLE: usize = 1024;

/// Connections to one port of one machine.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Shelf>,
    /// HTTP/2 connections; locked while the first one is being made, so that it is made once.
    pub(super) shared: tokio::sync::Mutex<Shared>,
    /// Another one is being made.
    pub(super) connecting: AtomicBool,
    /// Who looks after the idle ones, once there are some.
    keeper: OnceLock<Arc<Keeper>>,
}

/// Idle connections, the one used last at the end, and whether somebody looks after them.
#[derive(Default)]
struct Shelf {
    links: Vec<Idle>,
    is_looked_after: bool,
    /// None is taken any more.
    is_closed: bool,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
    epoch: u64,
}

/// HTTP/2 connections to one port of one machine.
#[derive(Default)]
pub(super) struct Shared {
    all: Vec<Used>,
}

/// An HTTP/2 connection.
struct Used {
    requests: Requests,
    /// The life of the machine that it was made in.
    epoch: u64,
    /// When it was used last.
    last: Instant,
}

/// Over what a request may be sent.
pub(super) enum Choice {
    /// One of the connections that are there.
    Turn(Turn),
    /// One that has to be made: there is none.
    First,
    /// One that should be made: all are full. If there can be no other, this one is the best.
    Another(Turn),
    /// Soon it will be known how many requests the newest one takes. If not, this one is the best.
    Unknown(Turn),
}

/// How many HTTP/2 connections there are to one port of one machine. Where all are full the next request waits.
const MAX_SHARED: usize = 64;

impl Shared {
    /// Gives up all of them.
    fn clear(&mut self) {
        self.all.clear();
    }

    /// A connection that was just made.
    pub(super) fn add(&mut self, requests: Requests, epoch: u64) -> Turn {
        let turn = requests.turn();
        self.all.push(Used { requests, epoch, last: Instant::now() });
        turn
    }

    /// Over which of these connections the next request goes.
    pub(super) fn choose(&mut self, epoch: u64) -> Choice {
        self.all.retain(|it| it.epoch == epoch && it.requests.is_good());
        let mut is_first = true;
        self.all.retain(|it| {
            let lies_idle = it.requests.under_way() == 0 && it.last.elapsed() >= KEEP_IDLE;
            std::mem::take(&mut is_first) || !lies_idle
        });
        if let Some(used) = self.all.iter_mut().find(|it| it.requests.has_room()) {
            used.last = Instant::now();
            return Choice::Turn(used.requests.turn());
        }
        match self.all.iter().min_by_key(|it| it.requests.under_way()).map(|it| it.requests.turn()) {
            None => Choice::First,
            Some(turn) if !self.all.iter().all(|it| it.requests.is_known()) => Choice::Unknown(turn),
            Some(turn) if self.all.len() < MAX_SHARED => Choice::Another(turn),
            Some(turn) => Choice::Turn(turn),
        }
    }
}

impl Pool {
    /// The connection used last that is still good.
    pub(super) fn take(&self, epoch: u64, now: Instant) -> Option<Box<Link>> {
        let mut shelf = self.shelf();
        while let Some(Idle { mut link, since, epoch: of }) = shelf.links.pop() {
            if of == epoch && now.saturating_duration_since(since) < KEEP_IDLE && link.is_good() {
                return Some(link);
            }
        }
        None
    }

    /// Gives up every connection.
    pub fn clear(&self) {
        self.shelf().links.clear();
        if let Ok(mut shared) = self.shared.try_lock() {
            shared.clear();
        }
    }

    /// Gives up every connection, for good.
    fn close(&self) {
        self.shelf().is_closed = true;
        self.clear();
    }

    /// Takes a connection back. Tells whether somebody has to begin to look after the pool.
    fn put(&self, link: Box<Link>, epoch: u64) -> bool {
        let mut shelf = self.shelf();
        if shelf.links.len() < MAX_IDLE && !shelf.is_closed {
            shelf.links.push(Idle { link, since: kit::clock::lately().into(), epoch });
        }
        !std::mem::replace(&mut shelf.is_looked_after, true)
    }

    /// Lets go of connections that lie idle too long. Tells whether any is left to look after.
    fn prune(&self) -> bool {
        let mut shelf = self.shelf();
        shelf.links.retain_mut(|idle| idle.since.elapsed() < KEEP_IDLE && idle.link.is_good());
        shelf.is_looked_after = !shelf.links.is_empty();
        shelf.is_looked_after
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who looks after pools.
pub struct Keeper {
    /// It does so in tasks of these,
    pub tasks: TaskTracker,
    /// until this.
    pub stopping: CancellationToken,
}

/// The pool that a connection came from or is for, and the life of the machine that it belongs to.
pub struct Home {
    pool: Arc<Pool>,
    epoch: u64,
}

impl Home {
    /// This pool, which `keeper` looks after.
    pub(super) fn new(pool: &Arc<Pool>, epoch: u64, keeper: &Arc<Keeper>) -> Self {
        pool.keeper.get_or_init(|| keeper.clone());
        Self { pool: pool.clone(), epoch }
    }

    /// Brings a connection back.
    pub(super) fn take(self, link: Box<Link>) {
        if self.pool.put(link, self.epoch)
            && let Some(Keeper { tasks, stopping }) = self.pool.keeper.get().map(|keeper| &**keeper)
        {
            tasks.spawn(look_after(self.pool.clone(), stopping.clone()));
        }
    }
}

async fn look_after(pool: Arc<Pool>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return pool.close(),
            () = tokio::time::sleep(KEEP_IDLE) => {}
        }
        if !pool.prune() {
            return;
        }
    }
}
