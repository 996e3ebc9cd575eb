//! Which sleeping machine is woken: a pure function.
//!
//! The one that meets the request's wish best, of the
//! closest region, that failed least often when it was woken; suspended ones, which come up sooner, before stopped ones.

use std::time::Duration;

/// What is known of waking a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// It can be woken; so many tries in a row have failed.
    Quiet(u32),
    /// It is being woken.
    Rings,
    /// It could not be woken a moment ago.
    Failed,
}

/// A sleeping machine as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sleeper {
    /// What is known of waking it.
    pub ring: Ring,
    /// How well it meets the request's wish, lower is better.
    pub wished: u16,
    /// The round trip to its region.
    pub distance: Duration,
    /// Its memory was kept.
    pub suspended: bool,
}

/// What the choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Wake this one, by its place in the list.
    Ring(usize),
    /// None can be woken for now.
    Failed,
    /// There is none.
    Nobody,
}

/// Chooses one of `sleepers`.
pub fn choose(sleepers: &[Sleeper]) -> Choice {
    let quiet = sleepers.iter().enumerate().filter_map(|(place, sleeper)| match sleeper.ring {
        Ring::Quiet(failures) => Some((sleeper.wished, sleeper.distance, failures, !sleeper.suspended, place)),
        Ring::Rings | Ring::Failed => None,
    });
    match quiet.min() {
        Some((.., place)) => Choice::Ring(place),
        None if sleepers.is_empty() => Choice::Nobody,
        None => Choice::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_sleeper() -> impl Strategy<Value = Sleeper> {
        let ring = prop_oneof![4 => (0..3_u32).prop_map(Ring::Quiet), 1 => Just(Ring::Rings), 2 => Just(Ring::Failed)];
        (ring, 0..3_u16, 0..3_u64, any::<bool>()).prop_map(|(ring, wished, distance, suspended)| Sleeper {
            ring,
            wished,
            distance: Duration::from_millis(distance),
            suspended,
        })
    }

    proptest! {
        #[test]
        fn the_best_is_woken_of_those_that_did_not_fail_a_moment_ago(
            sleepers in prop::collection::vec(any_sleeper(), 0..8),
        ) {
            let quiet: Vec<_> = sleepers.iter().filter(|it| matches!(it.ring, Ring::Quiet(_))).collect();
            match choose(&sleepers) {
                Choice::Ring(place) => {
                    let chosen = sleepers[place];
                    prop_assert!(matches!(chosen.ring, Ring::Quiet(_)));
                    let better = |it: &&&Sleeper| (it.wished, it.distance) < (chosen.wished, chosen.distance);
                    prop_assert_eq!(quiet.iter().filter(better).count(), 0);
                }
                Choice::Failed => prop_assert!(quiet.is_empty() && !sleepers.is_empty()),
                Choice::Nobody => prop_assert!(sleepers.is_empty()),
            }
        }
    }
}
