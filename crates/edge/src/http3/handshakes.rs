//! With whom hands are shaken, while nobody has proven yet that his address is his own.
//!
//! | handshakes under way | of an address that is proven | of one that is not |
//! |---|---|---|
//! | few, and few of this source | shake hands | shake hands |
//! | more | shake hands | let it prove its address first (Retry) |
//! | as many as there may be | none | none |
//!
//! An address that is not proven gets at most three times the bytes that came in its name (RFC 9000, 8.1), and no more
//! than a few such handshakes at a time; a Retry is shorter than what it answers. So nobody can be flooded through here,
//! and lies about addresses cost no more than a look at a packet.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::limits::source_of;

/// How many handshakes may be under way before addresses have to be proven.
const RELAXED: usize = 256;
/// The same of one source.
const RELAXED_PER_SOURCE: usize = 16;
/// How many may be under way at all.
const MOST: usize = 4096;

/// What becomes of somebody who wants to connect.
pub enum Verdict {
    /// Shake hands.
    Welcome(UnderWay),
    /// Let it prove its address first.
    Prove,
    /// There are too many.
    Full,
}

/// Counts the handshakes that are under way.
#[derive(Default)]
pub struct Handshakes(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    total: usize,
    /// Those of addresses that are not proven.
    unproven: HashMap<IpAddr, usize>,
}

impl Handshakes {
    /// What becomes of somebody at an address, which is proven or not.
    pub fn judge(self: &Arc<Self>, address: IpAddr, proven: bool) -> Verdict {
        let source = source_of(address);
        let mut counts = self.counts();
        let of_source = counts.unproven.get(&source).copied().unwrap_or_default();
        if counts.total >= MOST {
            return Verdict::Full;
        }
        if !proven && (counts.total >= RELAXED || of_source >= RELAXED_PER_SOURCE) {
            return Verdict::Prove;
        }
        counts.total += 1;
        if !proven {
            counts.unproven.insert(source, of_source + 1);
        }
        Verdict::Welcome(UnderWay { handshakes: self.clone(), unproven: (!proven).then_some(source) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handshake under way. Dropping it says that it is over.
pub struct UnderWay {
    handshakes: Arc<Handshakes>,
    unproven: Option<IpAddr>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.handshakes.counts();
        counts.total -= 1;
        let Some(source) = self.unproven else { return };
        if let Some(count) = counts.unproven.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                counts.unproven.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    #[test]
    fn one_source_has_to_prove_its_address_before_others_do() {
        let handshakes = Arc::new(Handshakes::default());
        let mut under_way = Vec::new();
        for _ in 0..RELAXED_PER_SOURCE {
            let Verdict::Welcome(one) = handshakes.judge(address(1), false) else { panic!("too early") };
            under_way.push(one);
        }
        assert!(matches!(handshakes.judge(address(1), false), Verdict::Prove));
        assert!(matches!(handshakes.judge(address(1), true), Verdict::Welcome(_)));
        assert!(matches!(handshakes.judge(address(2), false), Verdict::Welcome(_)));
        under_way.pop();
        assert!(matches!(handshakes.judge(address(1), false), Verdict::Welcome(_)));
        drop(under_way);
        let counts = handshakes.counts();
        assert!(counts.total == 0 && counts.unproven.is_empty());
    }

    #[test]
    fn many_sources_have_to_prove_theirs_and_even_proven_ones_find_an_end() {
        let handshakes = Arc::new(Handshakes::default());
        let mut under_way = Vec::new();
        let mut proven = 0;
        for number in 0.. {
            match handshakes.judge(address(number), false) {
                Verdict::Welcome(one) => under_way.push(one),
                Verdict::Prove => match handshakes.judge(address(number), true) {
                    Verdict::Welcome(one) => {
                        proven += 1;
                        under_way.push(one);
                    }
                    _ => panic!("a proven address is let in while there is room"),
                },
                Verdict::Full => break,
            }
        }
        assert_eq!((under_way.len(), proven), (MOST, MOST - RELAXED));
        assert!(matches!(handshakes.judge(address(0), true), Verdict::Full));
    }
}
