//! Which machine takes a request: a pure function.
//!
//! Machines that the request does not want, and machines at their hard limit, are out. Of the rest, in this order, those
//! come first
//!
//! 1. that this request has not tried,
//! 2. that are not avoided (`outlier`),
//! 3. that meet the request's wish best (`wish`),
//! 4. in the closest region: only hard limits and failures push a request into another region, soft limits never do,
//! 5. below their soft limit: load is told in three states only (below soft, below hard, at hard), so that a herd of edges
//!    does not chase the one machine that looks emptiest,
//! 6. closest within the region.
//!
//! Among equals two are drawn at random and the less loaded of the two wins.

use crate::outlier::{Standing, Why, most_avoided};

/// A machine as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// How well it meets the request's wish, lower is better; `None` if not at all.
    pub wished: Option<u16>,
    /// The place of its region among all, the closest first.
    pub region: u16,
    /// How near it is, lower is nearer.
    pub near: u8,
    /// What is under way to it.
    pub load: u32,
    /// Above it, others are preferred.
    pub soft_limit: u32,
    /// Never more than this at a time.
    pub hard_limit: Option<u32>,
    /// Whether requests to it fail.
    pub standing: Standing,
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
    /// There is none that the request wants.
    Nobody,
}

/// Lower is better, the first difference decides.
type Rank = (bool, bool, u16, u16, bool, u8);

impl Candidate {
    fn has_room(&self) -> bool {
        self.hard_limit.is_none_or(|limit| self.load < limit)
    }

    fn is_avoided(&self, outliers_count: bool) -> bool {
        match self.standing {
            Standing::Good => false,
            Standing::Probed => self.load > 0,
            Standing::Avoided(Why::Failing) => true,
            Standing::Avoided(Why::Outlier) => outliers_count,
        }
    }

    fn rank(&self, outliers_count: bool) -> Rank {
        let wished = self.wished.unwrap_or(u16::MAX);
        let busy = self.load >= self.soft_limit;
        (self.tried, self.is_avoided(outliers_count), wished, self.region, busy, self.near)
    }
}

/// Chooses one of `candidates`. `random` holds two independent numbers.
pub fn pick(candidates: &[Candidate], random: [u32; 2]) -> Pick {
    let outliers_count = outliers_count(candidates);
    let wanted = candidates.iter().enumerate().filter(|(_, candidate)| candidate.wished.is_some());
    let open = wanted.clone().filter(|(_, candidate)| candidate.has_room());
    let Some(best) = open.clone().map(|(_, candidate)| candidate.rank(outliers_count)).min() else {
        return if wanted.count() == 0 { Pick::Nobody } else { Pick::Full };
    };
    let equals = open.filter(|(_, candidate)| candidate.rank(outliers_count) == best);
    let count = equals.clone().count();
    let mut drawn = random.map(|number| number as usize % count);
    if drawn[0] == drawn[1] {
        drawn[1] = (drawn[1] + 1) % count;
    }
    let two = drawn.iter().filter_map(|place| equals.clone().nth(*place));
    two.min_by_key(|(_, candidate)| candidate.load).map_or(Pick::Nobody, |(index, _)| Pick::Machine(index))
}

/// Whether outliers may be avoided: not if they are more than may be at a time.
fn outliers_count(candidates: &[Candidate]) -> bool {
    let outliers = candidates.iter().filter(|it| it.standing == Standing::Avoided(Why::Outlier)).count();
    outliers <= most_avoided(candidates.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Candidate = Candidate {
        wished: Some(1),
        region: 0,
        near: 0,
        load: 0,
        soft_limit: 20,
        hard_limit: None,
        standing: Standing::Good,
        tried: false,
    };

    fn any_standing() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Good),
            Just(Standing::Probed),
            Just(Standing::Avoided(Why::Failing)),
            Just(Standing::Avoided(Why::Outlier)),
        ]
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let place = (prop::option::of(0..3_u16), 0..3_u16, 0..3_u8);
        let load = (0..6_u32, 0..5_u32, prop::option::of(1..6_u32));
        (place, load, any_standing(), any::<bool>()).prop_map(
            |((wished, region, near), (load, soft_limit, hard_limit), standing, tried)| Candidate {
                wished,
                region,
                near,
                load,
                soft_limit,
                hard_limit,
                standing,
                tried,
            },
        )
    }

    proptest! {
        #[test]
        fn the_chosen_one_is_wanted_has_room_and_nobody_with_room_ranks_better(
            candidates in prop::collection::vec(any_candidate(), 0..9), random: [u32; 2],
        ) {
            let counts = outliers_count(&candidates);
            let wanted: Vec<_> = candidates.iter().filter(|it| it.wished.is_some()).collect();
            match pick(&candidates, random) {
                Pick::Machine(index) => {
                    let chosen = candidates[index];
                    prop_assert!(chosen.has_room() && chosen.wished.is_some());
                    let better = |it: &&&Candidate| it.has_room() && it.rank(counts) < chosen.rank(counts);
                    prop_assert_eq!(wanted.iter().filter(better).count(), 0);
                }
                Pick::Full => prop_assert!(!wanted.is_empty() && wanted.iter().all(|it| !it.has_room())),
                Pick::Nobody => prop_assert!(wanted.is_empty()),
            }
        }

        #[test]
        fn of_two_equals_the_less_loaded_wins(low in 0..10_u32, more in 1..10_u32, random: [u32; 2]) {
            let with = |load| Candidate { load, ..IDLE };
            prop_assert_eq!(pick(&[with(low + more), with(low)], random), Pick::Machine(1));
        }

        #[test]
        fn a_request_leaves_its_region_only_when_all_there_are_full_or_fail(
            local in prop::collection::vec(any_candidate(), 1..6), remote in prop::collection::vec(any_candidate(), 1..6),
            random: [u32; 2],
        ) {
            let place = |region: u16| move |it: &Candidate| {
                Candidate { region, wished: Some(1), tried: false, ..*it }
            };
            let candidates: Vec<_> = local.iter().map(place(0)).chain(remote.iter().map(place(1))).collect();
            let counts = outliers_count(&candidates);
            let Pick::Machine(index) = pick(&candidates, random) else { return Ok(()) };
            if candidates[index].region == 1 {
                let usable = |it: &&Candidate| it.region == 0 && it.has_room() && !it.is_avoided(counts);
                prop_assert_eq!(candidates.iter().filter(usable).count(), 0);
            }
        }

        #[test]
        fn outliers_are_avoided_only_while_they_are_the_smaller_part(outliers in 1..6_usize, good in 0..6_usize, random: [u32; 2]) {
            let outlier = Candidate { standing: Standing::Avoided(Why::Outlier), load: 0, ..IDLE };
            let mut candidates = vec![outlier; outliers];
            candidates.extend(vec![Candidate { load: 30, ..IDLE }; good]);
            let Pick::Machine(index) = pick(&candidates, random) else { panic!("all have room") };
            prop_assert_eq!(index < outliers, outliers > good);
        }
    }

    #[test]
    fn every_equal_machine_gets_its_turn() {
        let picks: std::collections::BTreeSet<_> = (0..50_u32)
            .map(|n| match pick(&[IDLE; 5], [n.wrapping_mul(2_654_435_761), n.wrapping_mul(40_503)]) {
                Pick::Machine(index) => index,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(picks.len(), 5);
    }

    #[test]
    fn one_that_is_probed_takes_one_request_at_a_time() {
        let probed = |load| Candidate { standing: Standing::Probed, load, ..IDLE };
        let busy = Candidate { load: 30, ..IDLE };
        assert_eq!(pick(&[busy, probed(0)], [0, 1]), Pick::Machine(1));
        assert_eq!(pick(&[busy, probed(1)], [0, 1]), Pick::Machine(0));
    }
}
