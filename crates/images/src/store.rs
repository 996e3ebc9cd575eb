//! The blob store: content by its digest, one file each, whole or absent at every moment.
//!
//! ```text
//! <data>/blobs/uploads/<random>   being written; hashed on the way; swept when the store opens
//!            │ digest fits, fsync, rename, fsync of the directory
//!            ▼
//! <data>/blobs/sha256/<hex>       complete; never changed; its modification time is when it was last wanted
//! ```
//!
//! The collector removes a blob only if nothing reaches it, it was not wanted for a while, nobody has pinned it, and
//! nobody has wanted it since the collection began. The last two are kept in memory under one lock, which removal
//! takes too, so that "it is here" stays true after it was said: see [`BlobStore::want`] and [`Collection`].

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use model::Digest;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::io::AsyncWriteExt;

/// How much is gathered before it goes to the disk, in bytes.
const WRITE_BYTES: usize = 256 << 10;

/// Why a blob was not stored.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The content is not what was announced.
    #[error("the content has the digest {actual}, not {expected} as announced; send it again")]
    Digest {
        /// The digest that was announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The content is larger than announced or allowed.
    #[error("the content is larger than {limit_bytes} bytes, the most that was announced or is allowed")]
    TooLarge {
        /// The bound.
        limit_bytes: u64,
    },
    /// An earlier write of the same upload was cut off inside a disk write.
    #[error("an earlier part of this upload was cut off; start the upload again")]
    CutOff,
    /// The disk is full.
    #[error("the platform's disk is full; free space under its data directory, then try again")]
    Full(#[source] io::Error),
    /// The disk failed.
    #[error("the platform's blob store failed")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error),
            _ => Self::Io(error),
        }
    }
}

/// Content by digest, on disk.
pub struct BlobStore {
    complete: PathBuf,
    uploads: PathBuf,
    wants: Mutex<Wants>,
}

/// What must stay although nothing reaches it yet.
#[derive(Default)]
struct Wants {
    /// What was wanted since the running collection began; `None` while none runs.
    since_collection: Option<HashSet<Digest>>,
    /// How many hold a digest pinned.
    pinned: HashMap<Digest, usize>,
}

impl BlobStore {
    /// Opens the store in `directory`, making it if it is missing, and removes what unfinished uploads left there.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let (complete, uploads) = (directory.join("sha256"), directory.join("uploads"));
        fs::create_dir_all(&complete)?;
        fs::create_dir_all(&uploads)?;
        for entry in fs::read_dir(&uploads)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Self { complete, uploads, wants: Mutex::default() })
    }

    /// Where the blob is, if it is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.complete.join(digest.hex())
    }

    /// The blob's size in bytes, or `None` if it is not here.
    pub fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        absent_is_none(fs::metadata(self.path(digest)).map(|metadata| metadata.len()))
    }

    /// Like [`Self::size`], and if the blob is here, it stays until it has gone unwanted for the collector's grace.
    pub fn want(&self, digest: &Digest) -> io::Result<Option<u64>> {
        let mut wants = self.wants();
        let Some(file) = absent_is_none(File::open(self.path(digest)))? else { return Ok(None) };
        file.set_modified(SystemTime::now())?;
        wants.note(digest);
        Ok(Some(file.metadata()?.len()))
    }

    /// Keeps blobs, here or yet to come, from the collector for as long as the pins live.
    pub fn pin(self: &Arc<Self>, digests: Vec<Digest>) -> Pins {
        let mut wants = self.wants();
        for digest in &digests {
            *wants.pinned.entry(digest.clone()).or_default() += 1;
        }
        drop(wants);
        Pins { store: Arc::clone(self), digests }
    }

    /// Begins to write a blob of at most `limit_bytes`.
    pub async fn writer(self: &Arc<Self>, limit_bytes: u64) -> Result<BlobWriter, StoreError> {
        let path = self.uploads.join(kit::random::token());
        let mut file = tokio::fs::File::create_new(&path).await?;
        file.set_max_buf_size(WRITE_BYTES);
        let unfinished = Unfinished(path);
        let store = Arc::clone(self);
        Ok(BlobWriter {
            store,
            file,
            unfinished,
            limit_bytes,
            hash: Sha256::new(),
            buffer: Vec::new(),
            len: 0,
            flushing: false,
        })
    }

    /// Stores a small document and returns its digest.
    pub fn put(&self, content: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::sha256(Sha256::digest(content).into());
        if self.want(&digest)?.is_some() {
            return Ok(digest);
        }
        let unfinished = Unfinished(self.uploads.join(kit::random::token()));
        let mut file = File::create_new(&unfinished.0)?;
        io::Write::write_all(&mut file, content)?;
        self.complete(file, unfinished, &digest)?;
        Ok(digest)
    }

    /// Every blob that is here.
    pub fn list(&self) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.complete)? {
            let name = entry?.file_name();
            digests.extend(name.to_str().and_then(digest_of_hex));
        }
        Ok(digests)
    }

    /// Begins a collection. What is wanted from now on is not removed by it.
    pub fn begin_collection(self: &Arc<Self>) -> Collection {
        self.wants().since_collection = Some(HashSet::new());
        Collection { store: Arc::clone(self) }
    }

    /// Moves a written file to its place; after it returns, the blob is on the disk.
    fn complete(&self, file: File, unfinished: Unfinished, digest: &Digest) -> io::Result<()> {
        file.sync_all()?;
        let path = self.path(digest);
        {
            let mut wants = self.wants();
            file.set_modified(SystemTime::now())?;
            fs::rename(&unfinished.0, &path)?;
            wants.note(digest);
        }
        std::mem::forget(unfinished);
        kit::durable::sync_directory_of(&path)
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wants {
    fn note(&mut self, digest: &Digest) {
        if let Some(since) = &mut self.since_collection {
            since.insert(digest.clone());
        }
    }

    fn holds(&self, digest: &Digest) -> bool {
        self.pinned.contains_key(digest) || self.since_collection.as_ref().is_some_and(|since| since.contains(digest))
    }
}

/// Keeps blobs from the collector until it is dropped.
pub struct Pins {
    store: Arc<BlobStore>,
    digests: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut wants = self.store.wants();
        for digest in &self.digests {
            if let Some(count) = wants.pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    wants.pinned.remove(digest);
                }
            }
        }
    }
}

/// A running collection. There is one at a time.
pub struct Collection {
    store: Arc<BlobStore>,
}

impl Collection {
    /// Removes a blob, and the `links` to it first, unless somebody wants it or has wanted it after `last_wanted`.
    /// Returns the bytes set free, or `None` if it stays.
    pub fn remove(&self, digest: &Digest, last_wanted: SystemTime, links: &[PathBuf]) -> io::Result<Option<u64>> {
        let path = self.store.path(digest);
        let wants = self.store.wants();
        let Some(metadata) = absent_is_none(fs::metadata(&path))? else { return Ok(None) };
        if wants.holds(digest) || metadata.modified()? > last_wanted {
            return Ok(None);
        }
        for file in links.iter().chain([&path]) {
            absent_is_none(fs::remove_file(file))?;
        }
        Ok(Some(metadata.len()))
    }

    /// What was wanted since the collection began, or is pinned.
    pub fn wanted(&self) -> Vec<Digest> {
        let wants = self.store.wants();
        wants.since_collection.iter().flatten().chain(wants.pinned.keys()).cloned().collect()
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        self.store.wants().since_collection = None;
    }
}

/// A blob being written. Dropped before [`Self::commit`], it leaves nothing.
pub struct BlobWriter {
    store: Arc<BlobStore>,
    file: tokio::fs::File,
    unfinished: Unfinished,
    limit_bytes: u64,
    hash: Sha256,
    buffer: Vec<u8>,
    len: u64,
    /// Whether a disk write has begun and not ended. It stays true if the writing future was dropped in between;
    /// what is in the file is unknown then.
    flushing: bool,
}

impl BlobWriter {
    /// How many bytes have come.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.limit_bytes - self.len < chunk.len() as u64 {
            return Err(StoreError::TooLarge { limit_bytes: self.limit_bytes });
        }
        self.hash.update(chunk);
        self.len += chunk.len() as u64;
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Hands what was gathered to the disk and frees its memory.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        if self.flushing {
            return Err(StoreError::CutOff);
        }
        self.flushing = true;
        self.file.write_all(&self.buffer).await?;
        self.file.flush().await?;
        self.buffer = Vec::new();
        self.flushing = false;
        Ok(())
    }

    /// Checks the digest and puts the blob in its place. After it returns, the blob is on the disk.
    pub async fn commit(mut self, expected: &Digest) -> Result<(), StoreError> {
        self.flush().await?;
        let actual = Digest::sha256(self.hash.finalize().into());
        if actual != *expected {
            return Err(StoreError::Digest { expected: expected.clone(), actual });
        }
        let (store, file, unfinished) = (self.store, self.file.into_std().await, self.unfinished);
        if file.metadata()?.len() != self.len {
            return Err(StoreError::CutOff);
        }
        crate::blocking(move || Ok(store.complete(file, unfinished, &actual)?)).await
    }
}

/// The path of a file that goes away unless it is forgotten.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The digest that a file name of 64 hexadecimal digits stands for.
pub(crate) fn digest_of_hex(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// Turns "there is no such file" into `None`.
pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
