//! The directory of finished images: `<hex>.ext4` and, written after it, `<hex>.json`. An image counts only with both.
//! When the record was last modified is when somebody last asked for the image.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use api::internal::Rootfs;
use model::{Digest, ImageConfig};
use serde::{Deserialize, Serialize};

use super::{convert::Draft, ext4::MAKER};

/// The directory.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    /// Held while an image is marked as wanted, and while one is judged and removed.
    judging: Mutex<()>,
}

/// What is known of an image beside its content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Who made it.
    maker: String,
    /// The size of the image, in bytes.
    size_bytes: u64,
    /// What the container image says about running it.
    config: ImageConfig,
}

impl Cache {
    /// Opens the directory, makes it if it is missing, and removes what is half made or made by another version.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let cache = Self { directory, judging: Mutex::new(()) };
        let whole = cache.digests()?.into_iter().filter(|digest| cache.find(digest).is_some());
        let whole: BTreeSet<PathBuf> = whole.flat_map(|digest| [cache.image(&digest), cache.record(&digest)]).collect();
        for entry in fs::read_dir(&cache.directory)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_file() && !whole.contains(&path) && is_ours(&path) {
                tracing::info!(path = %path.display(), "removing what is left of an unfinished conversion");
                fs::remove_file(&path)?;
            }
        }
        Ok(cache)
    }

    /// Where the images lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image of a manifest, if it is there and whole, for use: it is not idle from now on.
    pub fn want(&self, digest: &Digest) -> Option<Rootfs> {
        let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let rootfs = self.find(digest)?;
        let marked =
            File::options().write(true).open(self.record(digest)).and_then(|r| r.set_modified(SystemTime::now()));
        if let Err(error) = marked {
            tracing::warn!(image = %digest, %error, "a root filesystem could not be marked as wanted");
        }
        Some(rootfs)
    }

    fn find(&self, digest: &Digest) -> Option<Rootfs> {
        let path = self.image(digest);
        let record: Record = serde_json::from_slice(&fs::read(self.record(digest)).ok()?).ok()?;
        let size = fs::metadata(&path).ok()?.len();
        (record.maker == MAKER && record.size_bytes == size).then_some(Rootfs { path, config: record.config })
    }

    /// Takes a finished image in.
    pub fn publish(&self, digest: &Digest, draft: Draft, config: ImageConfig) -> io::Result<Rootfs> {
        let record = Record { maker: MAKER.to_owned(), size_bytes: draft.size_bytes, config };
        let (path, text) = (self.image(digest), serde_json::to_vec(&record)?);
        let published = draft.publish(&path).and_then(|()| kit::durable::write(&self.record(digest), &text, 0o644));
        if let Err(error) = published {
            // Without its record it would be of no use to anybody.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Rootfs { path, config: record.config })
    }

    /// Removes images that are not in `in_use` and that nobody has asked for in so long. Returns how many.
    pub fn collect(&self, in_use: &BTreeSet<Digest>, idle: Duration) -> io::Result<usize> {
        let mut removed = 0;
        for digest in self.digests()?.into_iter().filter(|digest| !in_use.contains(digest)) {
            let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
            let wanted = fs::metadata(self.record(&digest))?.modified()?;
            // A clock that was set back makes everything young.
            if wanted.elapsed().is_ok_and(|elapsed| elapsed >= idle) {
                kit::durable::remove(&self.record(&digest))?;
                kit::durable::remove(&self.image(&digest))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// The manifests that there is a record of.
    fn digests(&self) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let hex = name.to_str().and_then(|name| name.strip_suffix(".json"));
            digests.extend(hex.and_then(|hex| format!("sha256:{hex}").parse().ok()));
        }
        Ok(digests)
    }

    fn image(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{}.ext4", digest.hex()))
    }

    fn record(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{}.json", digest.hex()))
    }
}

/// Whether a file has a name that this room gives, so that nothing else is removed.
fn is_ours(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["ext4", "json", "tmp"].iter().any(|ours| extension == *ours))
}
