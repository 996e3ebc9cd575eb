//! What happens next: events by their time, those of one moment in the order in which they were planned.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

/// Events to come.
#[derive(Debug)]
pub struct Events<E> {
    now: Duration,
    number: u64,
    order: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, E>,
}

impl<E> Events<E> {
    /// Nothing is planned.
    pub fn new() -> Self {
        Self { now: Duration::ZERO, number: 0, order: BinaryHeap::new(), events: BTreeMap::new() }
    }

    /// The time, since the beginning.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Plans an event.
    pub fn after(&mut self, wait: Duration, event: E) {
        self.number += 1;
        self.order.push(Reverse((self.now + wait, self.number)));
        self.events.insert(self.number, event);
    }

    /// The next event; it is its time now.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse((at, number)) = self.order.pop()?;
        self.now = at;
        self.events.remove(&number)
    }
}
