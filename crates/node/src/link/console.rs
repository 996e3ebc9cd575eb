//! Keeps what a guest's kernel prints: the newest part of it, in two files that take turns.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncReadExt, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::vmm::{Output, OutputStream, ProcessId};

/// When a file has this size, it becomes the older one.
const FILE_BYTES: u64 = 256 * 1024;
/// How much is read at a time.
const READ_BYTES: usize = 4096;
/// How long to wait before another try to connect.
const RETRY: Duration = Duration::from_millis(500);

/// Copies what a VM prints to `path` until it has ended or `stop` is given.
pub(super) async fn copy(
    process: ProcessId,
    outputs: Vec<(Output, Option<OutputStream>)>,
    path: PathBuf,
    stop: CancellationToken,
) {
    let log = match BoundedLog::open(&path, FILE_BYTES) {
        Ok(log) => Mutex::new(log),
        Err(error) => return tracing::warn!(path = %path.display(), %error, "a guest's console is not kept"),
    };
    let copies = outputs.into_iter().map(|(output, stream)| copy_output(&process, output, stream, &log));
    let copied = stop.run_until_cancelled(futures_util::future::join_all(copies)).await;
    for error in copied.into_iter().flatten().filter_map(Result::err) {
        tracing::warn!(path = %path.display(), %error, "a guest's console is not kept any more");
    }
}

async fn copy_output(
    process: &ProcessId,
    output: Output,
    mut connected: Option<OutputStream>,
    log: &Mutex<BoundedLog>,
) -> io::Result<()> {
    loop {
        let stream = match connected.take() {
            None => output.connect().await.ok(),
            connected => connected,
        };
        if let Some(mut stream) = stream {
            copy_stream(&mut stream, log).await?;
        }
        if !process.alive() {
            return Ok(());
        }
        sleep(RETRY).await;
    }
}

async fn copy_stream(stream: &mut OutputStream, log: &Mutex<BoundedLog>) -> io::Result<()> {
    let mut buffer = [0; READ_BYTES];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => log.lock().unwrap_or_else(PoisonError::into_inner).append(&buffer[..count])?,
        }
    }
}

/// A log of at most twice `limit` bytes: `path`, and before it `path` with `.1` at its end.
struct BoundedLog {
    path: PathBuf,
    file: File,
    written: u64,
    limit: u64,
}

impl BoundedLog {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let written = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, written, limit })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written + bytes.len() as u64 > self.limit {
            std::fs::rename(&self.path, older(&self.path))?;
            *self = Self::open(&self.path, self.limit)?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The last lines of a console's log, at most `max_bytes` of it, made printable.
pub fn console_tail(path: &Path, max_bytes: u64) -> String {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(max_bytes)))?;
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&tail().unwrap_or_default()).into_owned();
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_never_ends_takes_a_bounded_place_and_its_newest_part_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut log = BoundedLog::open(&path, 1000).unwrap();
        for line in 0..1000 {
            log.append(format!("line {line}\r\n").as_bytes()).unwrap();
        }
        let sizes = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
        assert!(console_tail(&path, 100).ends_with("line 998\nline 999\n"));
    }

    #[test]
    fn the_log_goes_on_where_an_earlier_process_left_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        BoundedLog::open(&path, 10).unwrap().append(b"12345678").unwrap();
        BoundedLog::open(&path, 10).unwrap().append(b"abc").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        assert_eq!(std::fs::read(older(&path)).unwrap(), b"12345678");
    }
}
