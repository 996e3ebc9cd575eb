//! Layers to a bootable read-only root filesystem: one ext4 image per manifest, made once, shared by all machines.
//!
//! ```text
//!   blobs ──▶ blob: hash, unpack, hash, spool ──▶ tar ──▶ layer: entries, whiteouts ─┐   (per layer, in parallel)
//!                                                                                    ▼
//!   <hex>.ext4, <hex>.json ◀── cache ◀── convert ◀── ext4: layout, copy ◀── tree: layers flattened, in memory
//! ```
//!
//! Nothing is mounted, and no name of a layer ever becomes a path of the host: layers are hostile. Memory grows with
//! the number of entries, never with their content. An image appears under its name when it is whole and on the disk.

mod blob;
mod cache;
mod convert;
mod ext4;
mod fault;
mod layer;
mod limits;
mod tar;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::internal::{ImageError, Rootfs, RootfsSource};
use async_trait::async_trait;
use model::{Digest, ImageSpec};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

pub use self::limits::Limits;
use self::{cache::Cache, fault::storage, limits::Budget, tree::Tree};
use crate::layers::ImageLayers;

/// Knows what an image is made of.
pub trait LayerSource: Send + Sync + 'static {
    /// The configuration and the layers of a manifest. May block.
    fn layers(&self, manifest: &Digest) -> Result<ImageLayers, ImageError>;
}

/// Makes root filesystems and keeps them. Clones are one store.
#[derive(Clone)]
pub struct RootfsStore {
    shared: Arc<Shared>,
    /// Conversions under way.
    tasks: TaskTracker,
    waiting: Arc<Mutex<HashMap<Digest, Outcome>>>,
}

/// What all conversions share.
struct Shared {
    cache: Cache,
    source: Box<dyn LayerSource>,
    limits: Limits,
    at_once: Semaphore,
    stop: AtomicBool,
}

/// How a conversion under way will have ended.
type Outcome = watch::Receiver<Option<Result<Rootfs, ImageError>>>;

impl RootfsStore {
    /// Opens the directory of finished images and removes what an interrupted conversion left there. At most
    /// `at_once` images are converted at a time; the others wait.
    pub fn open(directory: PathBuf, source: impl LayerSource, limits: Limits, at_once: usize) -> io::Result<Self> {
        let (cache, at_once) = (Cache::open(directory)?, Semaphore::new(at_once));
        let shared = Shared { cache, source: Box::new(source), limits, at_once, stop: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared), tasks: TaskTracker::new(), waiting: Arc::default() })
    }

    /// Removes images that are not in `in_use` and that nobody has asked for in so long. Returns how many. May block.
    pub fn collect(&self, in_use: &BTreeSet<Digest>, idle: Duration) -> io::Result<usize> {
        self.shared.cache.collect(in_use, idle)
    }

    /// Gives up conversions under way and returns once nothing of them is left.
    pub async fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The outcome of the conversion of this image, which is begun if it is not under way.
    fn join(&self, image: &ImageSpec) -> Outcome {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = waiting.get(&image.digest) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        waiting.insert(image.digest.clone(), outcome.clone());
        let (shared, waiting, image) = (self.shared.clone(), self.waiting.clone(), image.clone());
        self.tasks.spawn(async move {
            let result = shared.convert(&image).await;
            waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&image.digest);
            sender.send_replace(Some(result));
        });
        outcome
    }
}

#[async_trait]
impl RootfsSource for RootfsStore {
    async fn rootfs(&self, image: &ImageSpec) -> Result<Rootfs, ImageError> {
        let mut outcome = self.join(image);
        let result = outcome.wait_for(Option::is_some).await.map(|result| result.clone());
        result.ok().flatten().unwrap_or_else(|| Err(lost(image)))
    }
}

impl Shared {
    async fn convert(self: Arc<Self>, image: &ImageSpec) -> Result<Rootfs, ImageError> {
        let (shared, digest) = (self.clone(), image.digest.clone());
        let found = tokio::task::spawn_blocking(move || shared.cache.want(&digest)).await;
        if let Ok(Some(rootfs)) = found {
            return Ok(rootfs);
        }
        let _turn = self.at_once.acquire().await;
        let (shared, spec) = (self.clone(), image.clone());
        tokio::task::spawn_blocking(move || shared.make(&spec)).await.unwrap_or_else(|_| Err(lost(image)))
    }

    fn make(&self, image: &ImageSpec) -> Result<Rootfs, ImageError> {
        let layers = self.source.layers(&image.digest)?;
        let draft = convert::convert(&layers, self.cache.directory(), &self.limits, &self.stop);
        let rootfs = draft.and_then(|draft| {
            self.cache.publish(&image.digest, draft, layers.config).map_err(storage("writing the filesystem"))
        });
        rootfs.map_err(|fault| fault.of_image(&image.reference))
    }
}

/// A conversion that ended without an outcome: it panicked, which the log tells.
fn lost(image: &ImageSpec) -> ImageError {
    let reason = "the conversion failed inside; the platform's log says more".to_owned();
    ImageError::Unusable { reference: image.reference.clone(), reason }
}

/// Flattens plain archives, lowest first, and lays the filesystem out, all without touching a disk: what is refused
/// here would be refused as a layer. Returns the size that the image would have, in bytes. For fuzzing.
///
/// # Errors
/// What is wrong, and where.
pub fn examine(archives: &[&[u8]], limits: &Limits) -> Result<u64, String> {
    let budget = Budget::new(limits);
    let mut tree = Tree::new(limits);
    for (number, archive) in archives.iter().enumerate() {
        let index = layer::LayerIndex::read(&mut tar::Reader::new(*archive), &budget);
        index.and_then(|index| tree.apply(number as u32, index)).map_err(|fault| fault.to_string())?;
    }
    ext4::lay_out(&tree, [0; 16], limits).map(|image| image.size_bytes()).map_err(|fault| fault.to_string())
}
