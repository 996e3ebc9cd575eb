//! The platform's own container registry, its blob store, and what is made of images.
//!
//! ```text
//!   docker push ──▶ registry ──┐                       ┌──▶ layers ──▶ rootfs ──▶ <data>/rootfs/<hex>.ext4
//!                              ├──▶ store (blobs/) ────┤
//!   another registry ◀── pull ─┘                       └──▶ gc: takes what nothing reaches
//! ```
//!
//! - `store`: blobs by digest; whole or absent at every moment.
//! - `registry`: OCI distribution 1.1 over HTTP; repositories (tags, manifests, blob links) on top of the store.
//! - `pull`: finds images by name, here or in other registries, and brings them into the store.
//! - `document`: manifests and image configurations. [`layers`]: an image's layer files, as the unpacker needs them.
//! - `gc`: mark and sweep.
//! - [`rootfs`]: layers to a bootable filesystem.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use api::internal::{
    ImageError, ImageResolver, ImagesInUse, PullCredentials, RegistryAccess, ResolvedImage, Rootfs, RootfsSource,
};
use async_trait::async_trait;
use axum::Router;
use model::{AppName, Digest, ImageSpec, OrgSlug};
use thiserror::Error;

mod document;
mod gc;
pub mod layers;
mod pull;
mod registry;
pub mod rootfs;
mod store;

pub use gc::{CollectError, Collected};
pub use layers::{Compression, ImageLayers, Layer};
pub use registry::PublicScheme;

use gc::Sweep;
use pull::Puller;
use registry::{Registry, RegistryOptions};
use rootfs::RootfsStore;
use store::BlobStore;

/// How the images room is opened. [`ImagesOptions::new`] has the usual values.
pub struct ImagesOptions {
    /// The platform's data directory; this room's parts of it are `blobs/`, `registry/` and `rootfs/`.
    pub data_directory: PathBuf,
    /// The hosts, with their ports if they have one, under which people name the platform's own registry.
    pub own_hosts: Vec<String>,
    /// Who may use the registry.
    pub access: Arc<dyn RegistryAccess>,
    /// With which scheme clients reach the registry.
    pub scheme: PublicScheme,
    /// An upload that nobody touches for so long is forgotten.
    pub upload_idle: Duration,
    /// The most bytes of one pushed blob, and of the layers of one pulled image together.
    pub max_image_bytes: u64,
    /// How long something that nothing refers to stays after it was last wanted: the time that a client may take
    /// between a blob and its manifest, or a deploy between finding an image and using it.
    pub grace: Duration,
    /// How long the pull of one image may take.
    pub pull_timeout: Duration,
    /// Bounds on root filesystems.
    pub rootfs_limits: rootfs::Limits,
    /// How many root filesystems are made at a time.
    pub rootfs_at_once: usize,
}

impl ImagesOptions {
    /// The usual values.
    pub fn new(data_directory: impl Into<PathBuf>, access: Arc<dyn RegistryAccess>) -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            data_directory: data_directory.into(),
            own_hosts: Vec::new(),
            access,
            scheme: PublicScheme::default(),
            upload_idle: HOUR,
            max_image_bytes: 32 << 30,
            grace: HOUR,
            pull_timeout: HOUR,
            rootfs_limits: rootfs::Limits::default(),
            rootfs_at_once: 2,
        }
    }
}

/// Why the images room could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A directory could not be made, read or swept.
    #[error("the images under {directory} could not be opened; check its owner, its permissions and its disk")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The client for other registries could not be made.
    #[error("the client for other registries could not be set up: {0}")]
    Client(String),
}

/// The platform's images: everything of this room behind one handle.
pub struct Images {
    registry: Arc<Registry>,
    rootfs: Arc<RootfsStore>,
    puller: Puller,
    grace: Duration,
    /// Held by the collection under way.
    collecting: tokio::sync::Mutex<()>,
}

impl Images {
    /// Opens everything, making what is missing and sweeping what an earlier process left unfinished. Blocks shortly.
    pub fn open(options: ImagesOptions) -> Result<Arc<Self>, OpenError> {
        let opening = |directory: PathBuf| move |source| OpenError::Directory { directory, source };
        let [blobs, registry, rootfs] = ["blobs", "registry", "rootfs"].map(|part| options.data_directory.join(part));
        let store = Arc::new(BlobStore::open(&blobs).map_err(opening(blobs.clone()))?);
        let (limits, at_once) = (options.rootfs_limits, options.rootfs_at_once);
        let rootfs = RootfsStore::open(rootfs.clone(), Arc::clone(&store), limits, at_once).map_err(opening(rootfs))?;
        let registry_options = RegistryOptions {
            access: Arc::clone(&options.access),
            scheme: options.scheme,
            upload_idle: options.upload_idle,
            max_blob_bytes: options.max_image_bytes,
        };
        let registry = Registry::open(&registry, store, registry_options).map_err(opening(registry))?;
        let puller = Puller::new(
            Arc::clone(&registry),
            pull::PullOptions {
                access: options.access,
                own_hosts: options.own_hosts,
                max_image_bytes: options.max_image_bytes,
                timeout: options.pull_timeout,
            },
        )
        .map_err(|error| OpenError::Client(error.to_string()))?;
        Ok(Arc::new(Self {
            registry,
            rootfs: Arc::new(rootfs),
            puller,
            grace: options.grace,
            collecting: Default::default(),
        }))
    }

    /// The registry's HTTP door; all of its paths begin with `/v2`.
    pub fn router(&self) -> Router {
        self.registry.router()
    }

    /// What an image of the store is made of, by its manifest's digest. Blocks shortly.
    pub fn layers_of(&self, manifest: &Digest) -> Result<ImageLayers, ImageError> {
        self.registry.store.layers(manifest, manifest.as_str())
    }

    /// Removes blobs, manifests and root filesystems that nothing reaches: no tag, nothing in use, nothing wanted
    /// lately. Pushes and pulls go on meanwhile.
    pub async fn collect(&self, in_use: &dyn ImagesInUse) -> Result<Collected, CollectError> {
        let _collecting = self.collecting.lock().await;
        self.registry.uploads.expire();
        // From here on, whatever is wanted stays; so what begins to be used after the question below stays too.
        let collection = self.registry.store.begin_collection();
        let in_use = in_use.images_in_use().await.map_err(CollectError::UseUnknown)?;
        let (registry, rootfs, grace) = (Arc::clone(&self.registry), Arc::clone(&self.rootfs), self.grace);
        blocking(move || Ok(Sweep { registry: &registry, rootfs: &rootfs, in_use, grace }.run(&collection)?)).await
    }

    /// Gives up what is under way and returns once nothing of it is left.
    pub async fn stop(&self) {
        self.rootfs.stop().await;
    }
}

#[async_trait]
impl ImageResolver for Images {
    async fn resolve(
        &self,
        org: &OrgSlug,
        reference: &str,
        credentials: PullCredentials,
    ) -> Result<ResolvedImage, ImageError> {
        self.puller.resolve(org, reference, credentials).await
    }

    async fn forget(&self, app: &AppName) -> Result<(), ImageError> {
        let storage = |reason: String| ImageError::Storage { reference: app.to_string(), reason };
        let name = app.as_str().parse().map_err(|error: model::InvalidName| storage(error.to_string()))?;
        let registry = Arc::clone(&self.registry);
        blocking(move || registry.forget(&name))
            .await
            .map_err(|error: io::Error| storage(format!("removing the app's repositories: {error}")))
    }
}

#[async_trait]
impl RootfsSource for Images {
    async fn rootfs(&self, image: &ImageSpec) -> Result<Rootfs, ImageError> {
        self.rootfs.rootfs(image).await
    }
}

/// Runs disk work on a thread where blocking is allowed. It goes on to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::new(io::ErrorKind::Interrupted, "the platform is stopping").into()),
    }
}
