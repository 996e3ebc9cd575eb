//! How often something may happen: the generic cell rate algorithm (ITU-T I.371), which needs one number for each meter.
//!
//! ```text
//!            burst × interval
//!         ┌────────────────────┐
//!  ───────┴────────┬───────────┴──────▶ time       each event moves `next` on by one interval;
//!        now      next                             one that would move it beyond the burst is refused
//! ```

use std::time::Duration;

/// So many in the long run, so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    burst_ns: u64,
}

impl Rate {
    /// `per_second` in the long run, `burst` at once; at least one of each.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        let interval_ns = 1_000_000_000 / per_second as u64;
        let interval_ns = if interval_ns == 0 { 1 } else { interval_ns };
        let burst = if burst == 0 { 1 } else { burst };
        Self { interval_ns, burst_ns: interval_ns * burst as u64 }
    }

    /// Counts an event at `now`, after some beginning that all meters share. Tells whether it may happen; if not, it has
    /// not been counted.
    pub fn take(&self, meter: &mut Meter, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let next = meter.next_ns.max(now).saturating_add(self.interval_ns);
        let fits = next.saturating_sub(now) <= self.burst_ns;
        if fits {
            meter.next_ns = next;
        }
        fits
    }
}

/// When the next event would come if they came evenly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meter {
    next_ns: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(rate: Rate, times_ms: &[u64]) -> usize {
        let mut meter = Meter::default();
        times_ms.iter().filter(|ms| rate.take(&mut meter, Duration::from_millis(**ms))).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::new(10, 5);
        assert_eq!(taken(rate, &[0; 20]), 5);
        assert_eq!(taken(rate, &[0, 0, 0, 0, 0, 0, 100, 100, 200, 200]), 7);
    }

    #[test]
    fn whoever_keeps_to_the_rate_is_never_refused() {
        let times: Vec<u64> = (0..1000).map(|n| n * 100).collect();
        assert_eq!(taken(Rate::new(10, 1), &times), 1000);
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_has_more_than_its_burst_and_its_rate(
            per_second in 1u32..1000,
            burst in 1u32..100,
            mut times in prop::collection::vec(0u64..10_000, 1..300),
        ) {
            times.sort_unstable();
            let (rate, mut meter) = (Rate::new(per_second, burst), Meter::default());
            let passed: Vec<u64> =
                times.into_iter().filter(|ms| rate.take(&mut meter, Duration::from_millis(*ms))).collect();
            for (at, from) in passed.iter().enumerate() {
                for (count, to) in passed[at..].iter().enumerate() {
                    let most = f64::from(burst) + (to - from) as f64 / 1000.0 * f64::from(per_second) * 1.001;
                    prop_assert!((count + 1) as f64 <= most + 1.0, "{} in {} ms", count + 1, to - from);
                }
            }
        }
    }
}
