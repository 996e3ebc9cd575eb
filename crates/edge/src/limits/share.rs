//! Places that many share, so that nobody takes them all: dynamic thresholds (Choudhury and Hahne, 1998).
//!
//! One may have as many places as are free. A flood ends at half of all places, the next one at half of what is left; as
//! many again stay free for everybody else. Nothing has to be set for that, and while there is room nobody is refused for
//! having much.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Places that are shared.
pub struct Shares {
    bound: usize,
    most: usize,
    taken: AtomicUsize,
}

/// A place that was taken. Dropping it gives it free.
pub struct Place {
    shares: Arc<Shares>,
    mine: Arc<AtomicUsize>,
}

impl Shares {
    /// So many in all, and never more than `most` for one.
    pub fn new(bound: usize, most: usize) -> Arc<Self> {
        Arc::new(Self { bound, most, taken: AtomicUsize::new(0) })
    }

    /// A place for one who has `mine` already.
    pub fn take(self: &Arc<Self>, mine: &Arc<AtomicUsize>) -> Option<Place> {
        let of_mine = mine.fetch_add(1, Relaxed);
        let taken = self.taken.fetch_add(1, Relaxed);
        let place = Place { shares: self.clone(), mine: mine.clone() };
        (taken < self.bound && may_take(of_mine, self.bound - taken, self.most)).then_some(place)
    }

    /// Whether one who has `mine` might take a place now.
    pub fn has_room(&self, mine: &AtomicUsize) -> bool {
        may_take(mine.load(Relaxed), self.bound.saturating_sub(self.taken.load(Relaxed)), self.most)
    }
}

/// Whether one who has so many may have another while so many are free.
pub(super) fn may_take(mine: usize, free: usize, most: usize) -> bool {
    mine < free && mine < most
}

impl Drop for Place {
    fn drop(&mut self) {
        self.mine.fetch_sub(1, Relaxed);
        self.shares.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flood(shares: &Arc<Shares>, mine: &Arc<AtomicUsize>) -> Vec<Place> {
        std::iter::from_fn(|| shares.take(mine)).collect()
    }

    #[test]
    fn whoever_floods_leaves_as_much_as_he_takes() {
        let shares = Shares::new(90, usize::MAX);
        let (one, two, three) = (Arc::default(), Arc::default(), Arc::default());
        let first = flood(&shares, &one);
        assert_eq!(first.len(), 45);
        let second = flood(&shares, &two);
        assert_eq!(second.len(), 23);
        assert!(!flood(&shares, &three).is_empty());
        drop((first, second));
        assert_eq!((one.load(Relaxed), shares.taken.load(Relaxed)), (0, 0));
        assert_eq!(flood(&Shares::new(90, 10), &Arc::default()).len(), 10);
    }

    proptest! {
        #[test]
        fn nobody_has_more_than_half_and_who_has_nothing_is_refused_only_when_all_is_taken(
            bound in 1usize..200,
            wishes in prop::collection::vec((0usize..4, any::<bool>()), 0..1000),
        ) {
            let shares = Shares::new(bound, usize::MAX);
            let users: Vec<Arc<AtomicUsize>> = (0..4).map(|_| Arc::default()).collect();
            let mut held: Vec<Vec<Place>> = (0..4).map(|_| Vec::new()).collect();
            for (user, takes) in wishes {
                let taken: usize = held.iter().map(Vec::len).sum();
                prop_assert_eq!(taken, shares.taken.load(Relaxed));
                if takes {
                    let place = shares.take(&users[user]);
                    prop_assert!(place.is_some() || !held[user].is_empty() || taken == bound);
                    held[user].extend(place);
                } else {
                    held[user].pop();
                }
                prop_assert!(held[user].len() <= bound.div_ceil(2));
                prop_assert_eq!(held[user].len(), users[user].load(Relaxed));
            }
        }
    }
}
