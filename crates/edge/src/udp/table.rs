//! The flows of one public port, bounded. Pure: what there is and what time it is in, what stays out.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::limits::source_of;

/// Whose flow it is: the client, and which of our addresses he sends to.
pub type Key = (SocketAddr, Option<IpAddr>);

/// What is asked of a flow.
pub trait Answers {
    /// When the machine answered last, if it ever did.
    fn answered(&self) -> Option<Instant>;
}

/// How many, how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Flows at a time.
    pub flows: usize,
    /// Flows of one source (an IPv4 address, an IPv6 /64) at a time.
    pub flows_per_source: usize,
    /// How long a flow lasts in silence, while nobody knows whether its client is real.
    pub one_way: Duration,
    /// How long any other lasts in silence.
    pub both_ways: Duration,
}

/// There is no room for a flow.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The flows.
pub struct Table<F> {
    limits: Limits,
    flows: HashMap<Key, Entry<F>>,
    sources: HashMap<IpAddr, usize>,
    /// Flows in the order in which they began, the one-way ones among them all.
    begun: VecDeque<(Key, u64)>,
    next: u64,
}

struct Entry<F> {
    flow: F,
    number: u64,
    seen: Instant,
    /// The client went on after an answer: he is where he says.
    both_ways: bool,
}

impl<F: Answers> Table<F> {
    /// No flows.
    pub fn new(limits: Limits) -> Self {
        Self { limits, flows: HashMap::new(), sources: HashMap::new(), begun: VecDeque::new(), next: 0 }
    }

    /// A client's flow, into which a datagram goes now.
    pub fn find(&mut self, key: &Key, now: Instant) -> Option<&F> {
        let entry = self.flows.get_mut(key)?;
        entry.seen = now;
        entry.both_ways |= entry.flow.answered().is_some();
        Some(&entry.flow)
    }

    /// Makes room for one more flow of a client.
    pub fn make_room(&mut self, key: &Key) -> Result<(), Full> {
        if self.sources.get(&source_of(key.0.ip())).is_some_and(|count| *count >= self.limits.flows_per_source) {
            return Err(Full);
        }
        while self.flows.len() >= self.limits.flows {
            let (oldest, number) = self.begun.pop_front().ok_or(Full)?;
            if self.flows.get(&oldest).is_some_and(|entry| entry.number == number && !entry.both_ways) {
                self.remove(&oldest);
            }
        }
        Ok(())
    }

    /// Adds a flow for which there is room.
    pub fn insert(&mut self, key: Key, flow: F, now: Instant) {
        self.remove(&key);
        self.next += 1;
        *self.sources.entry(source_of(key.0.ip())).or_default() += 1;
        self.begun.push_back((key, self.next));
        self.flows.insert(key, Entry { flow, number: self.next, seen: now, both_ways: false });
    }

    /// Ends a flow.
    pub fn remove(&mut self, key: &Key) {
        if self.flows.remove(key).is_none() {
            return;
        }
        let source = source_of(key.0.ip());
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// Ends the flows that have been silent for too long.
    pub fn sweep(&mut self, now: Instant) {
        let limits = self.limits;
        let silent = |entry: &Entry<F>| {
            let last = entry.flow.answered().map_or(entry.seen, |answered| answered.max(entry.seen));
            let enough = if entry.both_ways { limits.both_ways } else { limits.one_way };
            now.duration_since(last) >= enough
        };
        let gone: Vec<Key> = self.flows.iter().filter(|(_, entry)| silent(entry)).map(|(key, _)| *key).collect();
        gone.iter().for_each(|key| self.remove(key));
        let flows = &self.flows;
        let one_way =
            |(key, number): &(Key, u64)| flows.get(key).is_some_and(|it| it.number == *number && !it.both_ways);
        self.begun.retain(one_way);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.flows.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    struct Flow(Cell<Option<Instant>>);

    impl Answers for Flow {
        fn answered(&self) -> Option<Instant> {
            self.0.get()
        }
    }

    const LIMITS: Limits =
        Limits { flows: 8, flows_per_source: 3, one_way: Duration::from_secs(10), both_ways: Duration::from_secs(120) };

    fn key(source: u8, port: u16) -> Key {
        (SocketAddr::from(([192, 0, 2, source], port)), None)
    }

    fn begin(table: &mut Table<Flow>, key: Key, now: Instant) -> Result<(), Full> {
        table.make_room(&key).map(|()| table.insert(key, Flow(Cell::new(None)), now))
    }

    #[test]
    fn lies_about_sources_do_not_push_out_whoever_is_real() {
        let (mut table, now) = (Table::new(LIMITS), Instant::now());
        let real = key(1, 1);
        begin(&mut table, real, now).unwrap();
        table.find(&real, now).unwrap().0.set(Some(now));
        assert!(table.find(&real, now).is_some());
        for lie in 2..=200 {
            begin(&mut table, key(lie, 9), now).unwrap();
        }
        assert_eq!(table.len(), LIMITS.flows);
        assert!(table.find(&real, now).is_some());
        for port in 2..=3 {
            begin(&mut table, key(1, port), now).unwrap();
        }
        assert_eq!(begin(&mut table, key(1, 4), now), Err(Full), "one source has its bound");
        table.sweep(now + LIMITS.one_way);
        assert_eq!(table.len(), 1);
        table.sweep(now + LIMITS.both_ways);
        assert_eq!(table.len(), 0);
        assert!(table.sources.is_empty() && table.begun.is_empty());
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_the_counts_are_true(steps in prop::collection::vec((0..6_u8, 0..4_u16, 0..4_u8), 0..300)) {
            let (mut table, mut now) = (Table::<Flow>::new(LIMITS), Instant::now());
            for (source, port, what) in steps {
                let key = key(source, port);
                match what {
                    0 => now += Duration::from_secs(3),
                    1 => table.sweep(now),
                    2 => if let Some(flow) = table.find(&key, now) { flow.0.set(Some(now)) },
                    _ if table.find(&key, now).is_none() => drop(begin(&mut table, key, now)),
                    _ => {}
                }
                prop_assert!(table.len() <= LIMITS.flows);
                prop_assert_eq!(table.sources.values().sum::<usize>(), table.len());
                prop_assert!(table.sources.values().all(|count| (1..=LIMITS.flows_per_source).contains(count)));
            }
        }
    }
}
