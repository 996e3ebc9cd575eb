//! What single measurements come to: a pure function of them.
//!
//! The median of the last few counts, so that one that was held up somewhere changes nothing; and only if it differs
//! from what is believed by more than measurements differ anyway, so that two hosts that are about equally far do not
//! take turns.

use std::time::Duration;

/// So many measurements count.
const COUNTED: usize = 5;
/// What differs by less is no news.
const NOISE: Duration = Duration::from_micros(500);

/// The round trip to a host.
#[derive(Debug, Default)]
pub struct Estimate {
    /// The last measurements, in a ring.
    last: Vec<Duration>,
    oldest: usize,
    believed: Option<Duration>,
}

impl Estimate {
    /// What is believed, if it was measured at all.
    pub fn round_trip(&self) -> Option<Duration> {
        self.believed
    }

    /// Takes a measurement. Tells what is believed from now on.
    pub fn take(&mut self, measured: Duration) -> Duration {
        if self.last.len() < COUNTED {
            self.last.push(measured);
        } else {
            self.last[self.oldest] = measured;
            self.oldest = (self.oldest + 1) % COUNTED;
        }
        let mut sorted = self.last.clone();
        sorted.sort_unstable();
        let median = sorted[(sorted.len() - 1) / 2];
        let is_noise = |believed: &Duration| median.abs_diff(*believed) <= NOISE.max(*believed / 4);
        *self.believed.insert(self.believed.filter(is_noise).unwrap_or(median))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn estimate(of: impl IntoIterator<Item = u64>) -> Estimate {
        let mut estimate = Estimate::default();
        for ms in of {
            estimate.take(Duration::from_millis(ms));
        }
        estimate
    }

    fn believed(of: impl IntoIterator<Item = u64>) -> Option<u128> {
        estimate(of).round_trip().map(|it| it.as_millis())
    }

    #[test]
    fn the_first_measurement_counts_at_once_and_a_single_odd_one_not_at_all() {
        assert_eq!(believed([]), None);
        assert_eq!(believed([80]), Some(80));
        assert_eq!(believed([80, 900]), Some(80));
        assert_eq!(believed([80, 80, 80, 80, 80, 900, 900]), Some(80));
    }

    #[test]
    fn what_stays_is_believed_after_a_few_measurements() {
        assert_eq!(believed([10, 10, 10, 10, 10, 80, 80, 80]), Some(80));
        assert_eq!(believed([80, 80, 80, 80, 80, 10, 10, 10]), Some(10));
    }

    #[test]
    fn small_differences_are_no_news() {
        assert_eq!(believed([100].into_iter().chain([90, 120].into_iter().cycle().take(20))), Some(100));
    }

    proptest! {
        #[test]
        fn what_is_believed_is_near_the_median_of_the_last(measured in prop::collection::vec(0..10_000_u64, 1..40)) {
            let believed = estimate(measured.iter().copied()).round_trip().unwrap();
            let mut last = measured[measured.len().saturating_sub(COUNTED)..].to_vec();
            last.sort_unstable();
            let median = Duration::from_millis(last[(last.len() - 1) / 2]);
            prop_assert!(median.abs_diff(believed) <= NOISE.max(believed / 4));
        }
    }
}
