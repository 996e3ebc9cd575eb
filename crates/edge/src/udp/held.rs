//! Datagrams that wait for a machine: one that wakes, or one that has just come up and whose program may not listen yet.
//! Pure: what waits and what time it is in, what is to be sent now out.
//!
//! ```text
//!           no machine yet                      a machine
//!  arrives ───────────────▶ waiting ──────────────────────────▶ tried ── nothing said for a moment, or an answer ─▶ done
//!                             ▲ │ too long                        │
//!                             │ └────────▶ lost                   │ the machine says that nobody listens
//!                             └───────────────────────────────────┘
//! ```
//!
//! Few wait, and none for long: a client that gets no answer sends again. One source has a part of the places only, since
//! it may be a lie.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::{flow::Slot, table::Key};
use crate::limits::source_of;

/// So many wait at a port.
const MOST: usize = 64;
/// So many of one source.
const MOST_OF_SOURCE: usize = 16;
/// A longer one does not wait. What passes through networks without being cut is shorter.
const LONGEST: usize = 2048;
/// So long after one was sent the machine may say that nobody listened.
const TRIAL: Duration = Duration::from_millis(250);

/// What waits at a port.
pub struct Held {
    waiting: VecDeque<Waiting>,
    /// No datagram waits longer.
    longest: Duration,
}

/// A datagram that waits.
pub struct Waiting {
    /// Whose flow it belongs to.
    pub key: Key,
    /// What it says.
    pub datagram: Box<[u8]>,
    since: Instant,
    /// When it was sent last, if it was.
    pub tried: Option<Instant>,
    /// Its place among all that is held.
    _slot: Slot,
}

impl Held {
    /// Nothing. No datagram will wait for longer than this.
    pub fn new(longest: Duration) -> Self {
        Self { waiting: VecDeque::new(), longest }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether something of a flow waits to be sent, so that what comes next waits behind it.
    pub fn has_unsent(&self, key: &Key) -> bool {
        self.waiting.iter().any(|it| it.key == *key && it.tried.is_none())
    }

    /// Keeps a datagram, if there is room for it. Tells whether there was.
    pub fn keep(&mut self, key: Key, datagram: &[u8], tried: Option<Instant>, slot: Slot, now: Instant) -> bool {
        let of_source = |source: IpAddr| self.waiting.iter().filter(|it| source_of(it.key.0.ip()) == source).count();
        let has_room =
            datagram.len() <= LONGEST && self.waiting.len() < MOST && of_source(source_of(key.0.ip())) < MOST_OF_SOURCE;
        if has_room {
            self.waiting.push_back(Waiting { key, datagram: datagram.into(), since: now, tried, _slot: slot });
        }
        has_room
    }

    /// All that wait, in the order in which they came. Those that have waited too long are lost.
    pub fn take(&mut self, now: Instant) -> VecDeque<Waiting> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|it| now - it.since < self.longest);
        waiting
    }

    /// One of those goes on waiting.
    pub fn put_back(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }
}

impl Waiting {
    /// Whether it was sent and the machine has had time to say that nobody listened.
    pub fn is_taken(&self, now: Instant) -> bool {
        self.tried.is_some_and(|tried| now - tried >= TRIAL)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::flow::Slots, *};

    fn slot() -> Slot {
        Slots::new(1).take().unwrap()
    }

    fn key(last: u8, port: u16) -> Key {
        ((IpAddr::from([10, 0, 0, last]), port).into(), None)
    }

    #[test]
    fn few_wait_and_one_source_has_a_part_of_the_places() {
        let (mut held, now) = (Held::new(Duration::from_secs(10)), Instant::now());
        let kept = (0..100).filter(|port| held.keep(key(1, *port), b"x", None, slot(), now)).count();
        assert_eq!((kept, held.waiting.len()), (MOST_OF_SOURCE, MOST_OF_SOURCE));
        let kept = (0..100).filter(|source| held.keep(key(*source, 1), b"x", None, slot(), now)).count();
        assert_eq!(kept, MOST - MOST_OF_SOURCE);
        assert_eq!(held.waiting.len(), MOST);
    }

    #[test]
    fn what_is_too_long_does_not_wait_and_what_waits_too_long_is_lost() {
        let (mut held, now) = (Held::new(Duration::from_secs(10)), Instant::now());
        held.keep(key(1, 1), &[0; LONGEST + 1], None, slot(), now);
        assert!(held.is_empty());
        held.keep(key(1, 1), b"x", None, slot(), now);
        assert_eq!(held.take(now + Duration::from_secs(9)).len(), 1);
        held.keep(key(1, 1), b"x", None, slot(), now);
        assert!(held.take(now + Duration::from_secs(10)).is_empty() && held.is_empty());
    }

    #[test]
    fn they_keep_their_order_and_what_comes_next_waits_behind_what_is_unsent() {
        let (mut held, now) = (Held::new(Duration::from_secs(10)), Instant::now());
        held.keep(key(1, 1), b"first", None, slot(), now);
        held.keep(key(1, 1), b"second", None, slot(), now);
        held.keep(key(2, 1), b"tried", Some(now), slot(), now);
        assert!(held.has_unsent(&key(1, 1)) && !held.has_unsent(&key(2, 1)));
        let taken = held.take(now);
        assert_eq!(taken.iter().map(|it| &*it.datagram).collect::<Vec<_>>(), [&b"first"[..], b"second", b"tried"]);
        assert!(!taken[0].is_taken(now + TRIAL) && taken[2].is_taken(now + TRIAL) && !taken[2].is_taken(now));
        taken.into_iter().for_each(|it| held.put_back(it));
        assert!(held.has_unsent(&key(1, 1)));
    }
}
