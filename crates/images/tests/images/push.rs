//! Pushing: uploads of every kind, manifests, and everything that can go wrong with them.

use std::{path::Path, process::Command};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::*;

#[tokio::test]
async fn a_blob_comes_in_chunks_and_each_begins_where_the_last_ended() {
    let platform = Platform::start().await;
    let client = platform.client();
    let upload = client.open_upload("app").await;
    let chunk = |range: &'static str, content: &'static str| {
        client.request(Method::PATCH, &upload).header(header::CONTENT_RANGE, range).body(content).send()
    };
    let first = chunk("0-4", "hello").await.unwrap();
    assert_eq!((first.status().as_u16(), header_of(&first, header::RANGE).as_str()), (202, "0-4"));

    let gap = chunk("6-9", "orld").await.unwrap();
    assert_eq!((gap.status().as_u16(), header_of(&gap, header::RANGE).as_str()), (416, "0-4"));
    let again = chunk("0-4", "hello").await.unwrap();
    assert_eq!((again.status().as_u16(), code_of(again).await.as_str()), (416, "BLOB_UPLOAD_INVALID"));
    assert_eq!(chunk("nonsense", "x").await.unwrap().status(), 400);
    assert_eq!(chunk("5-6", "x").await.unwrap().status(), 400);

    let second = chunk("5-9", ", wor").await.unwrap();
    assert_eq!(second.status(), 202);
    let status = client.get(&upload).await;
    assert_eq!((status.status().as_u16(), header_of(&status, header::RANGE).as_str()), (204, "0-9"));

    let digest = digest_of(b"hello, world");
    let finish = client.request(Method::PUT, &format!("{upload}?digest={digest}")).body("ld").send().await.unwrap();
    assert_eq!(finish.status(), 201);
    assert_eq!(header_of(&finish, header::LOCATION), format!("/v2/app/blobs/{digest}"));
    assert_eq!(client.get(&format!("app/blobs/{digest}")).await.text().await.unwrap(), "hello, world");
    let over = client.get(&upload).await;
    assert_eq!((over.status().as_u16(), code_of(over).await.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn an_upload_belongs_to_its_repository_and_can_be_canceled() {
    let platform = Platform::start().await;
    let client = platform.client();
    let upload = client.open_upload("app").await;
    let elsewhere = upload.replace("/app/", "/other/");
    assert_eq!(client.get(&elsewhere).await.status(), 404);
    assert_eq!(client.delete(&upload).await, 204);
    assert_eq!(client.delete(&upload).await, 404);
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
}

#[tokio::test]
async fn content_with_another_digest_is_refused_and_leaves_nothing() {
    let platform = Platform::start().await;
    let client = platform.client();
    let wrong = digest_of(b"something else");
    let at_once = client.request(Method::POST, &format!("app/blobs/uploads/?digest={wrong}")).body("content");
    let at_once = at_once.send().await.unwrap();
    assert_eq!((at_once.status().as_u16(), code_of(at_once).await.as_str()), (400, "DIGEST_INVALID"));

    let upload = client.open_upload("app").await;
    let finish = client.request(Method::PUT, &format!("{upload}?digest={wrong}")).body("content").send().await.unwrap();
    assert_eq!((finish.status().as_u16(), code_of(finish).await.as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(client.get(&upload).await.status(), 404);

    let upload = client.open_upload("app").await;
    let without = client.request(Method::PUT, &upload).send().await.unwrap();
    assert_eq!((without.status().as_u16(), code_of(without).await.as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(client.delete(&upload).await, 204);

    assert_eq!(client.head(&format!("app/blobs/{wrong}")).await, 404);
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
    assert_eq!(platform.files("blobs/sha256"), [""; 0]);
}

#[tokio::test]
async fn a_blob_is_mounted_from_where_the_caller_may_read_it() {
    let platform = Platform::start().await;
    let client = platform.client();
    let digest = client.push_blob("app", b"shared").await;
    let mount = |from: &str| {
        let path = format!("new/blobs/uploads/?mount={digest}&from={from}");
        client.request(Method::POST, &path).send()
    };
    let unknown = mount("nowhere").await.unwrap();
    assert_eq!(unknown.status(), 202, "the client uploads it instead");
    assert_eq!(client.delete(&header_of(&unknown, header::LOCATION)).await, 204);
    let mounted = mount("app").await.unwrap();
    assert_eq!(
        (mounted.status().as_u16(), header_of(&mounted, header::LOCATION)),
        (201, format!("/v2/new/blobs/{digest}"))
    );
    assert_eq!(client.get(&format!("new/blobs/{digest}")).await.text().await.unwrap(), "shared");
}

#[tokio::test]
async fn a_broken_connection_leaves_no_blob_and_the_upload_goes_on_where_it_broke() {
    let platform = Platform::start().await;
    let client = platform.client();
    let content = vec![7_u8; 1 << 20];
    let digest = digest_of(&content);
    let upload = client.open_upload("app").await;
    cut_off(&platform, "PATCH", &upload, &content, 400_000).await;

    let received = || async { header_of(&client.get(&upload).await, header::RANGE) };
    eventually("the registry has what came before the break", || async { received().await == "0-399999" }).await;
    assert_eq!(platform.files("blobs/sha256"), [""; 0]);
    let rest = client.request(Method::PATCH, &upload).header(header::CONTENT_RANGE, "400000-1048575");
    assert_eq!(rest.body(content[400_000..].to_vec()).send().await.unwrap().status(), 202);
    let finish = client.request(Method::PUT, &format!("{upload}?digest={digest}")).send().await.unwrap();
    assert_eq!(finish.status(), 201);
    assert_eq!(client.get(&format!("app/blobs/{digest}")).await.bytes().await.unwrap(), content);

    // Without an upload to go on with, nothing stays at all.
    let other = vec![8_u8; 1 << 20];
    let path = format!("/v2/app/blobs/uploads/?digest={}", digest_of(&other));
    cut_off(&platform, "POST", &path, &other, 700_000).await;
    eventually("the rest of the broken push is gone", || async { platform.files("blobs/uploads").is_empty() }).await;
    assert!(!platform.has_blob(&digest_of(&other)));
}

/// Sends a request whose body ends early because the connection breaks.
async fn cut_off(platform: &Platform, method: &str, path: &str, content: &[u8], sent: usize) {
    let mut connection = tokio::net::TcpStream::connect(&platform.host).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer all\r\nContent-Length: {}\r\n\r\n",
        platform.host,
        content.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&content[..sent]).await.unwrap();
    connection.shutdown().await.unwrap();
}

#[tokio::test]
async fn blobs_and_uploads_have_limits() {
    let platform = Platform::with(|options| options.max_image_bytes = 1_000).await;
    let client = platform.client();
    let content = vec![1_u8; 1_001];
    let path = format!("app/blobs/uploads/?digest={}", digest_of(&content));
    let large = client.request(Method::POST, &path).body(content.clone()).send().await.unwrap();
    assert_eq!((large.status().as_u16(), code_of(large).await.as_str()), (413, "SIZE_INVALID"));
    let upload = client.open_upload("app").await;
    assert_eq!(client.request(Method::PATCH, &upload).body(content).send().await.unwrap().status(), 413);
    assert_eq!(client.get(&upload).await.status(), 404, "an upload that is too large is over");
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
    client.push_blob("app", &[1_u8; 1_000]).await;

    for _ in 0..64 {
        client.open_upload("app").await;
    }
    let too_many = client.request(Method::POST, "app/blobs/uploads/").send().await.unwrap();
    assert_eq!((too_many.status().as_u16(), code_of(too_many).await.as_str()), (429, "TOOMANYREQUESTS"));
    client.open_upload("other").await;
}

#[tokio::test]
async fn uploads_that_nobody_touches_are_forgotten() {
    let platform = Platform::with(|options| options.upload_idle = std::time::Duration::ZERO).await;
    let client = platform.client();
    let upload = client.open_upload("app").await;
    platform.images.collect(&InUse(Ok(Vec::new()))).await.unwrap();
    assert_eq!(client.get(&upload).await.status(), 404);
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
}

#[tokio::test]
async fn a_manifest_is_taken_only_with_everything_it_refers_to() {
    let platform = Platform::start().await;
    let client = platform.client();
    let image = TestImage::new("one");
    client.push_blob("app", &image.config).await;
    // The layer is in the store, but not in this repository.
    client.push_blob("other", &image.layer).await;
    let early = client.put_manifest("app", "v1", OCI_MANIFEST, &image.manifest()).await;
    assert_eq!((early.status().as_u16(), code_of(early).await.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(client.head("app/manifests/v1").await, 404);

    let index = index_of(&[(&image, "linux", "amd64")]);
    let early = client.put_manifest("app", "all", OCI_INDEX, &index).await;
    assert_eq!((early.status().as_u16(), code_of(early).await.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));

    client.push_image("app", "v1", &image).await;
    let digest = client.push_manifest("app", "all", OCI_INDEX, &index).await;
    let read = client.get("app/manifests/all").await;
    assert_eq!(header_of(&read, header::CONTENT_TYPE), OCI_INDEX);
    assert_eq!(header_of(&read, "docker-content-digest"), digest.as_str());
}

#[tokio::test]
async fn manifests_that_make_no_sense_are_refused() {
    let platform = Platform::start().await;
    let client = platform.client();
    let image = TestImage::new("one");
    let digest = client.push_image("app", "v1", &image).await;
    let changed = |change: fn(&mut Value)| {
        let mut manifest = image.manifest();
        change(&mut manifest);
        manifest
    };
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let other = TestImage::new("two").digest();
    for (why, reference, kind, content, status, code) in [
        ("other digest", other.as_str(), OCI_MANIFEST, image.manifest(), 400, "DIGEST_INVALID"),
        ("other type", "v2", docker, image.manifest(), 400, "MANIFEST_INVALID"),
        ("unknown type", "v2", "text/plain", json!({ "schemaVersion": 2 }), 400, "MANIFEST_INVALID"),
        ("schema 1", "v2", OCI_MANIFEST, changed(|m| m["schemaVersion"] = json!(1)), 400, "MANIFEST_INVALID"),
        ("no config", "v2", OCI_MANIFEST, changed(|m| m["config"] = json!(null)), 400, "MANIFEST_INVALID"),
        ("size", "v2", OCI_MANIFEST, changed(|m| m["layers"][0]["size"] = json!(1)), 400, "MANIFEST_INVALID"),
        (
            "path",
            "v2",
            OCI_MANIFEST,
            changed(|m| m["layers"][0]["digest"] = json!("sha256:../x")),
            400,
            "MANIFEST_INVALID",
        ),
        (
            "many",
            "v2",
            OCI_MANIFEST,
            changed(|m| {
                let layer = m["layers"][0].clone();
                m["layers"] = json!(vec![layer; 1_001]);
            }),
            400,
            "MANIFEST_INVALID",
        ),
    ] {
        let response = client.put_manifest("app", reference, kind, &content).await;
        assert_eq!((response.status().as_u16(), code_of(response).await.as_str()), (status, code), "{why}");
    }
    let large = changed(|m| m["annotations"] = json!({ "fill": "x".repeat(4 << 20) }));
    let large = client.put_manifest("app", "v2", OCI_MANIFEST, &large).await;
    assert_eq!((large.status().as_u16(), code_of(large).await.as_str()), (413, "MANIFEST_INVALID"));
    let tags: Value = client.get("app/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], json!(["v1"]));
    assert_eq!(client.head(&format!("app/manifests/{digest}")).await, 200);
}

#[tokio::test]
async fn what_was_pushed_is_there_after_a_restart_and_what_was_not_finished_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let first = Platform::at(directory.path(), |_| {}).await;
    let image = TestImage::new("one");
    let digest = first.client().push_image("app", "v1", &image).await;
    let upload = first.client().open_upload("app").await;
    first.client().request(Method::PATCH, &upload).body("half").send().await.unwrap();
    assert_eq!(first.files("blobs/uploads").len(), 1);
    std::fs::copy(
        directory.path().join("blobs/uploads").join(&first.files("blobs/uploads")[0]),
        directory.path().join("blobs/uploads/left-by-a-crash"),
    )
    .unwrap();
    first.stop().await;

    let second = Platform::at(directory.path(), |_| {}).await;
    assert_eq!(second.files("blobs/uploads"), [""; 0]);
    let manifest = second.client().get("app/manifests/v1").await;
    assert_eq!(header_of(&manifest, "docker-content-digest"), digest.as_str());
    assert_eq!(second.client().head(&format!("app/blobs/{}", digest_of(&image.layer))).await, 200);
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_no_debris() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(directory.path(), "2m") else {
        eprintln!("skipped: a_full_disk_is_said_and_leaves_no_debris: mounting a tmpfs needs root");
        return;
    };
    let platform = Platform::at(directory.path(), |_| {}).await;
    let client = platform.client();
    let content = vec![3_u8; 4 << 20];
    let path = format!("app/blobs/uploads/?digest={}", digest_of(&content));
    let full = client.request(Method::POST, &path).body(content.clone()).send().await.unwrap();
    assert_eq!(full.status(), StatusCode::INSUFFICIENT_STORAGE);
    let message = full.text().await.unwrap();
    assert!(message.contains("disk is full"), "{message}");

    let upload = client.open_upload("app").await;
    let full = client.request(Method::PATCH, &upload).body(content).send().await.unwrap();
    assert_eq!(full.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(platform.files("blobs/uploads"), [""; 0]);
    client.push_blob("app", &vec![4_u8; 1 << 20]).await;
}

/// A filesystem of a size.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
