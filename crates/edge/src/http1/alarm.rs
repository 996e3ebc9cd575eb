//! A deadline that is moved often and hardly ever reached.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// A deadline. Moving it costs nothing: the system's timer is set anew only when it rings too early.
#[derive(Default)]
pub struct Alarm {
    due: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The task that the timer wakes.
    task: Option<Waker>,
}

impl Alarm {
    /// Rings at this moment from now on.
    pub fn set(&mut self, due: Instant) {
        self.due = Some(due);
    }

    /// Rings no more.
    pub fn off(&mut self) {
        self.due = None;
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
            self.task = None;
        }
        // A timer that knows its task and has not rung has nothing to say.
        if !timer.is_elapsed() && self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.task = Some(cx.waker().clone());
        loop {
            // Beside the task's budget: with none left the timer would learn of no task, and be taken to know it.
            ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test]
    async fn it_rings_though_its_task_had_no_budget_left_when_it_was_set() {
        let (start, mut alarm) = (Instant::now(), Alarm::default());
        alarm.set(start + Duration::from_millis(10));
        let mut is_first = true;
        let rings = poll_fn(|cx| {
            // What a task may do in one go is used up.
            while std::mem::take(&mut is_first) {
                while tokio::task::coop::has_budget_remaining() {
                    let _ = pin!(tokio::task::coop::consume_budget()).poll(cx);
                }
            }
            alarm.poll(cx)
        });
        tokio::time::timeout(Duration::from_secs(10), rings).await.expect("it rings");
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    #[tokio::test]
    async fn it_rings_when_it_was_last_set_to() {
        let (start, mut alarm) = (Instant::now(), Alarm::default());
        let later = |ms| start + Duration::from_millis(ms);
        alarm.set(later(10));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
        alarm.set(later(50));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(Instant::now() >= later(50));
        alarm.set(later(3_600_000));
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
        // Sooner than the timer was last set to.
        alarm.set(later(60));
        poll_fn(|cx| alarm.poll(cx)).await;
        alarm.off();
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx))).await.is_pending());
    }
}
