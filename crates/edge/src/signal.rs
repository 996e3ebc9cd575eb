//! What ends things, told once and listened for by everything that goes on.
//!
//! A `CancellationToken` takes two locks whenever a future that waits for it is polled. Every connection is polled for
//! each request and listens to the same tokens, so beside the token there is a flag, and an [`Ear`] that has been told
//! where to find its task looks at that flag alone.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Something that is told once.
#[derive(Default)]
pub struct Signal {
    is_given: AtomicBool,
    token: CancellationToken,
}

impl Signal {
    /// A signal that goes with this token: whoever holds that hears of it, too.
    pub fn new(token: CancellationToken) -> Self {
        Self { is_given: AtomicBool::new(false), token }
    }

    /// Tells everybody.
    pub fn give(&self) {
        // Before the token wakes whoever looks at the flag.
        self.is_given.store(true, Relaxed);
        self.token.cancel();
    }

    /// Resolves once it is told.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// The token, for whoever waits elsewhere.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Listens for it over many polls.
    pub fn ear(&self) -> Ear<'_> {
        Ear { signal: self, waiting: Box::pin(self.token.cancelled()), task: None }
    }
}

/// Listens for a signal.
pub struct Ear<'a> {
    signal: &'a Signal,
    waiting: Pin<Box<WaitForCancellationFuture<'a>>>,
    /// The task that will be woken.
    task: Option<Waker>,
}

impl Ear<'_> {
    /// Ready once the signal is given.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.signal.is_given.load(Relaxed) {
            return Poll::Ready(());
        }
        if self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.task = Some(cx.waker().clone());
        self.waiting.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_task_that_listens_is_woken_whether_it_listened_before_or_in_another_task() {
        let signal = Signal::default();
        let mut ear = signal.ear();
        assert!(ear.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let hears = async { poll_fn(|cx| ear.poll(cx)).await };
        let gives = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            signal.give();
        };
        let heard = async { tokio::join!(hears, gives) };
        timeout(Duration::from_secs(10), heard).await.expect("it is woken");
        assert!(
            signal.ear().poll(&mut Context::from_waker(Waker::noop())).is_ready(),
            "who comes late hears it at once"
        );
    }
}
