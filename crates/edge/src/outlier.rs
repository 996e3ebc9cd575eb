//! Which machines are avoided because requests to them fail. Pure: `now` in, standing out.
//!
//! ```text
//!          failed                        pause over
//!  Good ───────────▶ Avoided ───────────────────────▶ Probed: one request at a time
//!   ▲  an outlier ▶     ▲                                │      │
//!   │                   └─────────── failed, longer ─────┘      │
//!   └──────────────────────────────── worked ───────────────────┘
//! ```
//!
//! Two things bring a machine out. A failure makes it avoided for a short while, longer for each further one in a row:
//! a machine that fails every time serves nobody, so avoiding it takes no room from anybody. And a machine that fails
//! now and then, but much more often than the others of its service, is an outlier ([`is_outlier`]); since it still
//! carries a part of the load, only half of the machines may be avoided for that reason ([`most_avoided`]).
//!
//! What counts are connections that fail and answers that break off or are none, never the status of an answer: an app
//! that answers `500` has been reached.

use std::time::Duration;

use tokio::time::Instant;

/// How long a machine is avoided after its first failure in a row; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_AT_MOST: Duration = Duration::from_secs(10);
/// How long an outlier is avoided, times how often it has been one in a row.
const OUTLIER_PAUSE: Duration = Duration::from_secs(5);
const OUTLIER_PAUSE_AT_MOST: Duration = Duration::from_secs(60);
/// Outcomes are counted for between one and two of these.
const WINDOW: Duration = Duration::from_secs(10);
/// So many outcomes say something.
const ENOUGH: u32 = 20;
/// Below this share of failures nobody is an outlier.
const TOLERABLE: f64 = 0.1;
/// An outlier fails so many times as often as the others.
const TIMES_THE_OTHERS: f64 = 3.0;

/// What is known of a machine's reliability.
#[derive(Debug, Clone, Default)]
pub struct Health {
    failures_in_a_row: u32,
    times_outlier: u32,
    avoided: Option<Avoided>,
    window: Option<Instant>,
    current: Tally,
    before: Tally,
}

#[derive(Debug, Clone, Copy)]
struct Avoided {
    until: Instant,
    why: Why,
}

/// Why a machine is avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The last requests to it failed.
    Failing,
    /// It fails more often than the others.
    Outlier,
}

/// How a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As good as any.
    Good,
    /// It takes one request at a time, until one succeeds.
    Probed,
    /// Only if there is no other.
    Avoided(Why),
}

/// How often it worked and how often not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// It worked.
    pub good: u32,
    /// It failed.
    pub bad: u32,
}

impl Health {
    /// How the machine stands.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.avoided {
            None => Standing::Good,
            Some(avoided) if now < avoided.until => Standing::Avoided(avoided.why),
            Some(_) => Standing::Probed,
        }
    }

    /// A request to it succeeded.
    pub fn worked(&mut self, now: Instant) {
        self.roll(now);
        self.current.good = self.current.good.saturating_add(1);
        self.failures_in_a_row = 0;
        match self.standing(now) {
            Standing::Avoided(Why::Outlier) => {}
            Standing::Probed | Standing::Avoided(Why::Failing) => self.avoided = None,
            Standing::Good => {}
        }
    }

    /// A request to it failed.
    pub fn failed(&mut self, now: Instant) {
        self.roll(now);
        self.current.bad = self.current.bad.saturating_add(1);
        let pause = PAUSE.saturating_mul(1 << self.failures_in_a_row.min(10)).min(PAUSE_AT_MOST);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.avoid(now + pause, Why::Failing);
    }

    /// It was found to be an outlier: what led to it is forgotten, so that it is judged anew by what comes.
    pub fn stands_out(&mut self, now: Instant) {
        self.times_outlier = self.times_outlier.saturating_add(1);
        (self.current, self.before) = Default::default();
        let pause = OUTLIER_PAUSE.saturating_mul(self.times_outlier).min(OUTLIER_PAUSE_AT_MOST);
        self.avoid(now + pause, Why::Outlier);
    }

    /// The outcomes of the last while.
    pub fn tally(&self, now: Instant) -> Tally {
        let mut copy = self.clone();
        copy.roll(now);
        Tally {
            good: copy.current.good.saturating_add(copy.before.good),
            bad: copy.current.bad.saturating_add(copy.before.bad),
        }
    }

    /// Whether nothing at all is held against it, so that it need not be looked at.
    pub fn is_clean(&self) -> bool {
        self.avoided.is_none()
    }

    fn avoid(&mut self, until: Instant, why: Why) {
        if self.avoided.is_none_or(|avoided| avoided.until < until) {
            self.avoided = Some(Avoided { until, why });
        }
    }

    fn roll(&mut self, now: Instant) {
        let began = *self.window.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed < WINDOW {
            return;
        }
        self.before = if passed < WINDOW * 2 { self.current } else { Tally::default() };
        self.current = Tally::default();
        self.window = Some(now);
        if self.before.bad == 0 && self.avoided.is_none() {
            self.times_outlier = 0;
        }
    }
}

impl Tally {
    fn count(self) -> u32 {
        self.good.saturating_add(self.bad)
    }

    fn share_bad(self) -> f64 {
        f64::from(self.bad) / f64::from(self.count().max(1))
    }
}

/// Whether a machine fails so much more often than the others of its service that it is better avoided. A trouble that
/// all have is none of its own.
pub fn is_outlier(own: Tally, others: &[Tally]) -> bool {
    let all = others.iter().fold(Tally::default(), |sum, other| Tally {
        good: sum.good.saturating_add(other.good),
        bad: sum.bad.saturating_add(other.bad),
    });
    own.count() >= ENOUGH
        && all.count() >= ENOUGH
        && own.share_bad() > TOLERABLE
        && own.share_bad() > all.share_bad() * TIMES_THE_OTHERS
}

/// How many of so many machines may be avoided as outliers at a time.
pub fn most_avoided(machines: usize) -> usize {
    machines / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failure_is_avoided_then_probed_and_a_success_ends_it() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.failed(start);
        assert_eq!(health.standing(start), Standing::Avoided(Why::Failing));
        assert_eq!(health.standing(start + PAUSE), Standing::Probed);
        health.failed(start + PAUSE);
        assert_eq!(health.standing(start + PAUSE * 2), Standing::Avoided(Why::Failing), "longer the second time");
        health.worked(start + PAUSE * 3);
        assert_eq!(health.standing(start + PAUSE * 3), Standing::Good);
    }

    #[test]
    fn an_outlier_is_avoided_though_it_works_now_and_then_and_comes_back_by_a_probe() {
        let (mut health, start) = (Health::default(), Instant::now());
        health.stands_out(start);
        health.worked(start);
        assert_eq!(health.standing(start), Standing::Avoided(Why::Outlier));
        let later = start + OUTLIER_PAUSE;
        assert_eq!(health.standing(later), Standing::Probed);
        health.worked(later);
        assert_eq!(health.standing(later), Standing::Good);
        health.stands_out(later);
        assert_eq!(health.standing(later + OUTLIER_PAUSE), Standing::Avoided(Why::Outlier), "longer each time");
    }

    #[test]
    fn outcomes_are_forgotten_with_time() {
        let (mut health, start) = (Health::default(), Instant::now());
        (0..30).for_each(|_| health.worked(start));
        assert_eq!(health.tally(start + WINDOW), Tally { good: 30, bad: 0 });
        assert_eq!(health.tally(start + WINDOW * 2), Tally::default());
    }

    fn tally() -> impl Strategy<Value = Tally> {
        (0..200_u32, 0..200_u32).prop_map(|(good, bad)| Tally { good, bad })
    }

    proptest! {
        #[test]
        fn a_trouble_that_all_have_makes_no_outlier(one in tally(), count in 1..8_usize) {
            prop_assert!(!is_outlier(one, &vec![one; count]));
        }

        #[test]
        fn one_that_fails_every_other_time_among_good_ones_is_an_outlier(count in 1..8_usize, volume in 20..200_u32) {
            let own = Tally { good: volume, bad: volume };
            let others = vec![Tally { good: volume, bad: 0 }; count];
            prop_assert!(is_outlier(own, &others));
        }

        #[test]
        fn few_outcomes_judge_nobody(good in 0..10_u32, bad in 0..10_u32, others in prop::collection::vec(tally(), 0..5)) {
            let own = Tally { good, bad };
            prop_assert!(own.count() >= ENOUGH || !is_outlier(own, &others));
        }

        #[test]
        fn a_pause_is_bounded_and_ends_in_a_probe(outcomes in prop::collection::vec((any::<bool>(), 0..5_000_u64), 0..60)) {
            let (mut health, mut now) = (Health::default(), Instant::now());
            for (good, passed_ms) in outcomes {
                now += Duration::from_millis(passed_ms);
                if good { health.worked(now) } else { health.failed(now) }
            }
            let after = health.standing(now + PAUSE_AT_MOST.max(OUTLIER_PAUSE_AT_MOST));
            prop_assert!(matches!(after, Standing::Good | Standing::Probed));
        }
    }
}
