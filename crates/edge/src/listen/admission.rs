//! How many connections there are, in all and of each source.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts connections.
pub struct Admission {
    total_bound: usize,
    source_bound: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    sources: HashMap<IpAddr, usize>,
}

/// A connection that was let in. Dropping it gives its place free.
pub struct Admitted {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Lets in so many, and so many of one source.
    pub fn new(total_bound: usize, source_bound: usize) -> Arc<Self> {
        Arc::new(Self { total_bound, source_bound, counts: Mutex::default() })
    }

    /// Lets a connection in, if there is room.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Admitted> {
        let source = source_of(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = counts.sources.get(&source).copied().unwrap_or_default();
        if counts.total >= self.total_bound || of_source >= self.source_bound {
            return None;
        }
        counts.total += 1;
        counts.sources.insert(source, of_source + 1);
        Some(Admitted { admission: self.clone(), source })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(count) = counts.sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.sources.remove(&self.source);
            }
        }
    }
}

/// Who counts as one: an IPv4 address, an IPv6 /64.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_every_place() {
        let admission = Admission::new(3, 2);
        let (one, other): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let first = admission.admit(one).unwrap();
        let _second = admission.admit("2001:db8::ffff".parse().unwrap()).unwrap();
        assert!(admission.admit(one).is_none(), "the same /64");
        let _third = admission.admit(other).unwrap();
        assert!(admission.admit(other).is_none(), "full");
        drop(first);
        assert!(admission.admit("::ffff:192.0.2.1".parse().unwrap()).is_some());
    }
}
