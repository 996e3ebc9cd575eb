//! Real clients.

use std::{
    path::Path,
    process::{Command, Output},
};

use images::Compression;
use model::Digest;
use serde_json::{Value, json};

use crate::support::*;

/// Runs skopeo; `None` where it is not installed.
async fn skopeo(arguments: Vec<String>) -> Option<Output> {
    tokio::task::spawn_blocking(|| Command::new("skopeo").arg("--insecure-policy").args(arguments).output().ok())
        .await
        .unwrap()
}

async fn copy(from: String, to: String, more: &[&str]) -> Output {
    let mut arguments = vec!["copy".to_owned(), from, to];
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    skopeo(arguments).await.unwrap()
}

fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn digest_in(platform: &Platform, path: &str) -> Digest {
    header_of(&platform.client().get(path).await, "docker-content-digest").parse().unwrap()
}

/// Writes an OCI image layout with one image, tagged `v1`.
fn write_layout(directory: &Path, image: &TestImage) {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let manifest = image.manifest().to_string().into_bytes();
    for content in [&image.config, &image.layer, &manifest] {
        std::fs::write(blobs.join(digest_of(content).hex()), content).unwrap();
    }
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    std::fs::write(directory.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string())
        .unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

#[tokio::test]
async fn skopeo_pushes_inspects_pulls_and_deletes() {
    if skopeo(vec!["--version".to_owned()]).await.is_none() {
        eprintln!("skipped: skopeo_pushes_inspects_pulls_and_deletes: skopeo is not installed");
        return;
    }
    let platform = Platform::start().await;
    let directory = tempfile::tempdir().unwrap();
    let (layout, back) = (directory.path().join("layout"), directory.path().join("back"));
    let archive = directory.path().join("image.tar");
    let image = TestImage::new("from skopeo");
    write_layout(&layout, &image);
    let remote = |name: &str| format!("docker://{}/{name}", platform.host);
    let push = ["--dest-tls-verify=false", "--dest-creds=me:all"];
    let pull = ["--src-tls-verify=false", "--src-creds=me:all"];

    // By itself skopeo packs layers that come as plain archives, and sends them in chunks.
    assert_done(&copy(format!("oci:{}:v1", layout.display()), remote("team/app:packed"), &push).await);
    let packed = digest_in(&platform, "team/app/manifests/packed").await;
    assert_eq!(platform.images.layers_of(&packed).unwrap().layers[0].compression, Compression::Gzip);
    let unchanged = [push.as_slice(), &["--preserve-digests"]].concat();
    assert_done(&copy(format!("oci:{}:v1", layout.display()), remote("team/app:v1"), &unchanged).await);
    let digest = digest_in(&platform, "team/app/manifests/v1").await;
    assert_eq!(digest, image.digest());
    assert_eq!(platform.images.layers_of(&digest).unwrap().layers[0].compression, Compression::None);

    let exactly = [pull.as_slice(), &["--preserve-digests"]].concat();
    assert_done(&copy(remote("team/app:v1"), format!("oci:{}:v1", back.display()), &exactly).await);
    let index: Value = serde_json::from_slice(&std::fs::read(back.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], json!(image.digest()));
    let layer = std::fs::read(back.join("blobs/sha256").join(digest_of(&image.layer).hex())).unwrap();
    assert_eq!(layer, image.layer);

    // Docker's own formats, through an archive as `docker save` writes it.
    assert_done(&copy(remote("team/app:v1"), format!("docker-archive:{}:a:v1", archive.display()), &pull).await);
    assert_done(&copy(format!("docker-archive:{}", archive.display()), remote("team/app:v2"), &push).await);
    let docker = platform.client().get("team/app/manifests/v2").await;
    assert_eq!(header_of(&docker, "content-type"), "application/vnd.docker.distribution.manifest.v2+json");
    // From repository to repository: skopeo mounts the blobs.
    let both = [push.as_slice(), pull.as_slice()].concat();
    assert_done(&copy(remote("team/app:v2"), remote("team/copy:v1"), &both).await);
    assert_eq!(platform.client().head("team/copy/manifests/v1").await, 200);

    let delete = ["delete", "--tls-verify=false", "--creds=me:all"].map(str::to_owned).to_vec();
    assert_done(&skopeo([delete, vec![remote("team/app:v1")]].concat()).await.unwrap());
    assert_eq!(platform.client().head("team/app/manifests/v1").await, 404);
    let refused = copy(
        format!("oci:{}:v1", layout.display()),
        remote("app:v1"),
        &["--dest-tls-verify=false", "--dest-creds=me:reader"],
    );
    let refused = refused.await;
    assert!(!refused.status.success());
    assert_eq!(platform.client().head("app/manifests/v1").await, 404);
}
