//! Counters. They only grow; whoever reads them takes differences.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the classes of a duration, in seconds; above the last one there is one more.
pub const BOUNDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// How many server names have their failed handshakes counted by name.
const MAX_NAMES: usize = 256;

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Durations by class.
#[derive(Debug, Default)]
pub struct Histogram {
    classes: [Counter; BOUNDS_S.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let class = BOUNDS_S.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS_S.len());
        self.classes[class].one();
        self.sum_us.add(took.as_micros() as u64);
    }

    /// How many there are in each class.
    pub fn classes(&self) -> [u64; BOUNDS_S.len() + 1] {
        std::array::from_fn(|class| self.classes[class].get())
    }

    /// Their sum.
    pub fn sum_s(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }
}

/// Answers of one status.
#[derive(Debug, Default)]
pub struct Responses {
    /// From the request to the header of its answer.
    pub time: Histogram,
}

/// Answers by status. The statuses that an app uses are few, so finding one is a look at a short list; that only grows, so
/// that it is looked at without a lock.
#[derive(Debug, Default)]
pub struct ByStatus(OnceLock<Box<OfStatus>>);

#[derive(Debug)]
struct OfStatus {
    status: u16,
    responses: Responses,
    others: ByStatus,
}

impl ByStatus {
    /// Counts an answer.
    pub fn observe(&self, status: u16, took: Duration) {
        let mut list = self;
        loop {
            let new = || Box::new(OfStatus { status, responses: Responses::default(), others: Self::default() });
            let first = list.0.get_or_init(new);
            if first.status == status {
                return first.responses.time.observe(took);
            }
            list = &first.others;
        }
    }

    /// Every status with its answers.
    pub fn all(&self) -> impl Iterator<Item = (u16, &Responses)> {
        let first = self.0.get();
        std::iter::successors(first, |it| it.others.0.get()).map(|it| (it.status, &it.responses))
    }
}

/// What the edge counts of an app.
#[derive(Debug, Default)]
pub struct AppMetrics {
    /// Its answers.
    pub responses: ByStatus,
    /// Connections of clients that turned out to be for it.
    pub connects: Counter,
    /// Those of them that have ended.
    pub disconnects: Counter,
    /// Connections of clients that were refused because it has too many.
    pub dropped: Counter,
    /// TLS handshakes that were refused because too many came in a short time.
    pub handshakes_limited: Counter,
    /// Bytes from clients, in whole connections.
    pub data_in: Counter,
    /// Bytes to clients, in whole connections.
    pub data_out: Counter,
}

/// What the edge counts of a machine.
#[derive(Debug, Default)]
pub struct MachineMetrics {
    /// Its answers.
    pub responses: ByStatus,
    /// How long connecting took.
    pub connect_time: Histogram,
    /// Connections to it.
    pub connects: Counter,
    /// Those of them that have ended.
    pub disconnects: Counter,
}

/// TLS handshakes, which have no app yet.
#[derive(Debug, Default)]
pub struct Handshakes {
    tls12: Histogram,
    tls13: Histogram,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Handshakes {
    /// One came to its end.
    pub fn done(&self, version: Option<rustls::ProtocolVersion>, took: Duration) {
        let is_12 = version == Some(rustls::ProtocolVersion::TLSv1_2);
        if is_12 { &self.tls12 } else { &self.tls13 }.observe(took);
    }

    /// One failed. Names beyond a bound are counted together, so that strangers cannot fill the table.
    pub fn failed(&self, name: Option<&str>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.unwrap_or_default();
        let known = errors.contains_key(name) || errors.len() < MAX_NAMES;
        *errors.entry(if known { name } else { "other" }.to_owned()).or_default() += 1;
    }

    /// Durations by version.
    pub fn times(&self) -> [(&'static str, &Histogram); 2] {
        [("1.2", &self.tls12), ("1.3", &self.tls13)]
    }

    /// Failures by server name.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_class_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for ms in [5, 6, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(ms));
        }
        let classes = histogram.classes();
        assert_eq!((classes[0], classes[1], classes[10], classes[11]), (1, 1, 1, 1));
        assert!((histogram.sum_s() - 20.012).abs() < 1e-6);
    }

    #[test]
    fn each_status_is_counted_by_itself() {
        let responses = ByStatus::default();
        for status in [200, 404, 200] {
            responses.observe(status, Duration::ZERO);
        }
        let counts: BTreeMap<u16, u64> =
            responses.all().map(|(status, it)| (status, it.time.classes().iter().sum())).collect();
        assert_eq!(counts, BTreeMap::from([(200, 2), (404, 1)]));
    }

    #[test]
    fn strangers_cannot_fill_the_table_of_failed_handshakes() {
        let handshakes = Handshakes::default();
        (0..10_000).for_each(|n| handshakes.failed(Some(&format!("{n}.example"))));
        let errors = handshakes.errors();
        assert!(errors.len() <= MAX_NAMES + 1);
        assert_eq!(errors.values().sum::<u64>(), 10_000);
    }
}
