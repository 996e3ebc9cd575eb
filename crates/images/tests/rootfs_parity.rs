//! Root filesystems are, entry by entry, what the reference unpacker (umoci) makes of the same layers.
//!
//! `DUNLIN_PARITY_LAYOUTS`, a list of OCI image layouts with colons between, adds real images: every tag of each.

#[path = "../src/rootfs/tests/archive.rs"]
#[allow(dead_code)]
mod archive;
#[path = "support/layout.rs"]
mod layout;
#[path = "support/parity.rs"]
mod parity;

use std::{fs, io::Write, path::Path};

use archive::{Archive, Item, device, dir, fifo, file, hard_link, opaque, symlink, whiteout};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::EntryType;

#[tokio::test]
async fn tricky_layers_flatten_as_umoci_flattens_them() {
    if let Some(reason) = parity::missing() {
        eprintln!("skipped: tricky_layers_flatten_as_umoci_flattens_them: {reason}");
        return;
    }
    let layout = tempfile::tempdir().unwrap();
    write_layout(layout.path(), &[lowest(), middle(), upper()]);
    assert!(parity::assert_equal(layout.path(), "test").await > 40);
}

#[tokio::test]
async fn real_images_flatten_as_umoci_flattens_them() {
    let skipped = |reason| eprintln!("skipped: real_images_flatten_as_umoci_flattens_them: {reason}");
    let Some(layouts) = std::env::var_os("DUNLIN_PARITY_LAYOUTS") else {
        return skipped("DUNLIN_PARITY_LAYOUTS names no image layouts");
    };
    if let Some(reason) = parity::missing() {
        return skipped(reason);
    }
    for directory in std::env::split_paths(&layouts) {
        let images = layout::Layout::at(&directory).images();
        assert!(!images.is_empty(), "{} names no image by a tag", directory.display());
        for (tag, _) in images {
            let entries = parity::assert_equal(&directory, &tag).await;
            println!("{}:{tag}: {entries} entries are equal", directory.display());
        }
    }
}

fn lowest() -> Vec<Item> {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let acl = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255];
    let acl = [&acl[..], &[16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255]].concat();
    vec![
        dir("./").mode(0o755).mtime(1_600_000_000),
        dir("./bin/").mode(0o755),
        file("./bin/su", "setuid").mode(0o4755).owner(0, 50),
        file("./bin/wall", "setgid").mode(0o2755),
        file("./bin/ping", "capable").xattr("security.capability", capability).xattr("user.note", "kept"),
        file("./bin/shared", "acl").mode(0o660).xattr("system.posix_acl_access", &acl),
        dir("./tmp").mode(0o1777).mtime(1),
        dir("./dev"),
        device("./dev/null", EntryType::Char, 1, 3).mode(0o666),
        device("./dev/disk", EntryType::Block, 259, 70_000).mode(0o660).owner(0, 6),
        fifo("./run/pipe").mode(0o600),
        dir("./usr/lib"),
        symlink("./lib", "usr/lib"),
        symlink("./absolute", "/usr/lib"),
        file("./usr/lib/old.so", "old"),
        file("./usr/lib/keep.so", "keep"),
        file("./owned", "").owner(3_000_000_000, 4_000_000_000),
        file("./precise", "").record("mtime", "1600000000.987654321"),
        file("./past", "").record("mtime", "-1.5"),
        file("./future", "").record("mtime", "4294967296.5"),
        file("./links/a", "shared content"),
        hard_link("./links/b", "links/a"),
        hard_link("./elsewhere/c", "./links/b"),
        symlink("./links/s", "nowhere"),
        hard_link("./links/t", "links/s"),
        file(format!("./{}/{}", "long".repeat(30), "name".repeat(50)), "long"),
        symlink("./far", "t/".repeat(300)),
        file("./größe", "utf-8"),
        file("./twice", "first"),
        file("./twice", "second"),
        file("./large", vec![42; 3_000_001]),
        file("./gone", ""),
        dir("./emptied"),
        file("./emptied/1", ""),
        file("./emptied/deep/2", ""),
        dir("./removed"),
        file("./removed/x", ""),
        dir("./to-file"),
        file("./to-file/x", ""),
        file("./to-dir", ""),
        symlink("./link-to-dir", "bin"),
        file("./same", "lower").mode(0o600),
    ]
}

fn middle() -> Vec<Item> {
    vec![
        whiteout("gone"),
        whiteout("removed"),
        file("emptied/.wh..wh..opq", ""),
        dir("emptied").mode(0o700),
        file("emptied/3", ""),
        file("to-file", "a file now"),
        dir("to-dir").mode(0o711),
        file("to-dir/x", ""),
        dir("link-to-dir"),
        file("link-to-dir/x", "not in bin"),
        file("lib/new.so", "through a link"),
        file("absolute/newer.so", "through an absolute link"),
        whiteout("lib/old.so"),
        hard_link("links/d", "links/a"),
        whiteout("links/b"),
        file("same", "upper").mode(0o644),
        file("/rooted", "absolute name"),
        file("a/b/c/implied", ""),
        // Last, because the reference changes the time of a directory when it takes something out of it.
        dir("./").mtime(1_600_000_001),
    ]
}

fn upper() -> Vec<Item> {
    vec![
        file("links/a", "its own content now"),
        hard_link("links/e", "links/a"),
        file("removed", "back as a file"),
        whiteout("emptied/not-there"),
        dir("bin").mode(0o700).xattr("user.dir", "attribute"),
        // The whiteout comes after what it must spare.
        dir("tmp"),
        file("tmp/new", ""),
        whiteout("tmp"),
        opaque("usr/lib"),
        file("usr/lib/only.so", "only"),
        dir("usr/lib"),
        dir("./").mtime(1_600_000_002),
    ]
}

/// Writes an image layout of one image with the tag `test`; layers are gzip and plain in turn.
fn write_layout(directory: &Path, layers: &[Vec<Item>]) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    let put = |content: &[u8], kind: &str| -> Value {
        let digest = hex::encode(Sha256::digest(content));
        fs::write(directory.join("blobs/sha256").join(&digest), content).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": content.len()})
    };
    let (mut blobs, mut diff_ids) = (Vec::new(), Vec::new());
    for (number, items) in layers.iter().enumerate() {
        let archive = Archive::of(items.iter().cloned());
        diff_ids.push(format!("sha256:{}", hex::encode(Sha256::digest(&archive))));
        blobs.push(match number % 2 {
            0 => put(&gzip(&archive), "layer.v1.tar+gzip"),
            _ => put(&archive, "layer.v1.tar"),
        });
    }
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs});
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": blobs});
    let mut manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "test"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}
