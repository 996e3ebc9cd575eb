//! When the keeper looks at a host name again: pure.

use std::time::Duration;

use api::internal::IssueError;
use model::Timestamp;

/// DNS is asked again after so long while a name is unproven, and this at most; it doubles.
const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// An order is made again after so long, and this at most; it doubles. Issuers count failed validations by the hour.
const ORDER: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));
/// A failed validation is not repeated sooner.
const VALIDATION: Duration = Duration::from_secs(15 * 60);
/// Nor, if a user asks for it, sooner than this.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// An issuer that limits without saying until when is left alone for so long.
const LIMITED: Duration = Duration::from_secs(3600);
/// First orders for a host name: issuers take as many failed validations.
pub(crate) const OF_A_NAME: Share = Share { orders: 5, hours: 1 };
/// First orders of an organization: a third of what issuers take from one account, so that none uses up what is everybody's.
pub(crate) const OF_AN_ORG: Share = Share { orders: 100, hours: 3 };
/// What has nothing to wait for is looked at once a day all the same, in milliseconds.
pub(crate) const DAY: u64 = 24 * HOUR;
/// In milliseconds.
const HOUR: u64 = 3_600_000;

/// So many orders within so long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// How many.
    pub orders: u32,
    /// How long.
    pub hours: u64,
}

impl Share {
    /// Until when nothing is left of it, if the latest order but as many as there are in a share was made then.
    pub(crate) fn used_up_until(self, earlier: Option<u64>, now: u64) -> Option<u64> {
        earlier.map(|at| at + self.hours * HOUR).filter(|until| *until > now)
    }

    /// Orders from before then are of no account.
    pub(crate) fn since(self, now: u64) -> u64 {
        now.saturating_sub(self.hours * HOUR)
    }
}

/// When an unproven name is looked at again, after so many looks in vain.
pub(crate) fn after_look(now: u64, failures: u32, noise: u32) -> u64 {
    later(now, doubled(LOOK, failures), noise)
}

/// When an order is made again that failed for this reason, the latest of so many in a row.
pub(crate) fn after_order(now: u64, failures: u32, error: &IssueError, noise: u32) -> u64 {
    let pause = doubled(ORDER, failures.saturating_sub(1));
    match error {
        IssueError::RateLimited { until, .. } => {
            until.map_or(later(now, LIMITED, noise), |until| later(until.0.max(now), ORDER.0, noise))
        }
        IssueError::Validation { .. } => later(now, pause.max(VALIDATION), noise),
        _ => later(now, pause, noise),
    }
}

/// Before when nothing is ordered after a failure, whoever is in a hurry: issuers say so, and count failed validations.
pub(crate) fn no_order_before(now: u64, next_at: u64, error: &IssueError) -> u64 {
    match error {
        IssueError::RateLimited { .. } => next_at,
        IssueError::Validation { .. } => now + ms(PATIENCE),
        _ => now,
    }
}

/// When a certificate is renewed: in the window that its issuer names (RFC 9773), or after two thirds of its life, and not
/// all at the same moment.
pub(crate) fn renewal(not_before: u64, not_after: u64, window: Option<(Timestamp, Timestamp)>, noise: u32) -> u64 {
    let life = not_after.saturating_sub(not_before);
    let (from, until) = match window {
        Some((from, until)) if from < until && until.0 <= not_after => (from.0, until.0),
        _ => (not_before + life / 20 * 13, not_before + life / 20 * 14),
    };
    from + part(until - from, noise)
}

fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

/// So much later, and up to a quarter more.
fn later(now: u64, pause: Duration, noise: u32) -> u64 {
    let pause = ms(pause);
    now + pause + part(pause / 4, noise)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

fn part(whole: u64, noise: u32) -> u64 {
    u64::try_from((u128::from(whole) * u128::from(noise)) >> 32).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_certificate_is_renewed_in_its_last_third_but_long_before_its_end(
            not_before in 0..2_000_000_000_000_u64, life in 1000..40_000_000_000_u64, noise: u32,
        ) {
            let at = renewal(not_before, not_before + life, None, noise);
            prop_assert!(at >= not_before + life / 20 * 13 && at <= not_before + life / 20 * 14, "{at}");
        }

        #[test]
        fn pauses_grow_and_end(failures in 0..40_u32, noise: u32) {
            let error = IssueError::Unavailable("no route".into());
            let (now, most) = (1_000_000_000_000_u64, 6 * 3600 * 1000);
            for at in [after_look(now, failures, noise), after_order(now, failures, &error, noise)] {
                prop_assert!(at > now && at <= now + most / 4 * 5);
            }
            prop_assert!(after_look(now, failures, 0) <= after_look(now, failures + 1, 0));
        }
    }

    #[test]
    fn an_issuer_says_when_it_may_be_asked_again() {
        let limited = |until| IssueError::RateLimited { reason: "too many".into(), until };
        assert_eq!(after_order(1000, 1, &limited(Some(Timestamp(9_000_000))), 0), 9_060_000);
        assert_eq!(after_order(1000, 1, &limited(None), 0), 1000 + 3_600_000);
        let failed = IssueError::Validation { method: "http-01", reason: String::new() };
        assert_eq!(after_order(0, 1, &failed, 0), 900_000);
        assert_eq!(no_order_before(1000, 900_000, &failed), 301_000);
        assert_eq!(no_order_before(1000, 900_000, &limited(None)), 900_000);
        assert_eq!(no_order_before(1000, 900_000, &IssueError::Off), 1000);
    }

    #[test]
    fn a_share_comes_back_as_its_orders_grow_old() {
        let share = Share { orders: 2, hours: 1 };
        assert_eq!(share.used_up_until(None, 5), None);
        assert_eq!(share.used_up_until(Some(7), 5), Some(HOUR + 7));
        assert_eq!(share.used_up_until(Some(7), HOUR + 7), None);
        const { assert!(OF_AN_ORG.hours >= OF_A_NAME.hours, "what the longer one forgets is of no account to the other") };
    }

    #[test]
    fn the_issuers_window_counts_where_it_makes_sense() {
        let window = |from, until| Some((Timestamp(from), Timestamp(until)));
        assert_eq!(renewal(0, 100, window(40, 60), 1 << 31), 50);
        for bad in [window(60, 40), window(90, 120)] {
            assert_eq!(renewal(0, 100, bad, 0), 65);
        }
    }
}
