//! A running registry, a client for it, and small images.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::internal::{ImagesInUse, RegistryAccess, RegistryRights};
use async_trait::async_trait;
use images::{Images, ImagesOptions};
use model::{Digest, OrgSlug};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde_json::{Value, json};
use sha2::Digest as _;
use tempfile::TempDir;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// `all` may do everything, `reader` may read `app` only.
pub struct Tokens;

#[async_trait]
impl RegistryAccess for Tokens {
    async fn rights(&self, token: &str, repository: &str) -> Option<RegistryRights> {
        match token {
            "all" => Some(RegistryRights { pull: true, push: true, delete: true }),
            "reader" => Some(RegistryRights { pull: repository == "app", ..RegistryRights::default() }),
            _ => None,
        }
    }

    async fn may_run(&self, org: &OrgSlug, repository: &str) -> bool {
        org.as_str() == "acme" && !repository.starts_with("foreign")
    }
}

/// What a test says is in use.
pub struct InUse(pub Result<Vec<Digest>, String>);

#[async_trait]
impl ImagesInUse for InUse {
    async fn images_in_use(&self) -> Result<Vec<Digest>, String> {
        self.0.clone()
    }
}

/// A registry that listens.
pub struct Platform {
    pub images: Arc<Images>,
    pub host: String,
    pub data: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl Platform {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ImagesOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut platform = Self::at(directory.path(), change).await;
        platform._directory = Some(directory);
        platform
    }

    pub async fn at(data: &Path, change: impl FnOnce(&mut ImagesOptions)) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let mut options = ImagesOptions::new(data, Arc::new(Tokens));
        options.own_hosts = vec!["registry.test".to_owned(), host.clone()];
        change(&mut options);
        let images = Images::open(options).unwrap();
        let router = images.router();
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { images, host, data: data.to_owned(), server, _directory: None }
    }

    pub fn client(&self) -> Client {
        self.client_with("all")
    }

    pub fn client_with(&self, token: &str) -> Client {
        Client { http: reqwest::Client::new(), base: format!("http://{}/v2/", self.host), token: token.to_owned() }
    }

    /// The names of the files in a directory of the data directory.
    pub fn files(&self, directory: &str) -> Vec<String> {
        let listing = std::fs::read_dir(self.data.join(directory)).unwrap();
        listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.data.join("blobs/sha256").join(digest.hex()).exists()
    }

    pub async fn stop(self) {
        self.server.abort();
        self.images.stop().await;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A registry client without wits of its own.
pub struct Client {
    pub http: reqwest::Client,
    pub base: String,
    token: String,
}

impl Client {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = path.strip_prefix("/v2/").unwrap_or(path);
        self.http.request(method, format!("{}{path}", self.base)).basic_auth("anyone", Some(&self.token))
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub async fn head(&self, path: &str) -> StatusCode {
        self.request(Method::HEAD, path).send().await.unwrap().status()
    }

    pub async fn delete(&self, path: &str) -> StatusCode {
        self.request(Method::DELETE, path).send().await.unwrap().status()
    }

    /// Opens an upload and returns where it is.
    pub async fn open_upload(&self, repository: &str) -> String {
        let response = self.request(Method::POST, &format!("{repository}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(response.status(), 202);
        header_of(&response, header::LOCATION)
    }

    pub async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = digest_of(content);
        let path = format!("{repository}/blobs/uploads/?digest={digest}");
        let response = self.request(Method::POST, &path).body(content.to_vec()).send().await.unwrap();
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
        digest
    }

    pub async fn put_manifest(&self, repository: &str, reference: &str, kind: &str, content: &Value) -> Response {
        let request = self.request(Method::PUT, &format!("{repository}/manifests/{reference}"));
        request.header(header::CONTENT_TYPE, kind).body(content.to_string()).send().await.unwrap()
    }

    pub async fn push_manifest(&self, repository: &str, reference: &str, kind: &str, content: &Value) -> Digest {
        let response = self.put_manifest(repository, reference, kind, content).await;
        assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
        digest_of(content.to_string().as_bytes())
    }

    /// Pushes an image with one layer.
    pub async fn push_image(&self, repository: &str, tag: &str, image: &TestImage) -> Digest {
        self.push_blob(repository, &image.config).await;
        self.push_blob(repository, &image.layer).await;
        self.push_manifest(repository, tag, OCI_MANIFEST, &image.manifest()).await
    }
}

/// A small image.
#[derive(Clone)]
pub struct TestImage {
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
}

impl TestImage {
    /// An image for this host with one file of that content.
    pub fn new(content: &str) -> Self {
        Self::of(content, "linux", host_architecture())
    }

    pub fn of(content: &str, os: &str, architecture: &str) -> Self {
        let layer = layer(content);
        let config = json!({
            "architecture": architecture,
            "os": os,
            "config": { "Cmd": ["/file"], "Env": ["A=b"], "ExposedPorts": { "8080/tcp": {} }, "User": null },
            "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] },
        });
        Self { config: config.to_string().into_bytes(), layer }
    }

    pub fn manifest(&self) -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &self.config),
            "layers": [descriptor(OCI_LAYER, &self.layer)],
        })
    }

    pub fn digest(&self) -> Digest {
        digest_of(self.manifest().to_string().as_bytes())
    }

    pub fn parts(&self) -> [Digest; 3] {
        [self.digest(), digest_of(&self.config), digest_of(&self.layer)]
    }
}

/// A tar archive with one file.
fn layer(content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_ustar();
    head.set_size(content.len() as u64);
    head.set_mode(0o755);
    archive.append_data(&mut head, "file", content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

pub fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest_of(content), "size": content.len() })
}

pub fn index_of(images: &[(&TestImage, &str, &str)]) -> Value {
    let entries: Vec<Value> = images
        .iter()
        .map(|(image, os, architecture)| {
            let mut entry = descriptor(OCI_MANIFEST, image.manifest().to_string().as_bytes());
            entry["platform"] = json!({ "os": os, "architecture": architecture });
            entry
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries })
}

pub fn digest_of(content: &[u8]) -> Digest {
    Digest::sha256(sha2::Sha256::digest(content).into())
}

pub fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub fn header_of(response: &Response, name: impl reqwest::header::AsHeaderName) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// The code of a refusal in the specification's form.
pub async fn code_of(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    assert!(body["errors"][0]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

/// Waits until something is so; fails if it never is.
pub async fn eventually<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn org(name: &str) -> OrgSlug {
    name.parse().unwrap()
}
