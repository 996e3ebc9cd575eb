//! How far regions and hosts are from this edge: the round trip to every other host's worker, measured all the time.
//!
//! ```text
//!  measure ── asks each worker, every few seconds ─▶ estimate ── one per host ─▶ the region's: its closest host's ─▶ pick
//! ```
//!
//! Until anybody has measured it a region is as far as it lies on the map (`geography`). What has been measured is read
//! where a machine is chosen, so that it counts at once and no picture is made anew for it.

mod estimate;
mod measure;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use model::Region;

pub use self::{estimate::Estimate, measure::measure};
use crate::geography;

/// More regions than this are known only as long as they have machines.
const MANY: usize = 4096;

/// How far all regions are from this one.
pub struct Distances {
    here: Region,
    known: Mutex<HashMap<Region, Arc<Distance>>>,
}

/// How far a region is. It changes while machines of it are chosen.
#[derive(Default)]
pub struct Distance {
    round_trip_us: AtomicU64,
    place: AtomicU32,
}

impl Distances {
    /// As the map has it.
    pub fn new(here: Region) -> Self {
        Self { here, known: Mutex::default() }
    }

    /// How far a region is.
    pub fn to(&self, region: &Region) -> Arc<Distance> {
        let mut known = self.known();
        if let Some(distance) = known.get(region) {
            return distance.clone();
        }
        if known.len() >= MANY {
            known.retain(|_, distance| Arc::strong_count(distance) > 1);
        }
        let distance = Arc::new(Distance::default());
        distance.set(geography::guess(&self.here, region), region);
        known.insert(region.clone(), distance.clone());
        distance
    }

    /// A region's closest host is this far. No other region is closer than the one where this edge runs.
    fn measured(&self, region: &Region, round_trip: Duration) {
        if *region != self.here {
            self.to(region).set(round_trip, region);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Region, Arc<Distance>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Distance {
    /// The round trip to it.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us.load(Relaxed))
    }

    /// The place of the region among all, the closest first ([`geography::place`]).
    pub fn place(&self) -> u32 {
        self.place.load(Relaxed)
    }

    fn set(&self, round_trip: Duration, region: &Region) {
        self.round_trip_us.store(round_trip.as_micros() as u64, Relaxed);
        self.place.store(geography::place(round_trip, region), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> Region {
        name.parse().unwrap()
    }

    fn order(distances: &Distances, of: &[&str]) -> Vec<String> {
        let mut regions: Vec<_> = of.iter().map(|name| region(name)).collect();
        regions.sort_by_key(|region| distances.to(region).place());
        regions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn regions_are_ordered_by_the_map_until_they_are_measured() {
        let distances = Distances::new(region("ams"));
        let all = ["syd", "iad", "fra", "ams", "backyard", "waw"];
        assert_eq!(order(&distances, &all), ["ams", "fra", "waw", "iad", "backyard", "syd"]);
        let seen_before = distances.to(&region("backyard"));
        distances.measured(&region("backyard"), Duration::from_micros(600));
        distances.measured(&region("fra"), Duration::from_millis(900));
        assert_eq!(order(&distances, &all), ["backyard", "ams", "waw", "iad", "syd", "fra"]);
        assert_eq!(seen_before.round_trip(), Duration::from_micros(600));
    }

    #[test]
    fn those_that_are_equally_far_keep_one_order() {
        let distances = Distances::new(region("here"));
        let [one, other] = ["one", "other"].map(|name| distances.to(&region(name)));
        assert_eq!(one.round_trip(), other.round_trip());
        assert_ne!(one.place(), other.place());
        assert!(distances.to(&region("here")).place() < one.place().min(other.place()));
    }
}
