//! One platform per data directory.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// How long to wait before another process that holds the lock is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes the data directory back from a process that failed to succeed this one, once that has ended.
pub async fn take_back(data: &Path) -> File {
    loop {
        match take(data) {
            Ok(file) => return file,
            Err(error) => tracing::warn!("the data directory cannot be taken back yet: {error:#}"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Makes the data directory if it is missing, closed to other users, and takes it for this process until the answer is dropped.
pub fn take(data: &Path) -> Result<File> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("the data directory {} cannot be made", data.display()))?;
    let path = data.join("dunlin.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another `dunlin serve` already uses {}: end it first, or choose another --data-dir", data.display());
    }
    Ok(file)
}
