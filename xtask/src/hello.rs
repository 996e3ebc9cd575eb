//! Packs `examples/hello` as an image: a static binary in one layer, `FROM scratch`, as an OCI image layout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run;

/// Builds and packs; the layout's directory is returned.
pub fn pack() -> Result<PathBuf> {
    let binary = build()?;
    let layout = run::target().join("hello-oci");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256"))?;

    let layer = blob(&layout, "application/vnd.oci.image.layer.v1.tar", &layer(&binary)?)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/hello"], "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    write_image(&layout, &config, &[layer])?;
    Ok(layout)
}

/// Writes an image's configuration, manifest and index into a layout that holds its layers.
pub fn write_image(layout: &Path, config: &Value, layers: &[Value]) -> Result<()> {
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(config)?)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let mut manifest = blob(layout, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

/// Builds the example without any shared library, so that it runs in an otherwise empty image.
fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = run::cargo(&["build", "--quiet", "--release", "--package", "hello", "--target", &target]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    run::succeed(&mut cargo)?;
    Ok(run::target().join(target).join("release/hello"))
}

fn layer(binary: &Path) -> Result<Vec<u8>> {
    let content = fs::read(binary).with_context(|| format!("{} was not built", binary.display()))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "hello", content.as_slice())?;
    Ok(archive.into_inner()?)
}

/// Stores a blob and returns its descriptor.
fn blob(layout: &Path, media_type: &str, content: &[u8]) -> Result<Value> {
    let digest = hex::encode(Sha256::digest(content));
    fs::write(layout.join("blobs/sha256").join(&digest), content)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}))
}

/// This machine's processor as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
