//! Pushes an image that lies on disk as an OCI image layout (OCI image specification 1.1) straight to a registry:
//! no Docker takes part. `skopeo copy … oci:DIR` makes such a layout of any image.

use std::{
    io,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt, TryStreamExt};
use model::Digest;
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use serde::Deserialize;
use thiserror::Error;
use tokio::{fs, io::AsyncReadExt};
use tokio_util::io::ReaderStream;

/// Where an image is pushed to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The registry: host and port.
    pub registry: String,
    /// The repository inside it.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// The password that goes with it: a platform token.
    pub token: String,
    /// Speak plain HTTP: for a registry on this machine.
    pub plain_http: bool,
}

/// Why an image layout was not pushed.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A file of the layout is missing or cannot be read.
    #[error("{} is not a readable part of an OCI image layout (`skopeo copy docker://IMAGE oci:DIR` makes one)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A document of the layout says nothing sensible.
    #[error("{} is not a valid OCI document", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The layout holds no image for this platform's machines.
    #[error("the layout holds no image for linux/{0}; build one for it")]
    NoImage(&'static str),
    /// The registry refused.
    #[error("the registry did not take the image")]
    Registry(#[from] Box<OciDistributionError>),
    /// The target's name is not one.
    #[error("{0} is not an image name")]
    Name(String),
}

/// Longest document that is read into memory: the limit that registries have for manifests.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Pushes the image of `layout` and returns the digest of its manifest. Blobs that the registry has already are not
/// sent again; `progress` is told what happens, one line each.
pub async fn push(layout: &Path, target: &Target, progress: impl Fn(String)) -> Result<Digest, LayoutError> {
    let chosen = choose(layout).await?;
    let bytes = document(&blob_path(layout, &chosen.digest)).await?;
    let manifest: Manifest = parse(&blob_path(layout, &chosen.digest), &bytes)?;

    let name = format!("{}/{}:{}", target.registry, target.repository, target.tag);
    let reference: Reference = name.parse().map_err(|_| LayoutError::Name(name))?;
    let protocol = if target.plain_http { ClientProtocol::Http } else { ClientProtocol::Https };
    let client = Client::new(ClientConfig { protocol, ..ClientConfig::default() });
    let auth = RegistryAuth::Basic("x".into(), target.token.clone());
    client.auth(&reference, &auth, RegistryOperation::Push).await.map_err(Box::new)?;

    for blob in manifest.layers.iter().chain([&manifest.config]) {
        push_blob(&client, &reference, layout, blob, &progress).await?;
    }
    let media_type = if chosen.media_type.is_empty() { MANIFEST } else { &chosen.media_type };
    let media_type = media_type.parse().map_err(|_| LayoutError::NoImage(architecture()))?;
    client.push_manifest_raw(&reference, bytes, media_type).await.map_err(Box::new)?;
    Ok(chosen.digest)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

async fn push_blob(
    client: &Client,
    reference: &Reference,
    layout: &Path,
    blob: &Descriptor,
    progress: &impl Fn(String),
) -> Result<(), LayoutError> {
    if client.blob_exists(reference, blob.digest.as_str()).await.map_err(Box::new)? {
        progress(format!("{}: already there", blob.digest.short()));
        return Ok(());
    }
    progress(format!("{}: pushing {} bytes", blob.digest.short(), blob.size));
    let path = blob_path(layout, &blob.digest);
    let unreadable = |source| LayoutError::Unreadable { path: path.clone(), source };
    let file = fs::File::open(&path).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    let bytes = ReaderStream::with_capacity(file, 256 << 10).map_err(OciDistributionError::from).boxed();
    client.push_blob_stream(reference, bytes, blob.digest.as_str(), Some(size)).await.map_err(Box::new)?;
    Ok(())
}

/// The manifest for this platform's machines, through nested indexes.
async fn choose(layout: &Path) -> Result<Descriptor, LayoutError> {
    let mut path = layout.join("index.json");
    // Two levels are what tools write; a chain without end is no image.
    for _ in 0..4 {
        let index: Index = parse(&path, &document(&path).await?)?;
        let fits = |manifest: &&Descriptor| {
            let fits = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture();
            manifest.platform.as_ref().is_none_or(fits)
        };
        let chosen = index.manifests.iter().find(fits).ok_or(LayoutError::NoImage(architecture()))?;
        if !chosen.media_type.contains("index") && !chosen.media_type.contains("manifest.list") {
            return Ok(chosen.clone());
        }
        path = blob_path(layout, &chosen.digest);
    }
    Err(LayoutError::NoImage(architecture()))
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

async fn document(path: &Path) -> Result<Vec<u8>, LayoutError> {
    let unreadable = |source| LayoutError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).await.map_err(unreadable)?;
    file.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes).await.map_err(unreadable)?;
    Ok(bytes)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path, bytes: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|source| LayoutError::Invalid { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_manifest_for_this_machine_is_chosen_through_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let digest = |fill: &str| format!("sha256:{}", fill.repeat(64));
        let outer = serde_json::json!({"manifests": [
            {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest("a"), "size": 1}]});
        let inner = serde_json::json!({"manifests": [
            {"mediaType": MANIFEST, "digest": digest("b"), "platform": {"os": "linux", "architecture": "s390x"}},
            {"mediaType": MANIFEST, "digest": digest("c"), "platform": {"os": "linux", "architecture": architecture()}}]});
        std::fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
        std::fs::write(directory.path().join("index.json"), outer.to_string()).unwrap();
        std::fs::write(directory.path().join("blobs/sha256").join("a".repeat(64)), inner.to_string()).unwrap();
        assert_eq!(choose(directory.path()).await.unwrap().digest.as_str(), digest("c"));
    }

    #[tokio::test]
    async fn a_layout_cannot_name_files_outside_itself() {
        let directory = tempfile::tempdir().unwrap();
        let evil = serde_json::json!({"manifests": [{"mediaType": MANIFEST, "digest": "sha256:../../../etc/passwd"}]});
        std::fs::write(directory.path().join("index.json"), evil.to_string()).unwrap();
        assert!(matches!(choose(directory.path()).await, Err(LayoutError::Invalid { .. })));
        let missing = choose(&directory.path().join("nothing")).await.map(|_| ()).unwrap_err();
        assert!(missing.to_string().contains("OCI image layout"), "{missing}");
    }
}
