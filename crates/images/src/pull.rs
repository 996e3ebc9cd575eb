//! Finding images by name and bringing them into the blob store.
//!
//! - A name with one of the platform's own hosts, or without a host where the organization has a repository of that
//!   name: [`local`].
//! - Every other name: [`remote`]; without a host, Docker Hub.
//!
//! What was found is wanted, part by part, so the collector leaves it alone until a release or a machine uses it.

use std::{sync::Arc, time::Duration};

use api::internal::{ImageError, PullCredentials, RegistryAccess, ResolvedImage};
use model::{Digest, ImageSpec, OrgSlug, Reference};
use tokio::sync::Semaphore;

mod challenge;
mod local;
mod platform;
mod remote;
mod session;

use crate::{layers::unusable, registry::Registry, store::StoreError};

/// How many images are pulled from other registries at a time.
const PULLS_AT_ONCE: usize = 4;
/// The longest image name that is read.
const MAX_NAME_BYTES: usize = 1_024;

/// Resolves image names.
pub(crate) struct Puller {
    registry: Arc<Registry>,
    options: PullOptions,
    client: reqwest::Client,
    at_once: Semaphore,
}

/// How a puller works.
pub(crate) struct PullOptions {
    pub access: Arc<dyn RegistryAccess>,
    pub own_hosts: Vec<String>,
    pub max_image_bytes: u64,
    pub timeout: Duration,
}

impl Puller {
    pub fn new(registry: Arc<Registry>, options: PullOptions) -> Result<Self, reqwest::Error> {
        Ok(Self { registry, options, client: session::client()?, at_once: Semaphore::new(PULLS_AT_ONCE) })
    }

    /// Finds an image and makes sure that it stands complete in the store.
    pub async fn resolve(
        &self,
        org: &OrgSlug,
        name: &str,
        credentials: PullCredentials,
    ) -> Result<ResolvedImage, ImageError> {
        let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
        let reference: Reference = match shown.len() == name.len() {
            true => name.parse().map_err(|error| unusable(&shown, error))?,
            false => return Err(unusable(&shown, format!("an image name has at most {MAX_NAME_BYTES} bytes"))),
        };
        let digest = if self.is_local(org, name, &reference).await? {
            self.find_local(name, &reference).await?
        } else {
            self.fetch(name, &reference, credentials).await?
        };
        self.describe(name, digest).await
    }

    /// Brings an image of another registry here, within the time that a pull may take.
    async fn fetch(
        &self,
        name: &str,
        reference: &Reference,
        credentials: PullCredentials,
    ) -> Result<Digest, ImageError> {
        let limit = self.options.timeout;
        let pull = async {
            let _turn = self.at_once.acquire().await;
            self.pull(name, reference, credentials).await
        };
        tokio::time::timeout(limit, pull).await.unwrap_or_else(|_| {
            let reason = format!("it took longer than {} s; try again, or push the image here", limit.as_secs());
            Err(ImageError::Registry { reference: name.to_owned(), reason })
        })
    }

    /// What the image says about itself, once it is here.
    async fn describe(&self, name: &str, digest: Digest) -> Result<ResolvedImage, ImageError> {
        let (store, reference) = (Arc::clone(&self.registry.store), name.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let layers = store.layers(&digest, &reference)?;
            let size_bytes = layers.size_bytes();
            Ok(ResolvedImage { image: ImageSpec { reference, digest }, config: layers.config, size_bytes })
        });
        found.await.unwrap_or_else(|_| Err(storage(name, "the platform is stopping")))
    }
}

fn storage(name: &str, reason: impl ToString) -> ImageError {
    ImageError::Storage { reference: name.to_owned(), reason: reason.to_string() }
}

fn not_found(name: &str, reason: impl Into<String>) -> ImageError {
    ImageError::NotFound { reference: name.to_owned(), reason: reason.into() }
}

/// A failure of the store in the words of images.
fn store_failed(name: &str, error: &StoreError) -> ImageError {
    let reason = kit::report::Report(error).to_string();
    match error {
        StoreError::Digest { .. } | StoreError::TooLarge { .. } => unusable(name, reason),
        StoreError::CutOff | StoreError::Full(_) | StoreError::Io(_) => storage(name, reason),
    }
}
