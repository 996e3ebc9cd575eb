//! What the edge knows of a machine for the sake of its sleep. Machines that neither sleep nor are woken have none of it.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// When a machine was used last, and whether it has been used at all since it was opened.
pub struct Drowsy {
    born: Instant,
    /// In milliseconds after its birth.
    used_ms: AtomicU64,
    reached: AtomicBool,
    first_reached: Notify,
}

impl Default for Drowsy {
    /// Used at this moment.
    fn default() -> Self {
        let (used_ms, reached) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { born: Instant::now(), used_ms, reached, first_reached: Notify::new() }
    }
}

impl Drowsy {
    /// It is used at this moment.
    pub fn use_at(&self, now: Instant) {
        self.used_ms.store(now.duration_since(self.born).as_millis() as u64, Relaxed);
    }

    /// When it was used last.
    pub fn used(&self) -> Instant {
        self.born + Duration::from_millis(self.used_ms.load(Relaxed))
    }

    /// It takes traffic again.
    pub fn open(&self) {
        self.use_at(Instant::now());
        self.reached.store(false, Relaxed);
    }

    /// It has taken a request or a connection.
    pub fn note_reached(&self) {
        if !self.reached.load(Relaxed) {
            self.reached.store(true, SeqCst);
            self.first_reached.notify_waiters();
        }
    }

    /// Waits until it has taken something since it was opened.
    pub async fn reached(&self) {
        let mut notified = std::pin::pin!(self.first_reached.notified());
        notified.as_mut().enable();
        if !self.reached.load(SeqCst) {
            notified.await;
        }
    }
}
