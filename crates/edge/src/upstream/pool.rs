//! Connections to one port of one machine that can be used again.
//!
//! HTTP/1.1 connections lie idle for a few seconds at most; one HTTP/2 connection carries all requests. A connection
//! belongs to the life of the machine that it was made in, and is never used in a later one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::RequestBody;

/// How long a connection lies idle: shorter than the keep-alive of common servers, so that they do not close it while
/// a request is on its way.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// How many lie idle.
const MAX_IDLE: usize = 128;

/// Connections to one port of one machine.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
    /// The shared HTTP/2 connection; locked while it is being made, so that it is made once.
    pub(super) shared: tokio::sync::Mutex<Option<Shared>>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
    epoch: u64,
}

/// An HTTP/2 connection and the life of the machine it was made in.
pub(super) struct Shared {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) epoch: u64,
}

impl Pool {
    /// The connection used last that is still good.
    pub(super) fn take(&self, epoch: u64) -> Option<http1::SendRequest<RequestBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|it| it.is_good(epoch));
        let ready = idle.iter().rposition(|it| it.sender.is_ready())?;
        Some(idle.swap_remove(ready).sender)
    }

    /// Gives up every connection.
    pub fn clear(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Ok(mut shared) = self.shared.try_lock() {
            *shared = None;
        }
    }

    /// Takes a connection back. Tells whether it is now the only one, so that somebody must look after it.
    fn put(&self, sender: http1::SendRequest<RequestBody>, epoch: u64) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now(), epoch });
            return idle.len() == 1;
        }
        false
    }

    /// Lets go of connections that lie idle too long. Tells whether any is left.
    fn prune(&self) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|it| it.is_good(it.epoch));
        !idle.is_empty()
    }
}

impl Idle {
    fn is_good(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.since.elapsed() < KEEP_IDLE && !self.sender.is_closed()
    }
}

/// Brings a connection back to its pool once its answer has been read.
pub struct Keep {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) pool: Arc<Pool>,
    pub(super) epoch: u64,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

impl Keep {
    /// Brings it back.
    pub fn release(self) {
        if self.stopping.is_cancelled() || !self.pool.put(self.sender, self.epoch) {
            return;
        }
        self.tasks.spawn(look_after(self.pool, self.stopping));
    }
}

async fn look_after(pool: Arc<Pool>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return pool.clear(),
            () = tokio::time::sleep(KEEP_IDLE) => {}
        }
        if !pool.prune() {
            return;
        }
    }
}
