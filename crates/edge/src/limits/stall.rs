//! Answers over HTTP/2 that their client does not take, though its connection lives: its window stays closed (RFC 9113,
//! 6.9), and the machine's place is held.
//!
//! ```text
//!  a piece is given out ─▶ waits for the client ─▶ the next one is asked for ─▶ waits for the machine ─▶ …
//!                             │ too long: the connection ends, and with it all that it holds
//! ```

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The answers of one connection that are under way.
pub struct Stalls {
    began: Instant,
    answers: Mutex<Vec<Arc<AtomicU64>>>,
}

/// One answer: since when it waits for its client, in milliseconds after the connection's beginning and one more; 0 while
/// it does not.
pub struct Taken {
    began: Instant,
    waits_since: Arc<AtomicU64>,
}

impl Default for Stalls {
    fn default() -> Self {
        Self { began: Instant::now(), answers: Mutex::default() }
    }
}

impl Stalls {
    /// An answer begins, and waits for its client.
    pub fn enter(&self, now: Instant) -> Taken {
        let taken = Taken { began: self.began, waits_since: Arc::default() };
        taken.gave(now);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() == answers.capacity() {
            answers.retain(|answer| Arc::strong_count(answer) > 1);
        }
        answers.push(taken.waits_since.clone());
        taken
    }

    /// How long one has waited, the one that has waited the longest.
    pub fn longest(&self, now: Instant) -> Duration {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|answer| Arc::strong_count(answer) > 1);
        let since = answers.iter().map(|answer| answer.load(Relaxed)).filter(|since| *since > 0).min();
        since.map_or(Duration::ZERO, |since| Duration::from_millis(millis(self.began, now).saturating_sub(since)))
    }
}

impl Taken {
    /// A piece was given out: it is the client's turn.
    pub fn gave(&self, now: Instant) {
        self.waits_since.store(millis(self.began, now), Relaxed);
    }

    /// The client wants the next piece.
    pub fn asked(&self) {
        self.waits_since.store(0, Relaxed);
    }
}

fn millis(began: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(began).as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_does_not_go_on_is_too_slow() {
        let (stalls, mut now) = (Stalls::default(), Instant::now());
        let (goes_on, waits_for_its_machine, ended) = (stalls.enter(now), stalls.enter(now), stalls.enter(now));
        waits_for_its_machine.asked();
        drop(ended);
        for _ in 0..100 {
            now += Duration::from_secs(1);
            goes_on.asked();
            goes_on.gave(now);
        }
        assert_eq!(stalls.longest(now), Duration::ZERO);
        now += Duration::from_secs(10);
        assert_eq!(stalls.longest(now), Duration::from_secs(10));
        drop((goes_on, waits_for_its_machine));
        assert_eq!(stalls.longest(now), Duration::ZERO);
        assert!(stalls.answers.lock().unwrap().is_empty());
    }
}
