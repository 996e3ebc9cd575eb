//! The registry: the OCI distribution specification 1.1 over HTTP.
//!
//! - [`door`]: who may come in (Docker's token authentication).
//! - [`target`]: what a path is about. - [`error`]: refusals in the specification's form.
//! - [`repository`]: repositories on disk. - [`uploads`]: uploads under way.
//! - [`blobs`], [`upload`], [`manifests`], [`listing`]: the endpoints.
//!
//! The catalog of all repositories is not offered: it would tell tenants about each other.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Request, State},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, request::Parts};
use model::Digest;

mod blobs;
mod door;
mod error;
mod listing;
mod manifests;
pub(crate) mod repository;
mod target;
mod token;
mod upload;
pub(crate) mod uploads;

pub use door::PublicScheme;

use crate::{document::Manifest, layers::read_bounded, store::BlobStore};
use door::{Door, Right};
use error::{Code, Refusal};
use repository::{Repositories, Repository, RepositoryName};
use target::Target;
use uploads::Uploads;

/// The most bytes of a token request's form.
const MAX_FORM_BYTES: usize = 64 << 10;
/// The most manifests that are followed below one; more than any honest image has.
const MAX_TREE: usize = 20_000;
/// How long a client may send nothing in the middle of a body.
const BODY_IDLE: Duration = Duration::from_secs(60);

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The registry's state.
pub(crate) struct Registry {
    pub store: Arc<BlobStore>,
    pub repositories: Repositories,
    pub uploads: Uploads,
    /// Held for reading from the check that the parts of a manifest are here until the manifest is linked.
    linking: RwLock<()>,
    door: Door,
    max_blob_bytes: u64,
}

/// How a registry is made.
pub(crate) struct RegistryOptions {
    pub access: Arc<dyn api::internal::RegistryAccess>,
    pub scheme: PublicScheme,
    pub upload_idle: Duration,
    pub max_blob_bytes: u64,
}

impl Registry {
    pub fn open(directory: &std::path::Path, store: Arc<BlobStore>, options: RegistryOptions) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            store,
            repositories: Repositories::open(directory)?,
            uploads: Uploads::new(options.upload_idle),
            linking: RwLock::default(),
            door: Door::new(options.access, options.scheme),
            max_blob_bytes: options.max_blob_bytes,
        }))
    }

    /// The HTTP door.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v2", any(version))
            .route("/v2/", any(version))
            .route("/v2/token", get(token_by_query).post(token_by_form))
            .route("/v2/{*rest}", any(dispatch))
            .layer(DefaultBodyLimit::disable())
            .layer(map_response(with_version))
            .with_state(Arc::clone(self))
    }

    /// Waits until every manifest that was checked before now is linked. A collector that has begun calls it before
    /// it looks at what is linked; what is checked later is wanted since it began.
    pub fn wait_for_links(&self) {
        drop(self.linking.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Removes the repositories `name` and `name/…`, and ends the uploads to them.
    pub fn forget(&self, name: &RepositoryName) -> io::Result<()> {
        let below = format!("{name}/");
        self.uploads.end_of(|repository| repository == name || repository.as_str().starts_with(&below));
        self.repositories.remove(name)
    }

    /// Wants a manifest of a repository, its parts and theirs, and what refers to them there. False if a part is
    /// missing.
    ///
    /// The root is wanted before its parts, so that it does not outlive them.
    pub fn want_tree(&self, repository: &Repository, root: &Digest) -> io::Result<bool> {
        let (mut pending, mut seen) = (vec![(root.clone(), true)], HashSet::new());
        while let Some((digest, required)) = pending.pop() {
            let here = self.store.want(&digest)?.is_some();
            if seen.len() > MAX_TREE || (required && !here) {
                return Ok(false);
            }
            if !here || !seen.insert(digest.clone()) || repository.manifest(&digest)?.is_none() {
                continue;
            }
            pending.extend(repository.referrers(&digest)?.into_iter().map(|referrer| (referrer, false)));
            if let Ok(manifest) = Manifest::parse(&read_bounded(&self.store.path(&digest))?, None) {
                let parts = manifest.children().filter(|part| !part.is_foreign());
                pending.extend(parts.map(|part| (part.digest.clone(), required)));
            }
        }
        Ok(true)
    }

    /// Runs disk work where blocking is allowed.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let registry = Arc::clone(self);
        crate::blocking(move || work(&registry)).await
    }
}

/// `GET /v2/`: whether this is a registry, and whether the caller is known to it.
async fn version(State(registry): State<Arc<Registry>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return unsupported(&method).into_response();
    }
    match registry.door.caller(&headers, &uri, None).await {
        Ok(_) => axum::Json(serde_json::json!({})).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn token_by_query(State(registry): State<Arc<Registry>>, uri: Uri, headers: HeaderMap) -> Response {
    registry.door.token_by_query(&headers, uri.query().unwrap_or_default()).await.into_response()
}

async fn token_by_form(State(registry): State<Arc<Registry>>, body: Body) -> Response {
    match tokio::time::timeout(BODY_IDLE, axum::body::to_bytes(body, MAX_FORM_BYTES)).await {
        Ok(Ok(form)) => registry.door.token_by_form(&String::from_utf8_lossy(&form)).await.into_response(),
        _ => Refusal::new(Code::SizeInvalid, "the form is too large or was cut off").into_response(),
    }
}

async fn dispatch(State(registry): State<Arc<Registry>>, Path(rest): Path<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    serve(&registry, &rest, parts, body).await.into_response()
}

async fn serve(registry: &Arc<Registry>, rest: &str, parts: Parts, body: Body) -> Result<Response, Refusal> {
    let target = match Target::parse(rest) {
        Ok(target) => target,
        Err(refusal) => {
            // Strangers learn nothing, not even what is malformed.
            registry.door.caller(&parts.headers, &parts.uri, None).await?;
            return Err(refusal);
        }
    };
    let right = right_for(&parts.method, &target);
    let asked = right.as_ref().copied().unwrap_or(Right::Pull);
    let caller = registry.door.admit(&parts.headers, &parts.uri, target.repository(), asked).await?;
    right?;
    let get = parts.method == Method::GET;
    match (parts.method.as_str(), target) {
        ("GET" | "HEAD", Target::Manifest(name, reference)) => manifests::get(registry, name, reference, get).await,
        ("PUT", Target::Manifest(name, reference)) => manifests::put(registry, name, reference, &parts, body).await,
        (_, Target::Manifest(name, reference)) => manifests::delete(registry, name, reference).await,
        ("GET" | "HEAD", Target::Blob(name, digest)) => blobs::get(registry, name, digest, &parts.headers, get).await,
        (_, Target::Blob(name, digest)) => blobs::delete(registry, name, digest).await,
        (_, Target::Uploads(name)) => upload::begin(registry, name, &caller, &parts, body).await,
        ("GET", Target::Upload(name, id)) => upload::status(registry, &name, &id),
        ("PATCH", Target::Upload(name, id)) => upload::append(registry, &name, &id, &parts.headers, body).await,
        ("PUT", Target::Upload(name, id)) => upload::finish(registry, name, &id, &parts, body).await,
        (_, Target::Upload(name, id)) => upload::cancel(registry, &name, &id),
        (_, Target::Tags(name)) => listing::tags(registry, name, parts.uri.query().unwrap_or_default()).await,
        (_, Target::Referrers(name, subject)) => {
            listing::referrers(registry, name, subject, parts.uri.query().unwrap_or_default()).await
        }
    }
}

/// What an operation needs; a refusal if the resource does not have it.
fn right_for(method: &Method, target: &Target) -> Result<Right, Refusal> {
    match (method.as_str(), target) {
        ("GET" | "HEAD", Target::Manifest(..) | Target::Blob(..)) => Ok(Right::Pull),
        ("GET", Target::Tags(_) | Target::Referrers(..)) => Ok(Right::Pull),
        ("PUT", Target::Manifest(..)) => Ok(Right::Push),
        ("POST", Target::Uploads(_)) | ("GET" | "PATCH" | "PUT" | "DELETE", Target::Upload(..)) => Ok(Right::Push),
        ("DELETE", Target::Manifest(..) | Target::Blob(..)) => Ok(Right::Delete),
        _ => Err(unsupported(method)),
    }
}

fn unsupported(method: &Method) -> Refusal {
    Refusal::new(Code::Unsupported, format!("{method} is not something this resource does"))
}

/// Docker's clients recognize a registry by this header.
async fn with_version(mut response: Response) -> Response {
    let name = HeaderName::from_static("docker-distribution-api-version");
    response.headers_mut().insert(name, HeaderValue::from_static("registry/2.0"));
    response
}

/// A header value of text that is known to be visible ASCII: digests, checked names, numbers.
fn header_value(text: impl ToString) -> HeaderValue {
    HeaderValue::try_from(text.to_string()).expect("digests, names and numbers are visible ASCII")
}

/// The answer to a change: where the thing is now, without a body.
fn created(status: StatusCode, location: String) -> Response {
    (status, [(http::header::LOCATION, header_value(location))]).into_response()
}
