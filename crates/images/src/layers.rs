//! What whoever unpacks an image needs of it: its configuration and its layer files in order.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use api::internal::ImageError;
use model::{Digest, ImageConfig};

use crate::{
    document::{Configuration, Descriptor, ImageManifest, MAX_DOCUMENT_BYTES, Manifest, Platform},
    rootfs::LayerSource,
    store::BlobStore,
};

/// One image of the blob store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayers {
    /// The manifest's digest.
    pub manifest: Digest,
    /// What the image says about running it.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer: a tar archive, compressed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob's file. Its content was checked against `digest` when it was written.
    pub path: PathBuf,
    /// How it is packed, by its media type.
    pub compression: Compression,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size as stored, in bytes.
    pub size_bytes: u64,
    /// The digest of the uncompressed archive, as the image configuration promises it.
    pub diff_id: Digest,
}

/// How a layer's archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl BlobStore {
    /// The layers and the configuration of an image by its manifest's digest (of one platform, never an index).
    ///
    /// Reads two small files; call it where blocking is allowed.
    ///
    /// # Errors
    /// `NotFound` if the manifest or a part of it is not in the store, `Platform` if it is for other hosts,
    /// `Unusable` if it is not a container image or contradicts itself. They call the image `name`.
    pub fn layers(&self, manifest: &Digest, name: &str) -> Result<ImageLayers, ImageError> {
        let image = match Manifest::parse(&self.read_document(manifest, name)?, None) {
            Ok(Manifest::Image(image)) => image,
            Ok(Manifest::Index(_)) => return Err(unusable(name, "it is an index of images, not an image")),
            Err(error) => return Err(unusable(name, error)),
        };
        if !image.is_container_image() {
            return Err(not_an_image(name, &image));
        }
        let configuration = Configuration::parse(&self.read_document(&image.config.digest, name)?)
            .map_err(|error| unusable(name, error))?;
        check_platform(name, &configuration.platform)?;
        let layers = self.pair(name, &image, &configuration)?;
        Ok(ImageLayers { manifest: manifest.clone(), config: configuration.config, layers })
    }

    /// Joins the manifest's layers with the configuration's list of their uncompressed digests.
    fn pair(&self, name: &str, image: &ImageManifest, with: &Configuration) -> Result<Vec<Layer>, ImageError> {
        if image.layers.len() != with.diff_ids.len() {
            let (blobs, ids) = (image.layers.len(), with.diff_ids.len());
            return Err(unusable(name, format!("its manifest lists {blobs} layers, its configuration {ids}")));
        }
        let pairs = image.layers.iter().zip(&with.diff_ids);
        pairs.map(|(blob, diff_id)| self.layer(name, blob, diff_id)).collect()
    }

    fn layer(&self, name: &str, blob: &Descriptor, diff_id: &Digest) -> Result<Layer, ImageError> {
        let path = self.path(&blob.digest);
        let size_bytes = std::fs::metadata(&path).map_err(|error| absent(name, &blob.digest, error))?.len();
        if size_bytes != blob.size {
            let reason = format!("its layer {} has {size_bytes} bytes, its manifest says {}", blob.digest, blob.size);
            return Err(unusable(name, reason));
        }
        let compression = compression_of(&blob.media_type)
            .ok_or_else(|| unusable(name, format!("its layer has the unknown type {:?}", blob.media_type)))?;
        Ok(Layer { path, compression, digest: blob.digest.clone(), size_bytes, diff_id: diff_id.clone() })
    }

    fn read_document(&self, digest: &Digest, name: &str) -> Result<Vec<u8>, ImageError> {
        read_bounded(&self.path(digest)).map_err(|error| absent(name, digest, error))
    }
}

impl LayerSource for Arc<BlobStore> {
    fn layers(&self, manifest: &Digest) -> Result<ImageLayers, ImageError> {
        BlobStore::layers(self, manifest, manifest.as_str())
    }
}

impl ImageLayers {
    /// The sum of the layers as stored, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size_bytes).sum()
    }
}

fn compression_of(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            Compression::Gzip
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
            Compression::Zstd
        }
        _ => return None,
    })
}

/// Refuses an image that this host cannot run.
pub(crate) fn check_platform(name: &str, platform: &Platform) -> Result<(), ImageError> {
    if platform.fits_host() {
        return Ok(());
    }
    let wanted = format!("linux/{}", crate::document::host_architecture());
    Err(ImageError::Platform { reference: name.to_owned(), wanted, offered: platform.name() })
}

/// Refuses an artifact (a chart, a signature, …) in the shape of an image.
pub(crate) fn not_an_image(name: &str, manifest: &ImageManifest) -> ImageError {
    let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
    unusable(name, format!("it is an artifact of type {kind:?}, not a container image; name the image itself"))
}

pub(crate) fn unusable(name: &str, reason: impl ToString) -> ImageError {
    ImageError::Unusable { reference: name.to_owned(), reason: reason.to_string() }
}

fn absent(name: &str, part: &Digest, error: std::io::Error) -> ImageError {
    let reference = name.to_owned();
    if error.kind() == std::io::ErrorKind::NotFound {
        let reason = format!("{part} is not in the blob store; push or deploy the image again");
        return ImageError::NotFound { reference, reason };
    }
    ImageError::Storage { reference, reason: format!("reading {part}: {error}") }
}

/// Reads a manifest or a configuration, at most [`MAX_DOCUMENT_BYTES`] of it.
pub(crate) fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    std::fs::File::open(path)?.take(limit).read_to_end(&mut content)?;
    if content.len() > MAX_DOCUMENT_BYTES {
        let why = format!("it is larger than {MAX_DOCUMENT_BYTES} bytes, the limit of manifests and configurations");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why));
    }
    Ok(content)
}
