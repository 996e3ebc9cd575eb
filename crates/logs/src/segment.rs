//! Segments: files of one JSON record per line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use api::internal::LogFilter;
use model::log::LogRecord;

/// A file of an app's log and how much of it is meant.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes that were complete when the segment was looked at.
    pub length: u64,
}

/// The segments of an app's log at one moment, oldest first.
#[derive(Debug, Clone)]
pub struct Snapshot(pub Vec<Segment>);

impl Snapshot {
    /// The last records that the filter lets through, oldest first. A line that cannot be read is left out.
    pub fn last(&self, filter: &LogFilter) -> Vec<LogRecord> {
        let mut newest_first = Vec::new();
        for segment in self.0.iter().rev() {
            let records = read(segment).unwrap_or_default();
            let wanted = records.into_iter().rev().filter(|record| matches(filter, record));
            newest_first.extend(wanted.take(filter.limit.saturating_sub(newest_first.len())));
            if newest_first.len() >= filter.limit {
                break;
            }
        }
        newest_first.reverse();
        newest_first
    }
}

/// Whether a filter lets a record through, its limit aside.
pub fn matches(filter: &LogFilter, record: &LogRecord) -> bool {
    let machine = filter.machine.as_ref().is_none_or(|machine| record.machine.as_ref() == Some(machine));
    let since = filter.since_ns.is_none_or(|since| record.timestamp_ns > since);
    machine && since
}

fn read(segment: &Segment) -> io::Result<Vec<LogRecord>> {
    let lines = BufReader::new(File::open(&segment.path)?.take(segment.length)).split(b'\n');
    Ok(lines.map_while(Result::ok).filter_map(|line| serde_json::from_slice(&line).ok()).collect())
}

/// The path of segment `number`: names sort as numbers do.
pub fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.ndjson"))
}

/// The numbers of the segments of a directory, oldest first.
pub fn list(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".ndjson")).and_then(|stem| stem.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment for appending, cuts off a torn last line, and tells its length.
pub fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut length = file.seek(SeekFrom::End(0))?;
    let mut last = [0];
    while length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last == *b"\n" {
            break;
        }
        length -= 1;
    }
    file.set_len(length)?;
    Ok((file, length))
}
