//! The last good picture on the disk, as lines (`lines`).
//!
//! What changes is appended; once that weighs more than what stood there at first, the file is written anew. So saving
//! costs what has changed. A line that cannot be read is left out and takes no other with it; an end without its
//! generation was cut off by a crash and does not count; a file without any counts as absent, since the node will speak
//! soon.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::{
    Quarantined, Snapshot,
    build::Builder,
    lines::{Line, Written, put, put_gone, put_rows},
};

/// So many bytes may be appended before the file is written anew, however small it was.
const SLACK_BYTES: u64 = 64 * 1024;
/// How a line begins that says that all above counts.
const COMMIT: &[u8] = b"{\"generation\":";

/// Why the catalog could not be kept.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The file could not be written.
    #[error("the catalog could not be saved to {}; check that the disk has room and may be written", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// What it says.
    saved: Option<Snapshot>,
    /// How long it is, as far as it counts.
    bytes: u64,
    /// How long it was when it was written whole.
    whole_bytes: u64,
}

impl Disk {
    /// Reads the file into `builder` and gives the picture that it held, or an empty one, with the reason told.
    pub fn open(path: PathBuf, builder: &mut Builder) -> (Self, Snapshot) {
        let read = File::open(&path).and_then(|mut file| read(&mut file, builder));
        let bytes = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("{} cannot be read and is made anew: {error}", path.display());
            }
            Default::default()
        });
        let snapshot = builder.publish(bytes.1);
        let saved = (bytes.0 > 0).then(|| snapshot.clone());
        (Self { path, saved, bytes: bytes.0, whole_bytes: bytes.0 }, snapshot)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file say what a picture says. Blocks on the disk.
    pub fn save(&mut self, now: &Snapshot) -> Result<(), CatalogError> {
        let short = self.bytes <= self.whole_bytes * 2 + SLACK_BYTES;
        let saved = match self.saved.as_ref().filter(|_| short) {
            Some(saved) => {
                let lines = changes(saved, now);
                if lines.is_empty() { Ok(()) } else { self.append(&lines) }
            }
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let gone =
            |error: io::Error| if error.kind() == io::ErrorKind::NotFound { self.write(now) } else { Err(error) };
        let saved = saved.or_else(gone);
        saved.map_err(|source| CatalogError::Save { path: self.path.clone(), source })?;
        self.saved = Some(now.clone());
        Ok(())
    }

    /// Puts lines behind those that count.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.bytes)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(lines)?;
        file.sync_data()?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn write(&mut self, now: &Snapshot) -> io::Result<()> {
        let mut bytes = 0;
        kit::durable::write_with(&self.path, 0o600, |file| {
            let rows = now.machines().map(|machine| Written::Row(machine));
            for line in rows.chain([Written::Generation(now.generation)]) {
                let mut text = Vec::new();
                put(&mut text, &line);
                bytes += text.len() as u64;
                file.write_all(&text)?;
            }
            Ok(())
        })?;
        (self.bytes, self.whole_bytes) = (bytes, bytes);
        Ok(())
    }
}

/// What leads from one picture to another, as lines; nothing if no row differs.
fn changes(before: &Snapshot, now: &Snapshot) -> Vec<u8> {
    let mut lines = Vec::new();
    now.apps.changes(&before.apps).for_each(|change| put_gone(&mut lines, &change));
    now.apps.changes(&before.apps).for_each(|change| put_rows(&mut lines, &change));
    if !lines.is_empty() {
        put(&mut lines, &Written::Generation(now.generation));
    }
    lines
}

/// Reads what counts of a file. Tells how many bytes that is, and of which generation.
fn read(file: &mut (impl Read + Seek), builder: &mut Builder) -> io::Result<(u64, u64)> {
    let bytes = committed(&mut *file)?;
    if bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no picture that is whole"));
    }
    file.seek(SeekFrom::Start(0))?;
    let (mut unreadable, mut generation) = (BTreeSet::new(), 0);
    for line in BufReader::new(file.take(bytes)).split(b'\n') {
        let line = line?;
        match serde_json::from_slice(&line) {
            Ok(Line::Whole(())) => {}
            Ok(Line::Row(row)) => builder.put(*row),
            Ok(Line::Gone(id)) => builder.remove(&id),
            Ok(Line::Generation(number)) => generation = number,
            Err(error) => {
                unreadable.insert(Quarantined::unreadable(&line, &error));
            }
        }
    }
    builder.unreadable(unreadable);
    Ok((bytes, generation))
}

/// The end of the last line that says that all above counts.
fn committed(file: impl Read) -> io::Result<u64> {
    let (mut file, mut line, mut at, mut committed) = (BufReader::new(file), Vec::new(), 0, 0);
    loop {
        line.clear();
        let length = file.read_until(b'\n', &mut line)? as u64;
        if length == 0 {
            return Ok(committed);
        }
        at += length;
        if line.starts_with(COMMIT) && line.ends_with(b"\n") {
            committed = at;
        }
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
