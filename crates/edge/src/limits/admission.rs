//! How many connections there are, in all and of each source and range.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Network, share::may_take};
use crate::Subnet;

/// Counts connections.
pub struct Admission {
    bound: usize,
    bound_of_source: usize,
    unlimited: Vec<Subnet>,
    counts: Mutex<Counts>,
    emptied: Notify,
}

#[derive(Default)]
struct Counts {
    total: usize,
    /// Sources and ranges. There are never more of them than connections.
    networks: HashMap<Network, usize>,
}

/// A connection that was let in. Dropping it gives its place free.
pub struct Admitted {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Lets in so many, and so many of one source; sources that stand for many share the whole.
    pub fn new(bound: usize, bound_of_source: usize, unlimited: Vec<Subnet>) -> Arc<Self> {
        Arc::new(Self { bound, bound_of_source, unlimited, counts: Mutex::default(), emptied: Notify::new() })
    }

    /// Lets a connection in, if there is room for one more of its source and of its range.
    pub fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Admitted> {
        let mut counts = self.counts();
        let free = self.bound.checked_sub(counts.total).filter(|free| *free > 0)?;
        let networks = self.networks(source);
        let fits = |(network, most): &(Network, usize)| may_take(counts.of(network), free, *most);
        if !networks.iter().all(fits) {
            return None;
        }
        counts.total += 1;
        for (network, _) in networks {
            *counts.networks.entry(network).or_default() += 1;
        }
        drop(counts);
        Some(Admitted { admission: self.clone(), source })
    }

    /// Waits until nobody is here.
    pub async fn empty(&self) {
        loop {
            let mut emptied = std::pin::pin!(self.emptied.notified());
            emptied.as_mut().enable();
            if self.counts().total == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// As what a source counts, and how often at most.
    fn networks(&self, source: IpAddr) -> Vec<(Network, usize)> {
        if self.unlimited.iter().any(|network| network.has(source.to_canonical())) {
            return Vec::new();
        }
        vec![(Network::source_of(source), self.bound_of_source), (Network::range_of(source), usize::MAX)]
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(&self, network: &Network) -> usize {
        self.networks.get(network).copied().unwrap_or_default()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.total -= 1;
        if counts.total == 0 {
            self.admission.emptied.notify_waiters();
        }
        for (network, _) in self.admission.networks(self.source) {
            if let Some(count) = counts.networks.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    counts.networks.remove(&network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flood(admission: &Arc<Admission>, source: &str) -> Vec<Admitted> {
        let source = source.parse().unwrap();
        std::iter::from_fn(|| admission.admit(source)).collect()
    }

    #[test]
    fn one_source_cannot_take_every_place() {
        let admission = Admission::new(100, 20, Vec::new());
        let one = flood(&admission, "2001:db8::1");
        assert_eq!(one.len(), 20);
        assert!(admission.admit("2001:db8::ffff".parse().unwrap()).is_none(), "the same /64");
        drop(one);
        assert_eq!(admission.counts().networks.len(), 0);
        assert_eq!(flood(&admission, "::ffff:192.0.2.1").len(), 20);
    }

    #[test]
    fn a_whole_range_leaves_half_for_others() {
        let admission = Admission::new(100, 20, Vec::new());
        let flooded: Vec<Admitted> = (0..=255).flat_map(|n| flood(&admission, &format!("192.0.2.{n}"))).collect();
        assert_eq!(flooded.len(), 50);
        assert_eq!(flood(&admission, "198.51.100.1").len(), 20);
    }

    #[test]
    fn a_source_that_stands_for_many_gets_what_there_is() {
        let admission = Admission::new(100, 20, vec!["192.0.2.0/24".parse().unwrap()]);
        let all = flood(&admission, "192.0.2.1");
        assert_eq!(all.len(), 100);
        assert!(admission.admit("198.51.100.1".parse().unwrap()).is_none());
        drop(all);
        assert_eq!(admission.counts().total, 0);
    }
}
