//! Whether a program that ended by itself is started again, and when.

use std::time::Duration;

use model::{
    Timestamp,
    machine::{Restart, RestartPolicy},
};

/// Restarts within this time count against `max_retries`.
pub const WINDOW: Duration = Duration::from_secs(300);
const DEFAULT_MAX_RETRIES: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What to do now that the program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again after this pause.
    Again(Duration),
    /// Leave it: the policy does not want it again.
    Done,
    /// Leave it: it has been started again this many times within the window, and that is enough.
    Enough(u32),
}

/// Decides by the policy, whether the program `failed`, and the moments of its restarts so far.
pub fn decide(restart: &Restart, failed: bool, restarts: &[Timestamp], now: Timestamp) -> Verdict {
    let recent = restarts.iter().filter(|at| is_recent(**at, now)).count() as u32;
    let limit = restart.max_retries.unwrap_or(DEFAULT_MAX_RETRIES);
    match restart.policy {
        RestartPolicy::No => Verdict::Done,
        RestartPolicy::OnFailure if !failed => Verdict::Done,
        RestartPolicy::OnFailure if recent >= limit => Verdict::Enough(recent),
        RestartPolicy::OnFailure | RestartPolicy::Always => Verdict::Again(pause(recent)),
    }
}

/// Whether a restart lies within the window that ends now.
pub fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    Duration::from_millis(now.0.saturating_sub(at.0)) < WINDOW
}

/// Nothing before the first restart of a window, then 1 s, doubling.
fn pause(recent: u32) -> Duration {
    match recent {
        0 => Duration::ZERO,
        n => Duration::from_secs(1 << (n - 1).min(5)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(policy: RestartPolicy, max_retries: Option<u32>) -> Restart {
        Restart { policy, max_retries, ..Restart::default() }
    }

    /// Ends the program again and again, each time at once, and counts its restarts.
    fn crash_loop(restart: &Restart, failed: bool, at_most: usize) -> usize {
        let (mut now, mut restarts) = (Timestamp(1_000_000), Vec::new());
        while restarts.len() < at_most {
            let Verdict::Again(pause) = decide(restart, failed, &restarts, now) else { break };
            now.0 += pause.as_millis() as u64;
            restarts.push(now);
        }
        restarts.len()
    }

    #[test]
    fn a_crash_loop_ends_after_ten_restarts_unless_another_number_is_given() {
        assert_eq!(crash_loop(&policy(RestartPolicy::OnFailure, None), true, 100), 10);
        assert_eq!(crash_loop(&policy(RestartPolicy::OnFailure, Some(3)), true, 100), 3);
        assert_eq!(crash_loop(&policy(RestartPolicy::OnFailure, None), false, 100), 0);
        assert_eq!(crash_loop(&policy(RestartPolicy::No, None), true, 100), 0);
        assert_eq!(crash_loop(&policy(RestartPolicy::Always, None), false, 100), 100);
    }

    #[test]
    fn restarts_long_ago_are_forgiven() {
        let now = Timestamp(10_000_000);
        let long_ago = vec![Timestamp(now.0 - WINDOW.as_millis() as u64); 50];
        let verdict = decide(&policy(RestartPolicy::OnFailure, None), true, &long_ago, now);
        assert_eq!(verdict, Verdict::Again(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn the_pause_grows_up_to_a_bound(count in 0_u32..1000) {
            prop_assert!(pause(count) <= pause(count + 1));
            prop_assert!(pause(count) <= LONGEST_PAUSE);
        }
    }
}
