//! Manifests: read them by tag or digest, push them when everything they refer to is here, delete them.

use std::sync::{Arc, PoisonError};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use http::{HeaderName, StatusCode, header, request::Parts};
use model::Digest;
use sha2::{Digest as _, Sha256};

use super::{
    DOCKER_CONTENT_DIGEST, Registry, created,
    error::{Code, Refusal},
    header_value,
    repository::{Repository, RepositoryName},
    target::ManifestName,
};
use crate::{
    document::{DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT_BYTES, Manifest, OCI_INDEX, OCI_MANIFEST},
    layers::read_bounded,
    store::absent_is_none,
};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// `GET` and `HEAD` of a manifest.
pub async fn get(
    registry: &Arc<Registry>,
    name: RepositoryName,
    reference: ManifestName,
    with_body: bool,
) -> Result<Response, Refusal> {
    let (digest, media_type, content) = registry
        .on_disk(move |registry| {
            let repository = registry.repositories.get(&name);
            let (digest, media_type) = find(&repository, &name, &reference)?;
            // A pusher asks by HEAD. Told that it is here, it sends neither the manifest nor anything below it.
            if !with_body && !registry.want_tree(&repository, &digest)? {
                return Err(unknown(&name, &reference));
            }
            let content = absent_is_none(read_bounded(&registry.store.path(&digest)))?;
            let content = content.ok_or_else(|| unknown(&name, &reference))?;
            Ok((digest, media_type, content))
        })
        .await?;
    let headers = [
        (DOCKER_CONTENT_DIGEST, header_value(digest)),
        (header::CONTENT_TYPE, header_value(media_type)),
        (header::CONTENT_LENGTH, header_value(content.len())),
    ];
    let body = if with_body { Body::from(content) } else { Body::empty() };
    Ok((headers, body).into_response())
}

/// `PUT` of a manifest.
pub async fn put(
    registry: &Arc<Registry>,
    name: RepositoryName,
    reference: ManifestName,
    parts: &Parts,
    body: Body,
) -> Result<Response, Refusal> {
    let sent_as = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let sent_as = sent_as.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_owned());
    let content = bounded(body).await?;
    let location = name.clone();
    let (digest, subject) =
        registry.on_disk(move |registry| accept(registry, &name, &reference, sent_as.as_deref(), &content)).await?;
    let mut response = created(StatusCode::CREATED, format!("/v2/{location}/manifests/{digest}"));
    response.headers_mut().insert(DOCKER_CONTENT_DIGEST, header_value(digest));
    if let Some(subject) = subject {
        response.headers_mut().insert(OCI_SUBJECT, header_value(subject));
    }
    Ok(response)
}

/// `DELETE` of a tag, or of a manifest with all tags that point to it.
pub async fn delete(
    registry: &Arc<Registry>,
    name: RepositoryName,
    reference: ManifestName,
) -> Result<Response, Refusal> {
    registry
        .on_disk(move |registry| {
            let repository = registry.repositories.get(&name);
            let removed = match &reference {
                ManifestName::Tag(tag) => repository.remove_tag(tag)?,
                ManifestName::Digest(digest) => {
                    find(&repository, &name, &reference)?;
                    let manifest = read_bounded(&registry.store.path(digest)).ok();
                    let manifest = manifest.and_then(|content| Manifest::parse(&content, None).ok());
                    let subject = manifest.as_ref().and_then(Manifest::subject).map(|subject| &subject.digest);
                    repository.unlink_manifest(digest, subject)?
                }
            };
            if removed { Ok(()) } else { Err(unknown(&name, &reference)) }
        })
        .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The whole body, if it is not too large.
async fn bounded(body: Body) -> Result<Bytes, Refusal> {
    let received = tokio::time::timeout(super::BODY_IDLE, axum::body::to_bytes(body, MAX_DOCUMENT_BYTES)).await;
    received.ok().and_then(Result::ok).ok_or_else(|| {
        let message = format!("the manifest was cut off, or is larger than {MAX_DOCUMENT_BYTES} bytes, the limit");
        Refusal::new(Code::ManifestInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE)
    })
}

/// Checks a manifest and makes it a part of the repository. Returns its digest and its subject's.
fn accept(
    registry: &Registry,
    name: &RepositoryName,
    reference: &ManifestName,
    sent_as: Option<&str>,
    content: &[u8],
) -> Result<(Digest, Option<Digest>), Refusal> {
    let digest = Digest::sha256(Sha256::digest(content).into());
    let tag = match reference {
        ManifestName::Tag(tag) => Some(tag.as_str()),
        ManifestName::Digest(named) if *named == digest => None,
        ManifestName::Digest(named) => {
            let message = format!("the manifest has the digest {digest}, not {named} as named");
            return Err(Refusal::new(Code::DigestInvalid, message));
        }
    };
    let manifest = Manifest::parse(content, sent_as)?;
    let repository = registry.repositories.get(name);
    let _linking = registry.linking.read().unwrap_or_else(PoisonError::into_inner);
    for part in manifest.children() {
        check_part(registry, &repository, name, &manifest, part)?;
    }
    registry.store.put(content)?;
    let subject = manifest.subject().map(|subject| subject.digest.clone());
    repository.link_manifest(&digest, media_type(&manifest, sent_as), subject.as_ref(), tag)?;
    // What refers to it may have been on its way out.
    registry.want_tree(&repository, &digest)?;
    Ok((digest, subject))
}

/// Checks that a part of a manifest is in the repository, whole, and wants it.
fn check_part(
    registry: &Registry,
    repository: &Repository,
    name: &RepositoryName,
    of: &Manifest,
    part: &Descriptor,
) -> Result<(), Refusal> {
    if part.is_foreign() {
        return Ok(());
    }
    let digest = &part.digest;
    let missing = || {
        let message = format!("the manifest refers to {digest}, which {name} does not have whole; push it first");
        Refusal::new(Code::ManifestBlobUnknown, message)
    };
    let is_manifest = matches!(of, Manifest::Index(_)) && repository.manifest(digest)?.is_some();
    if !is_manifest && !repository.has_blob(digest) {
        return Err(missing());
    }
    let size = registry.store.want(digest)?.ok_or_else(missing)?;
    if size != part.size {
        let message = format!("the manifest says that {digest} has {} bytes; it has {size}", part.size);
        return Err(Refusal::new(Code::ManifestInvalid, message));
    }
    if is_manifest && !registry.want_tree(repository, digest)? {
        return Err(missing());
    }
    Ok(())
}

/// The media type to serve a manifest with.
fn media_type<'a>(manifest: &'a Manifest, sent_as: Option<&'a str>) -> &'a str {
    let (inside, usual) = match manifest {
        Manifest::Image(image) if image.config.media_type.contains(".docker.") => (&image.media_type, DOCKER_MANIFEST),
        Manifest::Image(image) => (&image.media_type, OCI_MANIFEST),
        Manifest::Index(index) => (&index.media_type, OCI_INDEX),
    };
    sent_as.or(inside.as_deref()).unwrap_or(usual)
}

/// The digest and the media type of a manifest of the repository.
fn find(repository: &Repository, name: &RepositoryName, reference: &ManifestName) -> Result<(Digest, String), Refusal> {
    if !repository.exists() {
        return Err(Refusal::new(
            Code::NameUnknown,
            format!("there is no repository {name}; nothing was pushed to it"),
        ));
    }
    let digest = match reference {
        ManifestName::Tag(tag) => repository.tag(tag)?,
        ManifestName::Digest(digest) => Some(digest.clone()),
    };
    let found = match digest {
        Some(digest) => repository.manifest(&digest)?.map(|media_type| (digest, media_type)),
        None => None,
    };
    found.ok_or_else(|| unknown(name, reference))
}

fn unknown(name: &RepositoryName, reference: &ManifestName) -> Refusal {
    let what = match reference {
        ManifestName::Tag(tag) => format!("tag {tag}"),
        ManifestName::Digest(digest) => format!("manifest {digest}"),
    };
    Refusal::new(Code::ManifestUnknown, format!("{name} has no {what}"))
}
