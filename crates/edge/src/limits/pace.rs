//! How slow a peer may be.
//!
//! ```text
//!  patience ▲ grace ┐      what moves gives some back, up to the grace
//!           │       └╲    ╱╲
//!           │         ╲──╱  ╲         waiting uses it up
//!         0 ┼────────────────●──▶     none left: too slow
//! ```
//!
//! So a peer that keeps to the rate is never too slow, one that pauses has the grace for it, and one that sends a byte now
//! and then has hardly more. Time counts only while the peer is waited for.

use std::time::Duration;

use tokio::time::Instant;

/// So many bytes a second in the long run, after so much patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The rate.
    pub bytes_per_second: u32,
    /// How long a peer that has moved nothing is waited for.
    pub grace: Duration,
}

/// What is left of the patience with a peer.
#[derive(Debug)]
pub struct Patience {
    pace: Pace,
    left: Duration,
    waiting_since: Option<Instant>,
}

impl Patience {
    /// All of it.
    pub fn new(pace: Pace) -> Self {
        Self { pace, left: pace.grace, waiting_since: None }
    }

    /// The peer is waited for from now on, if it was not before. Returns when that will have been too long.
    pub fn wait(&mut self, now: Instant) -> Instant {
        *self.waiting_since.get_or_insert(now) + self.left
    }

    /// So many bytes have moved.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        let waited = self.waiting_since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let earned = Duration::from_secs_f64(bytes as f64 / f64::from(self.pace.bytes_per_second.max(1)));
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.pace.grace);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace { bytes_per_second: 100, grace: Duration::from_secs(10) };

    /// Whether a peer that moves so many bytes after each such pause is found too slow.
    fn is_too_slow(moves: impl IntoIterator<Item = (u64, usize)>) -> bool {
        let (mut patience, mut now) = (Patience::new(PACE), Instant::now());
        moves.into_iter().any(|(pause_ms, bytes)| {
            let end = patience.wait(now);
            now += Duration::from_millis(pause_ms);
            patience.moved(bytes, now);
            now > end
        })
    }

    #[test]
    fn a_byte_now_and_then_is_too_slow_and_a_long_pause_after_much_is_not() {
        assert!(is_too_slow([(9_000, 1), (9_000, 1)]));
        assert!(!is_too_slow([(9_000, 100_000), (9_000, 100_000)]));
        assert!(is_too_slow([(0, 1_000_000), (10_001, 1)]));
    }

    proptest! {
        #[test]
        fn whoever_keeps_to_the_rate_is_never_too_slow(pauses in prop::collection::vec(0u64..10_000, 1..200)) {
            prop_assert!(!is_too_slow(pauses.into_iter().map(|ms| (ms, (ms as usize).div_ceil(10)))));
        }

        #[test]
        fn nobody_gets_more_time_than_the_grace_and_what_he_has_earned(
            moves in prop::collection::vec((0u64..5_000, 0usize..300), 1..200),
        ) {
            let waited_ms: u64 = moves.iter().map(|(ms, _)| ms).sum();
            let earned_ms: u64 = moves.iter().map(|(_, bytes)| *bytes as u64 * 10).sum();
            if waited_ms > 10_000 + earned_ms {
                prop_assert!(is_too_slow(moves));
            }
        }
    }
}
