//! Replays that are remembered, so that later requests go straight to where the first was sent. Pure but for its lock:
//! `now` in, target out.
//!
//! A request is remembered by the path of its host, if its app's order said so, or by its session, if the app's
//! configuration says so. What is remembered is advice: it may be forgotten at any moment, and a request whose remembered
//! way leads nowhere goes to its app as if nothing were remembered.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use model::AppName;
use tokio::time::Instant;

use super::pattern::prefixes;
use crate::wish::Wish;

/// What one app may have remembered.
const MAX_PER_APP: usize = 10_000;
/// What all apps together may have remembered.
const MAX_OVERALL: usize = 200_000;
/// So many steps of a path are looked at.
const MAX_STEPS: usize = 64;

/// What all apps together have remembered.
#[derive(Clone, Default)]
pub struct Quota(Arc<AtomicUsize>);

impl Quota {
    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |count| (count < MAX_OVERALL).then_some(count + 1)).is_ok()
    }

    fn give_back(&self, count: usize) {
        self.0.fetch_sub(count, Relaxed);
    }
}

/// The remembered replays of an app.
pub struct ReplayCache {
    quota: Quota,
    hasher: [RandomState; 2],
    /// How many there are, so that an app without any costs no lock.
    count: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Keys in the order they were remembered; those that have been replaced or forgotten since are skipped.
    oldest: VecDeque<(Key, u64)>,
    next: u64,
}

struct Entry {
    target: Remembered,
    expires: Instant,
    number: u64,
}

/// By what a request is recognized.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Its host, and a path that it lies below.
    Path {
        /// The host.
        host: String,
        /// The path, without a slash at its end.
        path: String,
    },
    /// Its session.
    Session(Session),
}

/// What tells a session, as it is remembered: only keyed hashes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session([u64; 2]);

/// Where requests go that are recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// To this app.
    pub app: AppName,
    /// To one of these machines.
    pub wish: Wish,
    /// Clients may ask to be routed anew.
    pub allow_bypass: bool,
}

impl ReplayCache {
    /// Nothing is remembered yet.
    pub fn new(quota: Quota) -> Self {
        let hasher = [RandomState::new(), RandomState::new()];
        Self { quota, hasher, count: AtomicUsize::new(0), entries: Mutex::default() }
    }

    /// How a session is remembered: by the host, by what tells it, and by its value.
    pub fn session(&self, host: &str, prefix: &str, name: &str, value: &[u8]) -> Session {
        Session([0, 1].map(|which: usize| self.hasher[which].hash_one((host, prefix, name, value))))
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Where the request of a session goes.
    pub fn of_session(&self, session: Session, now: Instant) -> Option<(Key, Remembered)> {
        self.find([Key::Session(session)].into_iter(), now)
    }

    /// Where a request goes by its path; the longest path that is remembered counts.
    pub fn of_path(&self, host: &str, path: &str, now: Instant) -> Option<(Key, Remembered)> {
        let key = |path: &str| Key::Path { host: host.to_owned(), path: path.to_owned() };
        self.find(prefixes(path).take(MAX_STEPS).map(key), now)
    }

    fn find(&self, keys: impl Iterator<Item = Key>, now: Instant) -> Option<(Key, Remembered)> {
        if self.is_empty() {
            return None;
        }
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if let Some(entry) = entries.by_key.get(&key).filter(|entry| now < entry.expires) {
                return Some((key, entry.target.clone()));
            }
        }
        None
    }

    /// Remembers where requests go. Beyond the bound of the app its oldest are forgotten; beyond the bound of all
    /// nothing more is remembered.
    pub fn keep(&self, key: Key, target: Remembered, ttl: Duration, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        self.quota.give_back(entries.forget_expired(now));
        if !entries.by_key.contains_key(&key) {
            while entries.by_key.len() >= MAX_PER_APP && entries.forget_oldest() {
                self.quota.give_back(1);
            }
            if !self.quota.take() {
                return;
            }
        }
        entries.insert(key, target, now + ttl);
        self.count.store(entries.by_key.len(), Relaxed);
    }

    /// Forgets one.
    pub fn forget(&self, key: &Key) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.by_key.remove(key).is_some() {
            self.quota.give_back(1);
        }
        self.count.store(entries.by_key.len(), Relaxed);
    }
}

impl Entries {
    fn insert(&mut self, key: Key, target: Remembered, expires: Instant) {
        self.next += 1;
        let number = self.next;
        self.oldest.push_back((key.clone(), number));
        self.by_key.insert(key, Entry { target, expires, number });
        // What was replaced or forgotten leaves its place in the order behind.
        if self.oldest.len() > 2 * self.by_key.len() + 16 {
            let by_key = &self.by_key;
            self.oldest.retain(|(key, number)| by_key.get(key).is_some_and(|entry| entry.number == *number));
        }
    }

    /// Forgets the oldest as long as they have expired. Tells how many.
    fn forget_expired(&mut self, now: Instant) -> usize {
        let before = self.by_key.len();
        while let Some((key, number)) = self.oldest.front() {
            match self.by_key.get(key).filter(|entry| entry.number == *number) {
                Some(entry) if now < entry.expires => break,
                Some(_) => drop(self.by_key.remove(key)),
                None => {}
            }
            self.oldest.pop_front();
        }
        before - self.by_key.len()
    }

    /// Forgets the oldest. Tells whether there was one.
    fn forget_oldest(&mut self) -> bool {
        while let Some((key, number)) = self.oldest.pop_front() {
            if self.by_key.get(&key).is_some_and(|entry| entry.number == number) {
                self.by_key.remove(&key);
                return true;
            }
        }
        false
    }
}

impl Drop for ReplayCache {
    fn drop(&mut self) {
        self.quota.give_back(self.count.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn to(app: &str) -> Remembered {
        Remembered { app: app.parse().unwrap(), wish: Wish::default(), allow_bypass: false }
    }

    fn path(host: &str, path: &str) -> Key {
        Key::Path { host: host.into(), path: path.into() }
    }

    #[test]
    fn the_longest_path_counts_per_host_until_it_expires() {
        let (cache, now) = (ReplayCache::new(Quota::default()), Instant::now());
        cache.keep(path("a", ""), to("all"), TTL, now);
        cache.keep(path("a", "/users"), to("users"), TTL / 2, now);
        let found =
            |host: &str, path: &str, now| cache.of_path(host, path, now).map(|(_, target)| target.app.to_string());
        assert_eq!(found("a", "/users/1", now).as_deref(), Some("users"));
        assert_eq!(found("a", "/usersx", now).as_deref(), Some("all"));
        assert_eq!(found("b", "/users", now), None);
        assert_eq!(found("a", "/users/1", now + TTL / 2).as_deref(), Some("all"));
        cache.forget(&path("a", ""));
        assert_eq!(found("a", "/", now), None);
    }

    #[test]
    fn sessions_are_told_apart() {
        let (cache, now) = (ReplayCache::new(Quota::default()), Instant::now());
        let one = cache.session("a", "/", "sid", b"one");
        cache.keep(Key::Session(one), to("one"), TTL, now);
        assert_eq!(cache.of_session(one, now).unwrap().1, to("one"));
        for other in
            [("b", "/", "sid", "one"), ("a", "/x", "sid", "one"), ("a", "/", "id", "one"), ("a", "/", "sid", "two")]
        {
            let session = cache.session(other.0, other.1, other.2, other.3.as_bytes());
            assert!(cache.of_session(session, now).is_none(), "{other:?}");
        }
    }

    #[test]
    fn an_app_forgets_its_oldest_at_its_bound_and_gives_everything_back_in_the_end() {
        let (quota, now) = (Quota::default(), Instant::now());
        let cache = ReplayCache::new(quota.clone());
        for number in 0..MAX_PER_APP + 5 {
            cache.keep(path("a", &format!("/{number}")), to("users"), TTL, now);
        }
        assert!(cache.of_path("a", "/4", now).is_none() && cache.of_path("a", "/5", now).is_some());
        assert_eq!(quota.0.load(Relaxed), MAX_PER_APP);
        drop(cache);
        assert_eq!(quota.0.load(Relaxed), 0);
    }

    #[test]
    fn beyond_the_bound_of_all_nothing_more_is_remembered() {
        let quota = Quota(Arc::new(AtomicUsize::new(MAX_OVERALL)));
        let (cache, now) = (ReplayCache::new(quota), Instant::now());
        cache.keep(path("a", "/x"), to("users"), TTL, now);
        assert!(cache.is_empty());
        cache.quota.0.store(0, Relaxed);
    }

    proptest! {
        #[test]
        fn it_counts_what_it_holds(steps in prop::collection::vec((any::<bool>(), 0..6_u8), 0..60)) {
            let (quota, now) = (Quota::default(), Instant::now());
            let cache = ReplayCache::new(quota.clone());
            for (keep, number) in steps {
                let key = path("a", &format!("/{number}"));
                if keep { cache.keep(key, to("users"), TTL, now) } else { cache.forget(&key) }
                let held = cache.entries.lock().unwrap().by_key.len();
                prop_assert_eq!(quota.0.load(Relaxed), held);
                prop_assert_eq!(cache.is_empty(), held == 0);
            }
        }
    }
}
