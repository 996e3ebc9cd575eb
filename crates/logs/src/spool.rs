//! The spool of one app: an open segment, older ones behind it, and those who follow.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::log::LogRecord;
use tokio::sync::broadcast;

use crate::{
    Retention,
    segment::{self, Segment, Snapshot},
};

/// Records that a follower may lag behind before it misses some.
const FOLLOWER_QUEUE: usize = 4096;

/// The log of one app.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    retention: Retention,
    open: Mutex<Open>,
    live: broadcast::Sender<Arc<LogRecord>>,
}

#[derive(Debug)]
struct Open {
    /// Closed segments, oldest first, with their lengths.
    closed: VecDeque<(u64, u64)>,
    number: u64,
    file: File,
    length: u64,
}

impl Spool {
    /// Opens the spool in `directory`, which is made if it is missing.
    pub fn open(directory: &Path, retention: Retention) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut numbers = segment::list(directory)?;
        let number = numbers.pop().unwrap_or(0);
        let closed = numbers.into_iter().filter_map(|number| {
            fs::metadata(segment::path(directory, number)).ok().map(|metadata| (number, metadata.len()))
        });
        let closed = closed.collect();
        let (file, length) = segment::open(&segment::path(directory, number))?;
        let open = Mutex::new(Open { closed, number, file, length });
        Ok(Self { directory: directory.to_owned(), retention, open, live: broadcast::channel(FOLLOWER_QUEUE).0 })
    }

    /// Appends one record and hands it to those who follow, in one order for all.
    pub fn append(&self, record: LogRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        let mut open = self.lock();
        if open.length > 0 && open.length + line.len() as u64 > self.retention.segment_bytes {
            self.roll(&mut open)?;
        }
        if let Err(error) = open.file.write_all(&line) {
            // Half a line must not swallow the next record.
            let _ = open.file.set_len(open.length);
            return Err(error);
        }
        open.length += line.len() as u64;
        let _ = self.live.send(Arc::new(record));
        Ok(())
    }

    /// What exists now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_of(&self.lock())
    }

    /// What exists now, and everything that is appended after.
    pub fn subscribe(&self) -> (Snapshot, broadcast::Receiver<Arc<LogRecord>>) {
        let open = self.lock();
        (self.snapshot_of(&open), self.live.subscribe())
    }

    fn snapshot_of(&self, open: &Open) -> Snapshot {
        let all = open.closed.iter().copied().chain([(open.number, open.length)]);
        let segment = |(number, length)| Segment { path: segment::path(&self.directory, number), length };
        Snapshot(all.map(segment).collect())
    }

    /// Closes the open segment, begins the next, and removes the oldest beyond those kept.
    fn roll(&self, open: &mut Open) -> io::Result<()> {
        let (file, length) = segment::open(&segment::path(&self.directory, open.number + 1))?;
        open.closed.push_back((open.number, open.length));
        open.number += 1;
        open.file = file;
        open.length = length;
        while open.closed.len() >= self.retention.segments.max(2) {
            if let Some((oldest, _)) = open.closed.pop_front() {
                fs::remove_file(segment::path(&self.directory, oldest))?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
