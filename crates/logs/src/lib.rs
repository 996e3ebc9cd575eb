//! App logs: what machines print and what the platform says about them, one ordered stream per app.
//!
//! ```text
//! LogSink::append ──▶ spool of the app ──▶ <data>/logs/<app>/<number>.ndjson   segments of 1 MiB, oldest removed first
//!                          └──▶ followers (bounded; one who is too slow is told how many records passed him by)
//! ```
//!
//! A record is in the page cache when `append` returns, so killing the process loses none; a torn last line after a
//! power cut is cut off when the spool is next opened.

mod segment;
mod spool;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use api::internal::{LogFilter, LogQuery, LogSink};
use async_trait::async_trait;
use model::{
    AppName,
    log::{LogRecord, LogSource},
};
use tokio::sync::{
    broadcast::error::RecvError,
    mpsc::{self, Sender},
};

use spool::Spool;

/// How much of an app's log is kept.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// Segments kept per app, the open one included; at least 2.
    pub segments: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { segment_bytes: 1 << 20, segments: 16 }
    }
}

/// Longest message kept; the rest of a longer one is cut off and marked.
const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// Records between the spool and one reader over the network.
const READER_QUEUE: usize = 256;

/// All app logs of a data directory.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    retention: Retention,
    spools: Mutex<HashMap<AppName, Arc<Spool>>>,
}

impl Logs {
    /// Opens the logs below `directory`, which is made if it is missing.
    pub fn open(directory: &Path, retention: Retention) -> io::Result<Arc<Self>> {
        fs::create_dir_all(directory)?;
        Ok(Arc::new(Self { directory: directory.to_owned(), retention, spools: Mutex::default() }))
    }

    fn spool(&self, app: &AppName) -> io::Result<Arc<Spool>> {
        let mut spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spool) = spools.get(app) {
            return Ok(Arc::clone(spool));
        }
        let spool = Arc::new(Spool::open(&self.directory.join(app.as_str()), self.retention)?);
        spools.insert(app.clone(), Arc::clone(&spool));
        Ok(spool)
    }

    /// The spool of an app that has logged before; asking about another makes nothing.
    fn existing(&self, app: &AppName) -> io::Result<Option<Arc<Spool>>> {
        let known = self.spools.lock().unwrap_or_else(PoisonError::into_inner).contains_key(app);
        if known || self.directory.join(app.as_str()).is_dir() { self.spool(app).map(Some) } else { Ok(None) }
    }
}

impl LogSink for Logs {
    fn append(&self, mut record: LogRecord) {
        shorten(&mut record.message);
        if let Err(error) = self.spool(&record.app).and_then(|spool| spool.append(record)) {
            tracing::error!(%error, "a log record could not be written");
        }
    }
}

/// Cuts a message at a character's boundary.
fn shorten(message: &mut String) {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" … (cut)");
    }
}

#[async_trait]
impl LogQuery for Logs {
    async fn query(&self, filter: LogFilter) -> Vec<LogRecord> {
        let spool = match self.existing(&filter.app) {
            Ok(Some(spool)) => spool,
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::error!(%error, app = %filter.app, "a log could not be opened");
                return Vec::new();
            }
        };
        tokio::task::spawn_blocking(move || spool.snapshot().last(&filter)).await.unwrap_or_default()
    }

    fn follow(&self, filter: LogFilter) -> mpsc::Receiver<LogRecord> {
        let (sender, receiver) = mpsc::channel(READER_QUEUE);
        match self.spool(&filter.app) {
            Ok(spool) => drop(tokio::spawn(feed(spool, filter, sender))),
            Err(error) => tracing::error!(%error, app = %filter.app, "a log could not be opened"),
        }
        receiver
    }

    async fn forget(&self, app: &AppName) {
        self.spools.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
        match fs::remove_dir_all(self.directory.join(app.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, %app, "a log could not be removed");
            }
            _ => {}
        }
    }
}

/// Feeds one reader, until it goes away: first what exists, then what comes.
async fn feed(spool: Arc<Spool>, filter: LogFilter, reader: Sender<LogRecord>) {
    let (snapshot, mut live) = spool.subscribe();
    let wanted = filter.clone();
    let existing = tokio::task::spawn_blocking(move || snapshot.last(&wanted)).await.unwrap_or_default();
    for record in existing {
        if reader.send(record).await.is_err() {
            return;
        }
    }
    let mut region = None;
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            () = reader.closed() => return,
        };
        let record = match next {
            Ok(record) => {
                region = Some(record.region.clone());
                if !segment::matches(&filter, &record) {
                    continue;
                }
                (*record).clone()
            }
            Err(RecvError::Lagged(count)) => match &region {
                Some(region) => missed(&filter.app, region.clone(), count),
                None => continue,
            },
            Err(RecvError::Closed) => return,
        };
        if reader.send(record).await.is_err() {
            return;
        }
    }
}

fn missed(app: &AppName, region: model::Region, count: u64) -> LogRecord {
    LogRecord {
        timestamp_ns: kit::clock::unix_ns(),
        app: app.clone(),
        machine: None,
        region,
        source: LogSource::Platform,
        message: format!(
            "{count} log records were skipped because this reader was too slow; they are still in the log"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(app: &str, number: u64) -> LogRecord {
        LogRecord {
            timestamp_ns: number,
            app: app.parse().unwrap(),
            machine: None,
            region: "local".parse().unwrap(),
            source: LogSource::Stdout,
            message: format!("line {number}"),
        }
    }

    fn all(app: &str) -> LogFilter {
        LogFilter { app: app.parse().unwrap(), machine: None, since_ns: None, limit: usize::MAX }
    }

    fn times(records: &[LogRecord]) -> Vec<u64> {
        records.iter().map(|record| record.timestamp_ns).collect()
    }

    #[tokio::test]
    async fn what_was_appended_is_read_back_in_order_and_survives_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path(), Retention::default()).unwrap();
        (1..=5).for_each(|number| logs.append(record("a", number)));
        logs.append(record("b", 9));
        drop(logs);
        let logs = Logs::open(directory.path(), Retention::default()).unwrap();
        logs.append(record("a", 6));
        assert_eq!(times(&logs.query(all("a")).await), [1, 2, 3, 4, 5, 6]);
        assert_eq!(times(&logs.query(LogFilter { limit: 2, ..all("a") }).await), [5, 6]);
        assert_eq!(times(&logs.query(LogFilter { since_ns: Some(4), ..all("a") }).await), [5, 6]);
        logs.forget(&"a".parse().unwrap()).await;
        assert!(logs.query(all("a")).await.is_empty());
        assert_eq!(times(&logs.query(all("b")).await), [9]);
    }

    #[tokio::test]
    async fn a_follower_sees_the_old_and_the_new_without_a_gap() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path(), Retention::default()).unwrap();
        (1..=100).for_each(|number| logs.append(record("a", number)));
        let mut follower = logs.follow(all("a"));
        let writer = Arc::clone(&logs);
        tokio::task::spawn_blocking(move || (101..=200).for_each(|number| writer.append(record("a", number))));
        for expected in 1..=200 {
            assert_eq!(follower.recv().await.unwrap().timestamp_ns, expected);
        }
    }

    #[tokio::test]
    async fn the_disk_is_bounded_and_the_newest_records_stay() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { segment_bytes: 1_000, segments: 3 };
        let logs = Logs::open(directory.path(), retention).unwrap();
        (1..=1_000).for_each(|number| logs.append(record("a", number)));
        let kept = times(&logs.query(all("a")).await);
        assert_eq!(kept.last(), Some(&1_000));
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let bytes: u64 = fs::read_dir(directory.path().join("a"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 4_000, "{bytes}");
    }

    #[tokio::test]
    async fn a_torn_last_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path(), Retention::default()).unwrap();
        logs.append(record("a", 1));
        logs.append(record("a", 2));
        drop(logs);
        let path = fs::read_dir(directory.path().join("a")).unwrap().next().unwrap().unwrap().path();
        let length = fs::metadata(&path).unwrap().len();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
        let logs = Logs::open(directory.path(), Retention::default()).unwrap();
        logs.append(record("a", 3));
        assert_eq!(times(&logs.query(all("a")).await), [1, 3]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut message = "ä".repeat(MAX_MESSAGE_BYTES);
        shorten(&mut message);
        assert!(message.len() <= MAX_MESSAGE_BYTES + 20 && message.ends_with("(cut)"));
    }
}
