//! What became of the requests of a run.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    time::Duration,
};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered.
    Served(Served),
    /// There was no machine for it.
    Refused,
}

/// Where a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Served {
    /// The region of the machine.
    pub region: usize,
    /// How many machines had bounced it before, for being at their hard limit.
    pub bounced: u32,
    /// How many machines had failed it before.
    pub failed: u32,
}

/// A request that has ended.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Ended {
    /// The region of its edge.
    pub edge: usize,
    /// When it came.
    pub came: Duration,
    /// When it ended.
    pub ended: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of the requests of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Those that have ended, in that order.
    pub ended: Vec<Ended>,
    /// How many came.
    pub came: usize,
    /// The most that was ever under way to one machine.
    pub most_under_way: u32,
    /// Places in which a rule was broken, in words.
    pub broken: Vec<String>,
}

impl Report {
    /// A number that tells runs apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.ended.hash(&mut hasher);
        hasher.finish()
    }

    /// Of the requests that came to an edge in a span of time: how many were answered in its own region, in another, not
    /// at all.
    pub fn split(&self, edge: usize, from: Duration, until: Duration) -> [usize; 3] {
        let mut split = [0; 3];
        for it in self.ended.iter().filter(|it| it.edge == edge && (from..until).contains(&it.came)) {
            split[match it.outcome {
                Outcome::Served(served) if served.region == edge => 0,
                Outcome::Served(_) => 1,
                Outcome::Refused => 2,
            }] += 1;
        }
        split
    }
}
