//! The platform's own container registry, its blob store, and what is made of images.
//!
//! ```text
//!   docker push ──▶ registry ──┐                       ┌──▶ layers ──▶ rootfs ──▶ <data>/rootfs/<hex>.ext4
//!                              ├──▶ store (blobs/) ────┤
//!   another registry ◀── pull ─┘                       └──▶ gc: takes what nothing reaches
//! ```
//!
//! - [`store`]: blobs by digest; whole or absent at every moment.
//! - [`registry`]: OCI distribution 1.1 over HTTP; repositories (tags, manifests, blob links) on top of the store.
//! - [`pull`]: finds images by name, here or in other registries, and brings them into the store.
//! - [`layers`]: a manifest's configuration and layer files, as whoever unpacks them needs them.
//! - [`gc`]: mark and sweep.
//! - [`rootfs`]: layers to a bootable filesystem.

use std::path::PathBuf;

mod document;
pub mod layers;
pub mod rootfs;

pub use layers::{Compression, ImageLayers, Layer};

/// The platform's images: everything of this room behind one handle.
pub struct Images {
    data_directory: PathBuf,
}

impl Images {
    pub(crate) fn blob_path(&self, digest: &model::Digest) -> PathBuf {
        self.data_directory.join("blobs/sha256").join(digest.hex())
    }

    /// The platform's data directory; this room's parts of it are `blobs/`, `registry/` and `rootfs/`.
    pub(crate) fn data_directory(&self) -> &std::path::Path {
        &self.data_directory
    }
}
