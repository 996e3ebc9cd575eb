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
//!
//! A machine that has just become ready has only a part of its share (`warmup`): its soft limit counts in that part, it
//! is drawn in that part as often, and its load weighs as much more. It is never left without anything, and where there
//! is no other it gets all.

use crate::{
    outlier::{Standing, Why, most_avoided},
    warmup::WHOLE,
};

/// A machine as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// How well it meets the request's wish, lower is better; `None` if not at all.
    pub wished: Option<u16>,
    /// The place of its region among all, the closest first.
    pub region: u32,
    /// How near it is, lower is nearer.
    pub near: u8,
    /// What is under way to it.
    pub load: u32,
    /// How much of its share it gets, in percent, at least one.
    pub share: u8,
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
type Rank = (bool, bool, u16, u32, bool, u8);

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
        let busy = u64::from(self.load) * u64::from(WHOLE) >= u64::from(self.soft_limit) * u64::from(self.share);
        (self.tried, self.is_avoided(outliers_count), wished, self.region, busy, self.near)
    }

    /// What it would be under way to it if it had its whole share.
    fn weight(&self) -> u64 {
        u64::from(self.load) * u64::from(WHOLE) / u64::from(self.share.max(1))
    }
}

/// Chooses one of `candidates`. `random` holds two independent numbers.
pub fn pick(candidates: &[Candidate], random: [u32; 2]) -> Pick {
    let outliers_count = outliers_count(candidates);
    let (mut best, mut shares, mut wanted) = (None, 0, false);
    for candidate in candidates.iter().filter(|candidate| candidate.wished.is_some()) {
        wanted = true;
        if !candidate.has_room() {
            continue;
        }
        let rank = candidate.rank(outliers_count);
        if best.is_none_or(|best| rank < best) {
            (best, shares) = (Some(rank), 0);
        }
        shares += u64::from(candidate.share) * u64::from(best == Some(rank));
    }
    let Some(best) = best else { return if wanted { Pick::Full } else { Pick::Nobody } };
    let is_equal = |it: &Candidate| it.wished.is_some() && it.has_room() && it.rank(outliers_count) == best;
    let equals = candidates.iter().enumerate().filter(|(_, it)| is_equal(it));
    Pick::Machine(draw(equals, shares, random))
}

/// Draws two, each as often as its share is large, and takes the one that has less to do. `shares` is the sum of all.
fn draw<'a>(equals: impl Iterator<Item = (usize, &'a Candidate)> + Clone, shares: u64, random: [u32; 2]) -> usize {
    let (first, one) = at(equals.clone(), scaled(random[0], shares));
    let rest = shares - u64::from(one.share);
    if rest == 0 {
        return first;
    }
    let (second, other) = at(equals.filter(|(index, _)| *index != first), scaled(random[1], rest));
    if other.weight() < one.weight() { second } else { first }
}

/// A random number below `bound`.
fn scaled(random: u32, bound: u64) -> u64 {
    (u64::from(random) * bound) >> 32
}

/// The candidate in whose share a point lies.
fn at<'a>(mut among: impl Iterator<Item = (usize, &'a Candidate)>, point: u64) -> (usize, &'a Candidate) {
    let mut passed = 0;
    let found = among.find(|(_, candidate)| {
        passed += u64::from(candidate.share);
        point < passed
    });
    found.expect("a point lies below the sum of shares")
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
        share: WHOLE,
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
        let place = (prop::option::of(0..3_u16), 0..3_u32, 0..3_u8);
        let load = (0..6_u32, 0..5_u32, prop::option::of(1..6_u32), 1..=WHOLE);
        (place, load, any_standing(), any::<bool>()).prop_map(
            |((wished, region, near), (load, soft_limit, hard_limit, share), standing, tried)| Candidate {
                wished,
                region,
                near,
                load,
                share,
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
            let place = |region: u32| move |it: &Candidate| {
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

    /// Of many requests that each take as long as `held` others, how many a warming machine gets among `others`.
    fn part_of(share: u8, others: usize, held: usize) -> f64 {
        const REQUESTS: u32 = 20_000;
        let mut candidates = vec![Candidate { soft_limit: u32::MAX, ..IDLE }; others];
        candidates.push(Candidate { share, soft_limit: u32::MAX, ..IDLE });
        let (mut under_way, mut got) = (std::collections::VecDeque::new(), 0);
        for n in 0..REQUESTS {
            if under_way.len() == held {
                under_way.pop_front().into_iter().for_each(|index: usize| candidates[index].load -= 1);
            }
            let random = [n.wrapping_mul(2_654_435_761), n.wrapping_mul(3_266_489_917).rotate_left(13)];
            let Pick::Machine(index) = pick(&candidates, random) else { panic!("all have room") };
            candidates[index].load += 1;
            under_way.push_back(index);
            got += u32::from(index == others);
        }
        f64::from(got) / f64::from(REQUESTS)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_machine_that_warms_up_gets_some_but_no_more_than_its_share(
            share in 10..=WHOLE, others in 1..6_usize, held in 0..40_usize,
        ) {
            let whole = part_of(WHOLE, others, held);
            let part = part_of(share, others, held);
            // Two are drawn, so with few others a small share weighs a little more than itself.
            let fair = f64::from(share) / (f64::from(share) + others as f64 * f64::from(WHOLE));
            prop_assert!(part > fair * 0.4 && part < (fair * 1.6).max(whole * 1.1), "{part} of {whole}, {fair} is fair");
        }
    }

    #[test]
    fn a_machine_that_warms_up_is_preferred_only_up_to_its_part_of_the_soft_limit() {
        let busy = Candidate { load: 20, ..IDLE };
        let warming = |load| Candidate { load, share: 10, ..IDLE };
        assert_eq!(pick(&[busy, warming(1)], [0, 0]), Pick::Machine(1), "below its part others are busier");
        let picks = |n: u32| pick(&[busy, warming(2)], [n.wrapping_mul(2_654_435_761), 0]);
        assert!((0..50).all(|n| picks(n) == Pick::Machine(0) || picks(n) == Pick::Machine(1)));
        assert_eq!(pick(&[warming(7)], [0, 0]), Pick::Machine(0), "alone it gets all");
    }

    #[test]
    fn every_equal_machine_gets_its_turn() {
        let picks: std::collections::BTreeSet<_> = (0..50_u32)
            .map(|n| match pick(&[IDLE; 5], [n.wrapping_mul(2_654_435_761), n.wrapping_mul(3_266_489_917)]) {
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
