//! The endpoints of uploads: a blob comes at once, in chunks, or from another repository.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, StatusCode, header, request::Parts};
use model::Digest;

use super::{
    BODY_IDLE, DOCKER_CONTENT_DIGEST, Registry, created,
    door::{Caller, Right, pairs},
    error::{Code, Refusal},
    header_value,
    repository::RepositoryName,
    target,
};
use crate::store::{BlobWriter, StoreError};

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST` to the uploads of a repository: mounts a blob of another, takes a whole blob, or opens an upload.
pub async fn begin(
    registry: &Arc<Registry>,
    name: RepositoryName,
    caller: &Caller,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let query = Query::of(parts);
    if let (Some(digest), Some(from)) = (&query.mount, &query.from)
        && mount(registry, &name, caller, target::digest(digest)?, from).await?
    {
        return Ok(stored(&name, digest));
    }
    let mut writer = registry.store.writer(registry.max_blob_bytes).await?;
    if let Some(digest) = &query.digest {
        let digest = target::digest(digest)?;
        let expected = content_length(&parts.headers);
        receive(&mut writer, body, expected).await?;
        return store(registry, name, writer, digest).await;
    }
    let id = registry.uploads.begin(&name, writer)?;
    Ok(progress(StatusCode::ACCEPTED, &name, &id, 0))
}

/// `GET` of an upload: how far it is.
pub fn status(registry: &Arc<Registry>, name: &RepositoryName, id: &str) -> Result<Response, Refusal> {
    let held = registry.uploads.hold(name, id)?;
    let len = held.as_ref().map_or(0, BlobWriter::len);
    Ok(progress(StatusCode::NO_CONTENT, name, id, len))
}

/// `PATCH` of an upload: appends a chunk. If the connection breaks, what came stays, and the client may go on from
/// there.
pub async fn append(
    registry: &Arc<Registry>,
    name: &RepositoryName,
    id: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let mut held = registry.uploads.hold(name, id)?;
    let Some(writer) = held.as_mut() else { unreachable!("only an upload that has its writer is held") };
    let expected = expected_chunk(name, id, writer.len(), headers)?;
    let received = receive(writer, body, expected).await;
    let len = writer.len();
    registry.uploads.touch(id);
    match received {
        Ok(()) => Ok(progress(StatusCode::ACCEPTED, name, id, len)),
        Err(Interrupted::Client(refusal)) => Err(refusal),
        Err(fatal) => {
            held.take();
            registry.uploads.end(id);
            Err(fatal.into())
        }
    }
}

/// `PUT` of an upload: appends the last chunk, if there is one, and checks and stores the blob. Whatever is wrong
/// with it ends the upload.
pub async fn finish(
    registry: &Arc<Registry>,
    name: RepositoryName,
    id: &str,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let digest = Query::of(parts).digest.ok_or_else(|| {
        Refusal::new(Code::DigestInvalid, "finish an upload with ?digest=sha256:… so that it can be checked")
    })?;
    let digest = target::digest(&digest)?;
    let mut held = registry.uploads.hold(&name, id)?;
    let Some(writer) = held.as_mut() else { unreachable!("only an upload that has its writer is held") };
    let expected = expected_chunk(&name, id, writer.len(), &parts.headers)?;
    let received = receive(writer, body, expected).await;
    if let Err(Interrupted::Client(refusal)) = received {
        registry.uploads.touch(id);
        return Err(refusal);
    }
    let writer = held.take();
    registry.uploads.end(id);
    received?;
    let Some(writer) = writer else { unreachable!("the writer was here a moment ago") };
    store(registry, name, writer, digest).await
}

/// `DELETE` of an upload: forgets it and what came.
pub fn cancel(registry: &Arc<Registry>, name: &RepositoryName, id: &str) -> Result<Response, Refusal> {
    registry.uploads.hold(name, id)?.take();
    registry.uploads.end(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The parameters of upload requests.
#[derive(Default)]
struct Query {
    digest: Option<String>,
    mount: Option<String>,
    from: Option<String>,
}

impl Query {
    fn of(parts: &Parts) -> Self {
        let mut query = Self::default();
        for (name, value) in pairs(parts.uri.query().unwrap_or_default()) {
            match name.as_str() {
                "digest" => query.digest = Some(value),
                "mount" => query.mount = Some(value),
                "from" => query.from = Some(value),
                _ => {}
            }
        }
        query
    }
}

/// Links a blob of another repository that the caller may read. False if there is no such blob for the caller; then
/// the client uploads it.
async fn mount(
    registry: &Arc<Registry>,
    name: &RepositoryName,
    caller: &Caller,
    digest: Digest,
    from: &str,
) -> Result<bool, Refusal> {
    let from = target::repository(from)?;
    if !registry.door.may(caller, &from, Right::Pull).await {
        return Ok(false);
    }
    let name = name.clone();
    registry
        .on_disk(move |registry| {
            let here = registry.repositories.get(&from).has_blob(&digest) && registry.store.want(&digest)?.is_some();
            if here {
                registry.repositories.get(&name).link_blob(&digest)?;
            }
            Ok(here)
        })
        .await
}

/// Puts a received blob into the store and into its repository.
async fn store(
    registry: &Arc<Registry>,
    name: RepositoryName,
    writer: BlobWriter,
    digest: Digest,
) -> Result<Response, Refusal> {
    writer.commit(&digest).await?;
    let answer = stored(&name, digest.as_str());
    registry.on_disk(move |registry| Ok(registry.repositories.get(&name).link_blob(&digest)?)).await?;
    Ok(answer)
}

/// Why a body was not received whole.
enum Interrupted {
    /// The client went away or sent nothing for too long: it may try to go on.
    Client(Refusal),
    /// The client sent another length than it announced.
    Length(Refusal),
    /// The store did not take it.
    Store(StoreError),
}

impl From<Interrupted> for Refusal {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Client(refusal) | Interrupted::Length(refusal) => refusal,
            Interrupted::Store(error) => error.into(),
        }
    }
}

/// Writes a body of the expected length to a blob as it comes.
async fn receive(writer: &mut BlobWriter, body: Body, expected: Option<u64>) -> Result<(), Interrupted> {
    let before = writer.len();
    let mut stream = body.into_data_stream();
    loop {
        match tokio::time::timeout(BODY_IDLE, stream.next()).await {
            Ok(Some(Ok(chunk))) => writer.write(&chunk).await.map_err(Interrupted::Store)?,
            Ok(Some(Err(_))) => return Err(cut_off("the connection broke", StatusCode::BAD_REQUEST)),
            Err(_) => return Err(cut_off("nothing came for a minute", StatusCode::REQUEST_TIMEOUT)),
            Ok(None) => break,
        }
    }
    writer.flush().await.map_err(Interrupted::Store)?;
    let came = writer.len() - before;
    match expected {
        Some(expected) if expected != came => {
            let message = format!("{expected} bytes were announced, {came} came; start the upload again");
            Err(Interrupted::Length(Refusal::new(Code::SizeInvalid, message)))
        }
        _ => Ok(()),
    }
}

fn cut_off(why: &str, status: StatusCode) -> Interrupted {
    let message = format!("{why}; ask for the upload's range and go on from there");
    Interrupted::Client(Refusal::new(Code::BlobUploadInvalid, message).status(status))
}

/// The length of a chunk by its `Content-Range` (which begins where the upload ends) or `Content-Length`.
fn expected_chunk(name: &RepositoryName, id: &str, at: u64, headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let announced = content_length(headers);
    let Some(range) = headers.get(header::CONTENT_RANGE) else { return Ok(announced) };
    let bounds = range.to_str().ok().and_then(|text| {
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?))
    });
    let Some((first, last)) = bounds.filter(|(first, last)| first <= last && *last < u64::MAX) else {
        return Err(Refusal::new(Code::BlobUploadInvalid, "Content-Range is <first>-<last>, in bytes, both included"));
    };
    if first != at {
        let message = format!("the upload has {at} bytes; the next chunk begins there, not at {first}");
        return Err(Refusal::new(Code::BlobUploadInvalid, message)
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::LOCATION, header_value(location(name, id)))
            .header(header::RANGE, header_value(received_range(at))));
    }
    let len = last - first + 1;
    if announced.is_some_and(|announced| announced != len) {
        return Err(Refusal::new(Code::SizeInvalid, "Content-Range and Content-Length disagree"));
    }
    Ok(Some(len))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The answer about an upload that goes on.
fn progress(status: StatusCode, name: &RepositoryName, id: &str, len: u64) -> Response {
    let headers = [
        (header::LOCATION, header_value(location(name, id))),
        (header::RANGE, header_value(received_range(len))),
        (DOCKER_UPLOAD_UUID, header_value(id)),
        (header::CONTENT_LENGTH, header_value(0)),
    ];
    let mut response = (status, headers).into_response();
    if status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

fn stored(name: &RepositoryName, digest: &str) -> Response {
    let mut response = created(StatusCode::CREATED, format!("/v2/{name}/blobs/{digest}"));
    response.headers_mut().insert(DOCKER_CONTENT_DIGEST, header_value(digest));
    response
}

fn location(name: &RepositoryName, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// The bytes that came, as the specification writes them; `0-0` stands for none too.
fn received_range(len: u64) -> String {
    format!("0-{}", len.saturating_sub(1))
}
