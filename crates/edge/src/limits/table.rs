//! Meters by key, in memory that never grows.
//!
//! A key belongs to one of many small sets, by a hash that strangers cannot foresee. In a full set a new key takes the
//! meter that is the closest to rest, as it stands: a meter at rest is as good as a new one, and one in use is not reset by
//! whoever invents keys. So floods by many keys can make others stricter by chance, and nobody more generous.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    marker::PhantomData,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::rate::{Meter, Rate};

const SETS: usize = 4096;
const WAYS: usize = 8;

/// Meters by key.
pub struct RateTable<K: ?Sized> {
    rate: Rate,
    began: Instant,
    hasher: RandomState,
    sets: Box<[Mutex<Set>]>,
    keys: PhantomData<fn(&K)>,
}

/// Some meters, each with what tells its key from others.
#[derive(Clone, Copy, Default)]
struct Set([(u64, Meter); WAYS]);

impl<K: Hash + ?Sized> RateTable<K> {
    /// A table in which each key has this rate.
    pub fn new(rate: Rate) -> Self {
        let sets = (0..SETS).map(|_| Mutex::default()).collect();
        Self { rate, began: Instant::now(), hasher: RandomState::new(), sets, keys: PhantomData }
    }

    /// Counts an event of a key. Tells whether it may happen.
    pub fn take(&self, key: &K, now: Instant) -> bool {
        let hash = self.hasher.hash_one(key);
        let set = &self.sets[hash as usize % SETS];
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        self.rate.take(set.meter(hash), now.saturating_duration_since(self.began))
    }
}

impl Set {
    fn meter(&mut self, key: u64) -> &mut Meter {
        let known = self.0.iter().position(|(it, _)| *it == key);
        let place = known.unwrap_or_else(|| {
            let (place, _) = self.0.iter().enumerate().min_by_key(|(_, (_, meter))| *meter).unwrap_or((0, &self.0[0]));
            self.0[place].0 = key;
            place
        });
        &mut self.0[place].1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_key_has_its_own_rate() {
        let table = RateTable::<str>::new(Rate::new(1, 3));
        let now = Instant::now();
        let passed = |key: &str, now| (0..10).filter(|_| table.take(key, now)).count();
        assert_eq!((passed("one", now), passed("two", now)), (3, 3));
        assert_eq!(passed("one", now + Duration::from_secs(2)), 2);
    }

    #[test]
    fn a_flood_of_invented_keys_resets_nobody_and_leaves_others_their_rate() {
        let table = RateTable::<u32>::new(Rate::new(1, 4));
        let now = Instant::now();
        // The one who floods has used his meter up; a million other keys do not give it back to him.
        assert_eq!((0..10).filter(|_| table.take(&0, now)).count(), 4);
        let passed = (1..1_000_000).filter(|key| table.take(key, now)).count();
        assert!(passed <= SETS * WAYS * 4, "{passed}");
        assert!(!table.take(&0, now));
        // At rest everything is as it was.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| table.take(&0, later)).count(), 4);
    }
}
