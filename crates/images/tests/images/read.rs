//! Reading: blobs and their ranges, manifests, tags, referrers, deletions.

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::*;

#[tokio::test]
async fn a_blob_is_read_whole_and_in_part() {
    let platform = Platform::start().await;
    let client = platform.client();
    let content: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    let path = format!("app/blobs/{}", client.push_blob("app", &content).await);

    let whole = client.get(&path).await;
    assert_eq!(header_of(&whole, "docker-content-digest"), digest_of(&content).as_str());
    assert_eq!(whole.bytes().await.unwrap(), content);
    let head = client.request(Method::HEAD, &path).send().await.unwrap();
    assert_eq!((head.status().as_u16(), header_of(&head, header::CONTENT_LENGTH).as_str()), (200, "300000"));

    for (range, wanted, bounds) in [
        ("bytes=10-19", &content[10..20], "bytes 10-19/300000"),
        ("bytes=299990-", &content[299_990..], "bytes 299990-299999/300000"),
        ("bytes=-5", &content[299_995..], "bytes 299995-299999/300000"),
        ("bytes=0-999999", &content[..], "bytes 0-299999/300000"),
    ] {
        let part = client.request(Method::GET, &path).header(header::RANGE, range).send().await.unwrap();
        assert_eq!(part.status(), 206, "{range}");
        assert_eq!(header_of(&part, header::CONTENT_RANGE), bounds);
        assert_eq!(part.bytes().await.unwrap(), wanted, "{range}");
    }
    let beyond = client.request(Method::GET, &path).header(header::RANGE, "bytes=300000-").send().await.unwrap();
    assert_eq!((beyond.status().as_u16(), header_of(&beyond, header::CONTENT_RANGE).as_str()), (416, "bytes */300000"));
}

#[tokio::test]
async fn a_manifest_is_found_by_tag_and_by_digest() {
    let platform = Platform::start().await;
    let client = platform.client();
    let image = TestImage::new("one");
    let digest = client.push_image("team/app", "v1", &image).await;

    for reference in ["v1", digest.as_str()] {
        let path = format!("team/app/manifests/{reference}");
        let manifest = client.get(&path).await;
        assert_eq!(header_of(&manifest, header::CONTENT_TYPE), OCI_MANIFEST);
        assert_eq!(header_of(&manifest, "docker-content-digest"), digest.as_str());
        assert_eq!(manifest.text().await.unwrap(), image.manifest().to_string());
        assert_eq!(client.head(&path).await, 200);
    }
    let unknown = client.get("team/app/manifests/v2").await;
    assert_eq!((unknown.status().as_u16(), code_of(unknown).await.as_str()), (404, "MANIFEST_UNKNOWN"));
    let nowhere = client.get("team/else/manifests/v1").await;
    assert_eq!((nowhere.status().as_u16(), code_of(nowhere).await.as_str()), (404, "NAME_UNKNOWN"));
}

#[tokio::test]
async fn a_blob_is_seen_only_in_repositories_that_hold_it() {
    let platform = Platform::start().await;
    let client = platform.client();
    let digest = client.push_blob("app", b"secret").await;
    assert_eq!(client.head(&format!("app/blobs/{digest}")).await, 200);
    let elsewhere = client.get(&format!("other/blobs/{digest}")).await;
    assert_eq!((elsewhere.status().as_u16(), code_of(elsewhere).await.as_str()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn tags_come_in_order_and_in_pages() {
    let platform = Platform::start().await;
    let client = platform.client();
    let unknown = client.get("app/tags/list").await;
    assert_eq!((unknown.status().as_u16(), code_of(unknown).await.as_str()), (404, "NAME_UNKNOWN"));
    let image = TestImage::new("one");
    for tag in ["b", "a", "c.tag", "d"] {
        client.push_image("app", tag, &image).await;
    }
    let all: Value = client.get("app/tags/list").await.json().await.unwrap();
    assert_eq!(all, json!({ "name": "app", "tags": ["a", "b", "c.tag", "d"] }));

    let first = client.get("app/tags/list?n=3").await;
    let link = header_of(&first, header::LINK);
    assert_eq!(first.json::<Value>().await.unwrap()["tags"], json!(["a", "b", "c.tag"]));
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
    let second = client.get(next).await;
    assert_eq!(header_of(&second, header::LINK), "");
    assert_eq!(second.json::<Value>().await.unwrap()["tags"], json!(["d"]));

    assert_eq!(client.get("app/tags/list?n=0").await.json::<Value>().await.unwrap()["tags"], json!([]));
    assert_eq!(client.get("app/tags/list?n=x").await.status(), 400);
}

#[tokio::test]
async fn referrers_are_listed_by_subject_and_filtered_by_type() {
    let platform = Platform::start().await;
    let client = platform.client();
    let image = TestImage::new("one");
    let subject = image.digest();
    let none = client.get(&format!("app/referrers/{subject}")).await;
    assert_eq!((none.status().as_u16(), header_of(&none, header::CONTENT_TYPE).as_str()), (200, OCI_INDEX));
    assert_eq!(none.json::<Value>().await.unwrap()["manifests"], json!([]));

    // A referrer may come before its subject.
    let empty = "application/vnd.oci.empty.v1+json";
    client.push_blob("app", b"{}").await;
    let referrer = |kind: &str, artifact_type: Option<&str>| {
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(kind, b"{}"),
            "layers": [descriptor(empty, b"{}")], "annotations": { "is": kind },
            "subject": descriptor(OCI_MANIFEST, image.manifest().to_string().as_bytes()),
        });
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        manifest
    };
    let sbom = referrer(empty, Some("text/sbom"));
    let sbom_digest = digest_of(sbom.to_string().as_bytes());
    let pushed = client.put_manifest("app", sbom_digest.as_str(), OCI_MANIFEST, &sbom).await;
    assert_eq!((pushed.status().as_u16(), header_of(&pushed, "oci-subject").as_str()), (201, subject.as_str()));
    client.push_manifest("app", "sig", OCI_MANIFEST, &referrer("text/signature", None)).await;
    client.push_image("app", "v1", &image).await;

    let all: Value = client.get(&format!("app/referrers/{subject}")).await.json().await.unwrap();
    let mut kinds: Vec<&str> =
        all["manifests"].as_array().unwrap().iter().map(|entry| entry["artifactType"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["text/sbom", "text/signature"]);

    let filtered = client.get(&format!("app/referrers/{subject}?artifactType=text/sbom")).await;
    assert_eq!(header_of(&filtered, "oci-filters-applied"), "artifactType");
    let filtered: Value = filtered.json().await.unwrap();
    assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["manifests"][0]["digest"], json!(sbom_digest));
    assert_eq!(filtered["manifests"][0]["annotations"]["is"], empty);

    assert_eq!(client.delete(&format!("app/manifests/{sbom_digest}")).await, 202);
    let left: Value = client.get(&format!("app/referrers/{subject}")).await.json().await.unwrap();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_only_that() {
    let platform = Platform::start().await;
    let client = platform.client();
    let (one, two) = (TestImage::new("one"), TestImage::new("two"));
    let digest = client.push_image("app", "a", &one).await;
    client.push_image("app", "b", &one).await;
    client.push_image("app", "c", &two).await;

    assert_eq!(client.delete("app/manifests/a").await, 202);
    assert_eq!(client.head("app/manifests/a").await, 404);
    assert_eq!(client.head("app/manifests/b").await, 200);
    assert_eq!(client.delete("app/manifests/a").await, 404);

    assert_eq!(client.delete(&format!("app/manifests/{digest}")).await, 202);
    let tags: Value = client.get("app/tags/list").await.json().await.unwrap();
    assert_eq!(tags["tags"], json!(["c"]));
    assert_eq!(client.delete(&format!("app/manifests/{digest}")).await, 404);

    let layer = digest_of(&one.layer);
    assert_eq!(client.delete(&format!("app/blobs/{layer}")).await, 202);
    assert_eq!(client.head(&format!("app/blobs/{layer}")).await, 404);
    assert_eq!(client.delete(&format!("app/blobs/{layer}")).await, 404);
    assert_eq!(client.head("app/manifests/c").await, 200);
}

#[tokio::test]
async fn names_that_are_none_are_refused_in_the_form_of_the_specification() {
    let platform = Platform::start().await;
    let client = platform.client();
    let long = format!("{}/tags/list", "a".repeat(256));
    for (path, status, code) in [
        ("%2e%2e%2f%2e%2e%2fetc/manifests/v1", 400, "NAME_INVALID"),
        ("a%2f%2e%2e%2fb/manifests/v1", 400, "NAME_INVALID"),
        ("A/tags/list", 400, "NAME_INVALID"),
        (long.as_str(), 400, "NAME_INVALID"),
        ("app/manifests/%2e%2e%2fv1", 404, "UNSUPPORTED"),
        ("app/manifests/-v1", 400, "MANIFEST_INVALID"),
        ("app/manifests/sha256:12", 400, "DIGEST_INVALID"),
        ("app/blobs/..%2f..%2fpasswd", 404, "UNSUPPORTED"),
        ("app/blobs/sha512:00", 400, "DIGEST_INVALID"),
        ("_catalog", 404, "UNSUPPORTED"),
    ] {
        let response = client.get(path).await;
        assert_eq!((response.status().as_u16(), code_of(response).await.as_str()), (status, code), "{path}");
    }
    for (method, path) in [
        (Method::POST, "app/tags/list"),
        (Method::PATCH, "app/manifests/v1"),
        (Method::GET, "app/blobs/uploads/"),
        (Method::PUT, ""),
    ] {
        let response = client.request(method.clone(), path).send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), code_of(response).await.as_str()),
            (405, "UNSUPPORTED"),
            "{method} {path}"
        );
    }
}
