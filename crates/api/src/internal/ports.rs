//! The smaller ports: images, logs, draining.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use model::{AppName, Digest, ImageConfig, ImageSpec, MachineId, OrgSlug, log::LogRecord, machine::Sleep};
use thiserror::Error;
use tokio::sync::mpsc;

use super::NodeError;
use crate::public::edge::{EdgeConnections, EdgeRoutes};

/// Why an image could not be found, fetched or made bootable.
#[derive(Debug, Clone, Error)]
pub enum ImageError {
    /// There is no such image, or the credentials do not open it.
    #[error("image {reference} was not found: {reason}")]
    NotFound {
        /// The name as given.
        reference: String,
        /// What was tried and what to do next.
        reason: String,
    },
    /// The image is for other processors or systems only.
    #[error("image {reference} has no variant for {wanted}; it offers {offered}")]
    Platform {
        /// The name as given.
        reference: String,
        /// The platform of this host, such as `linux/amd64`.
        wanted: String,
        /// The platforms that the image offers.
        offered: String,
    },
    /// The image is broken or hostile.
    #[error("image {reference} cannot be used: {reason}")]
    Unusable {
        /// The name as given, or the digest.
        reference: String,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// The registry it lives in could not be reached or refused.
    #[error("the registry of {reference} could not serve it: {reason}")]
    Registry {
        /// The name as given.
        reference: String,
        /// What the registry said and what to do next.
        reason: String,
    },
    /// The host's disk is full or failed.
    #[error("no room for image {reference}: {reason}")]
    Storage {
        /// The name as given, or the digest.
        reference: String,
        /// What the system said and what to do next.
        reason: String,
    },
}

/// How to sign in to the registry that an image lives in.
#[derive(Clone, Default)]
pub enum PullCredentials {
    /// Without.
    #[default]
    Anonymous,
    /// User name and password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

/// An image that now stands complete in the platform's blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The manifest of this host's platform.
    pub image: ImageSpec,
    /// What its configuration says about running it.
    pub config: ImageConfig,
    /// The sum of its layers as stored, in bytes.
    pub size_bytes: u64,
}

/// Finds images by name and brings them into the platform's blob store.
#[async_trait]
pub trait ImageResolver: Send + Sync {
    /// Resolves a reference for an organization: one of the platform's own registry (`app:tag`,
    /// `app@sha256:…`, or with the registry's own host in front) or of another (`registry/repository:tag`).
    async fn resolve(
        &self,
        org: &OrgSlug,
        reference: &str,
        credentials: PullCredentials,
    ) -> Result<ResolvedImage, ImageError>;

    /// Removes an app's repositories (`<app>` and `<app>/…`) from the platform's own registry; their blobs become
    /// collectable. Called when the app is destroyed, so that a later app of that name does not find its images.
    async fn forget(&self, app: &AppName) -> Result<(), ImageError>;
}

/// A read-only root filesystem on disk.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// An ext4 image, never written to, shared by all machines of the digest.
    pub path: PathBuf,
    /// What the image's configuration says about running it.
    pub config: ImageConfig,
}

/// Turns images into root filesystems. One per digest, made once, however many ask at a time.
#[async_trait]
pub trait RootfsSource: Send + Sync {
    /// The root filesystem of an image of the blob store.
    async fn rootfs(&self, image: &ImageSpec) -> Result<Rootfs, ImageError>;
}

/// Says which images must not be collected.
#[async_trait]
pub trait ImagesInUse: Send + Sync {
    /// The manifests that a release or a machine uses. An error means: collect nothing.
    async fn images_in_use(&self) -> Result<Vec<Digest>, String>;
}

/// Takes log records. It never blocks: what does not fit is dropped and counted.
pub trait LogSink: Send + Sync {
    /// Appends one record.
    fn append(&self, record: LogRecord);
}

/// Which records of an app's log are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// The app.
    pub app: AppName,
    /// One machine only.
    pub machine: Option<MachineId>,
    /// Only records written after this moment: nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// The last so many of them.
    pub limit: usize,
}

/// Reads app logs.
#[async_trait]
pub trait LogQuery: Send + Sync {
    /// Records that exist now, oldest first.
    async fn query(&self, filter: LogFilter) -> Vec<LogRecord>;

    /// Records that exist now, then those that come, in order and without a gap. A reader too slow to keep up is
    /// told so by a record of the platform in place of those it missed.
    fn follow(&self, filter: LogFilter) -> mpsc::Receiver<LogRecord>;

    /// Forgets an app's records.
    async fn forget(&self, app: &AppName);
}

/// What a caller may do with a repository of the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryRights {
    /// Read it.
    pub pull: bool,
    /// Write to it.
    pub push: bool,
    /// Delete from it.
    pub delete: bool,
}

/// Decides who may use the platform's own registry.
#[async_trait]
pub trait RegistryAccess: Send + Sync {
    /// What the holder of `token` may do with `repository`: an app's name, or a path under an organization's.
    /// `None` if the token is not valid. An empty repository asks about the token alone.
    async fn rights(&self, token: &str, repository: &str) -> Option<RegistryRights>;

    /// Whether machines of `org` may run images of `repository`: it belongs to the organization (or to one of its
    /// apps). Asked when an image of the platform's own registry is resolved, where there is no token.
    async fn may_run(&self, org: &OrgSlug, repository: &str) -> bool;
}

/// Knows when nothing is under way to a machine any more.
#[async_trait]
pub trait Drain: Send + Sync {
    /// Waits until the edge no longer chooses the machine (its catalog has caught up with `generation` of the
    /// node's view) and nothing is under way to it. Returns how many requests and connections were still open
    /// when `deadline` passed; 0 means that it is drained.
    async fn drained(&self, machine: &MachineId, generation: u64, deadline: Duration) -> usize;
}

/// What became of the wish that a machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nap {
    /// It sleeps.
    Asleep,
    /// Its program has said that it is busy, for so much longer.
    Busy(Duration),
    /// Something came for it meanwhile, so it stays awake.
    Disturbed,
}

/// Why a machine is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idleness {
    /// It has had nothing to do for so long.
    Idle(Duration),
    /// The others could do what it does, for so long.
    Spare(Duration),
}

/// Wakes machines and puts them to sleep, for the sake of their traffic. It goes straight to the node that has the
/// machine: no placement, no database, no control plane.
#[async_trait]
pub trait Wake: Send + Sync {
    /// Starts a machine that sleeps, or is falling asleep, and returns when its program runs. One that is awake stays so.
    async fn wake(&self, id: &MachineId) -> Result<(), NodeError>;

    /// Puts a machine to sleep, and returns when it sleeps. Its traffic is taken away first; a request that comes meanwhile
    /// may wake it again.
    async fn sleep(&self, id: &MachineId, how: Sleep, why: Idleness) -> Result<Nap, NodeError>;
}

/// Shows what the edge does at this moment.
pub trait EdgeView: Send + Sync {
    /// Its counters as Prometheus reads them: those of some apps, or all.
    fn metrics(&self, apps: Option<&BTreeSet<AppName>>) -> String;

    /// What leads where.
    fn routes(&self) -> EdgeRoutes;

    /// The live connections of clients.
    fn connections(&self) -> EdgeConnections;
}

/// Tells edges on other hosts who runs where.
pub trait CatalogFeed: Send + Sync {
    /// All of the catalog, or what has changed since a generation if that is still known; then what changes. Lines of JSON,
    /// cut anywhere; an empty one now and then where nothing changes. It ends when the receiver is dropped.
    fn feed(&self, since: Option<u64>) -> mpsc::Receiver<Bytes>;
}

#[async_trait]
impl<T: Drain + ?Sized> Drain for Arc<T> {
    async fn drained(&self, machine: &MachineId, generation: u64, deadline: Duration) -> usize {
        (**self).drained(machine, generation, deadline).await
    }
}
