//! One file per custom host name, replaced whole. A file that cannot be read is left out and reported.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::internal::HostnameRow;
use model::Hostname;
use sha2::{Digest, Sha256};

/// Largest file that is read: two chains and two keys are far below it.
const MAX_BYTES: u64 = 1 << 20;
/// What the files' names end with.
const EXTENSION: &str = "json";

/// The directory.
pub struct Disk(PathBuf);

impl Disk {
    /// The files in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Every row that can be read.
    pub fn read_all(&self) -> Vec<HostnameRow> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!("the host names in {} cannot be read: {error}", self.0.display());
                }
                return Vec::new();
            }
        };
        let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == EXTENSION))
            .filter_map(|path| self.read(&path))
            .collect()
    }

    fn read(&self, path: &Path) -> Option<HostnameRow> {
        let read = || {
            if fs::metadata(path)?.len() > MAX_BYTES {
                return Err(io::Error::other("it is too large"));
            }
            let row: HostnameRow = serde_json::from_slice(&fs::read(path)?)?;
            if self.path(&row.hostname) != path {
                return Err(io::Error::other("it is another name's"));
            }
            Ok(row)
        };
        read().inspect_err(|error| tracing::error!("{} is left out: {error}", path.display())).ok()
    }

    /// Writes a row.
    pub fn write(&self, row: &HostnameRow) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        kit::durable::write(&self.path(&row.hostname), &serde_json::to_vec(row)?, 0o600)
    }

    /// Removes the row of a name.
    pub fn remove(&self, hostname: &Hostname) -> io::Result<()> {
        kit::durable::remove(&self.path(hostname))
    }

    /// Host names are nearly as long as a file's name may be, and a star is special to many tools: so their digest.
    fn path(&self, hostname: &Hostname) -> PathBuf {
        let digest = Sha256::digest(hostname.as_str());
        self.0.join(format!("{}.{EXTENSION}", hex::encode(&digest[..16])))
    }
}
