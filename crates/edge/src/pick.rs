//! Which machine takes a request: a pure function.
//!
//! Machines at their hard limit are out. Of the rest, those come first that this request has not tried, then those that
//! did not fail a moment ago, then those below their soft limit. Load is told in three states only, so that a herd of
//! edges does not chase the one machine that looks emptiest. Among equals two are drawn at random and the less loaded
//! of the two wins.

/// A machine as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// What is under way to it.
    pub load: u32,
    /// Above it, others are preferred.
    pub soft_limit: u32,
    /// Never more than this at a time.
    pub hard_limit: Option<u32>,
    /// It failed a moment ago.
    pub suspect: bool,
    /// This request has tried it already.
    pub tried: bool,
}

/// What the choice came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// This one, by its place in the list.
    Machine(usize),
    /// All are at their hard limit.
    Full,
    /// There is none.
    Nobody,
}

impl Candidate {
    fn has_room(&self) -> bool {
        self.hard_limit.is_none_or(|limit| self.load < limit)
    }

    /// Lower is better.
    fn rank(&self) -> (bool, bool, bool) {
        (self.tried, self.suspect, self.load >= self.soft_limit)
    }
}

/// Chooses one of `candidates`. `random` holds two independent numbers.
pub fn pick(candidates: &[Candidate], random: [u32; 2]) -> Pick {
    let open = candidates.iter().enumerate().filter(|(_, candidate)| candidate.has_room());
    let Some(best) = open.clone().map(|(_, candidate)| candidate.rank()).min() else {
        return if candidates.is_empty() { Pick::Nobody } else { Pick::Full };
    };
    let equals = open.filter(|(_, candidate)| candidate.rank() == best);
    let count = equals.clone().count();
    let mut drawn = random.map(|number| number as usize % count);
    if drawn[0] == drawn[1] {
        drawn[1] = (drawn[1] + 1) % count;
    }
    let two = drawn.iter().filter_map(|place| equals.clone().nth(*place));
    two.min_by_key(|(_, candidate)| candidate.load).map_or(Pick::Nobody, |(index, _)| Pick::Machine(index))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (0..6_u32, 0..5_u32, prop::option::of(1..6_u32), any::<bool>(), any::<bool>()).prop_map(
            |(load, soft_limit, hard_limit, suspect, tried)| Candidate { load, soft_limit, hard_limit, suspect, tried },
        )
    }

    proptest! {
        #[test]
        fn the_chosen_one_has_room_and_nobody_with_room_ranks_better(
            candidates in prop::collection::vec(any_candidate(), 0..9), random: [u32; 2],
        ) {
            match pick(&candidates, random) {
                Pick::Machine(index) => {
                    let chosen = candidates[index];
                    prop_assert!(chosen.has_room());
                    prop_assert!(candidates.iter().filter(|it| it.has_room()).all(|it| it.rank() >= chosen.rank()));
                }
                Pick::Full => {
                    prop_assert!(!candidates.is_empty() && candidates.iter().all(|it| !it.has_room()));
                }
                Pick::Nobody => prop_assert!(candidates.is_empty()),
            }
        }

        #[test]
        fn of_two_equals_the_less_loaded_wins(low in 0..10_u32, more in 1..10_u32, random: [u32; 2]) {
            let with = |load| Candidate { load, soft_limit: 20, hard_limit: None, suspect: false, tried: false };
            prop_assert_eq!(pick(&[with(low + more), with(low)], random), Pick::Machine(1));
        }
    }

    #[test]
    fn every_equal_machine_gets_its_turn() {
        let idle = Candidate { load: 0, soft_limit: 20, hard_limit: None, suspect: false, tried: false };
        let picks: std::collections::BTreeSet<_> = (0..50_u32)
            .map(|n| match pick(&[idle; 5], [n.wrapping_mul(2_654_435_761), n.wrapping_mul(40_503)]) {
                Pick::Machine(index) => index,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(picks.len(), 5);
    }
}
