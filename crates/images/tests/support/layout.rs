//! Images of an OCI image layout on disk (image-layout.md of the OCI image specification 1.1), as tests and the
//! benchmark hand them to the root filesystem maker.

use std::path::{Path, PathBuf};

use api::internal::ImageError;
use images::{Compression, ImageLayers, Layer, rootfs::LayerSource};
use model::{Digest, ImageConfig};
use serde_json::Value;

/// An image layout.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: PathBuf,
}

impl Layout {
    /// The layout in this directory.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Its images: tag and manifest.
    pub fn images(&self) -> Vec<(String, Digest)> {
        let index = read(&self.directory.join("index.json"));
        let tag = |entry: &Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str().map(str::to_owned);
        let manifests = index["manifests"].as_array().unwrap().iter();
        manifests.filter_map(|entry| Some((tag(entry)?, digest(&entry["digest"])))).collect()
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }
}

impl LayerSource for Layout {
    fn layers(&self, manifest: &Digest) -> Result<ImageLayers, ImageError> {
        let document = read(&self.blob(manifest));
        let config = read(&self.blob(&digest(&document["config"]["digest"])));
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
        let layers = document["layers"].as_array().unwrap().iter().zip(diff_ids);
        let layers = layers.map(|(layer, diff_id)| self.layer(layer, diff_id)).collect();
        Ok(ImageLayers { manifest: manifest.clone(), config: ImageConfig::default(), layers })
    }
}

impl Layout {
    fn layer(&self, layer: &Value, diff_id: &Value) -> Layer {
        let digest_of_blob = digest(&layer["digest"]);
        let media_type = layer["mediaType"].as_str().unwrap();
        Layer {
            path: self.blob(&digest_of_blob),
            compression: match media_type.rsplit(['.', '+']).next() {
                Some("gzip") => Compression::Gzip,
                Some("zstd") => Compression::Zstd,
                _ => Compression::None,
            },
            digest: digest_of_blob,
            size_bytes: layer["size"].as_u64().unwrap(),
            diff_id: digest(diff_id),
        }
    }
}

fn read(path: &Path) -> Value {
    let content = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&content).unwrap()
}

fn digest(text: &Value) -> Digest {
    text.as_str().unwrap().parse().unwrap()
}
