//! Lists: a repository's tags, and the manifests that refer to one.

use std::sync::Arc;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, header};
use model::Digest;
use serde_json::json;

use super::{
    Registry,
    door::pairs,
    error::{Code, Refusal},
    header_value,
    repository::{Repository, RepositoryName},
};
use crate::{
    document::{Descriptor, Manifest, OCI_INDEX},
    layers::read_bounded,
};

/// The most tags in one answer.
const MAX_TAGS: usize = 10_000;
/// An answer about referrers ends a page at so many bytes.
const PAGE_BYTES: usize = 2 << 20;

/// `GET …/tags/list`, with `n` and `last`.
pub async fn tags(registry: &Arc<Registry>, name: RepositoryName, query: &str) -> Result<Response, Refusal> {
    let Page { n, last, .. } = Page::parse(query)?;
    let n = n.unwrap_or(MAX_TAGS).min(MAX_TAGS);
    let listed = name.clone();
    let mut tags = registry
        .on_disk(move |registry| {
            let repository = registry.repositories.get(&listed);
            if !repository.exists() {
                let message = format!("there is no repository {listed}; nothing was pushed to it");
                return Err(Refusal::new(Code::NameUnknown, message));
            }
            let tags = repository.tags()?.into_iter();
            Ok(tags.filter(|tag| last.as_ref().is_none_or(|last| tag > last)).take(n + 1).collect::<Vec<_>>())
        })
        .await?;
    let more = tags.len() > n;
    tags.truncate(n);
    let next = tags.last().filter(|_| more).map(|last| format!("/v2/{name}/tags/list?n={n}&last={last}"));
    Ok(linked(Json(json!({ "name": name.as_str(), "tags": tags })).into_response(), next))
}

/// `GET …/referrers/<digest>`, with `artifactType`: an index of the manifests whose subject that digest is. A subject
/// that nobody pushed has none.
pub async fn referrers(
    registry: &Arc<Registry>,
    name: RepositoryName,
    subject: Digest,
    query: &str,
) -> Result<Response, Refusal> {
    let Page { last, artifact_type, .. } = Page::parse(query)?;
    let filter = artifact_type.clone();
    let (found, more) = registry
        .on_disk({
            let (name, subject) = (name.clone(), subject.clone());
            move |registry| {
                let repository = registry.repositories.get(&name);
                page_of_referrers(registry, &repository, &subject, filter.as_deref(), last.as_deref())
            }
        })
        .await?;
    let body = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found });
    let mut response = Json(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
    if artifact_type.is_some() {
        let name = HeaderName::from_static("oci-filters-applied");
        response.headers_mut().insert(name, HeaderValue::from_static("artifactType"));
    }
    let next = more.map(|last| {
        let filter = artifact_type.iter().flat_map(|kind| [("artifactType", kind.as_str())]);
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(filter)
            .append_pair("last", last.as_str())
            .finish();
        format!("/v2/{name}/referrers/{subject}?{query}")
    });
    Ok(linked(response, next))
}

/// Referrers after `last`, as many as fit a page; and the last of them if there are more.
fn page_of_referrers(
    registry: &Registry,
    repository: &Repository,
    subject: &Digest,
    filter: Option<&str>,
    last: Option<&str>,
) -> Result<(Vec<Descriptor>, Option<Digest>), Refusal> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    let candidates = repository.referrers(subject)?;
    for digest in candidates.into_iter().filter(|digest| last.is_none_or(|last| digest.as_str() > last)) {
        let Some(descriptor) = describe(registry, repository, &digest)? else { continue };
        if filter.is_some_and(|filter| descriptor.artifact_type.as_deref() != Some(filter)) {
            continue;
        }
        bytes += 512 + descriptor.annotations.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        found.push(descriptor);
        if bytes >= PAGE_BYTES {
            return Ok((found, Some(digest)));
        }
    }
    Ok((found, None))
}

/// The descriptor of a manifest of the repository, if it still is one.
fn describe(registry: &Registry, repository: &Repository, digest: &Digest) -> Result<Option<Descriptor>, Refusal> {
    let Some(media_type) = repository.manifest(digest)? else { return Ok(None) };
    let content = read_bounded(&registry.store.path(digest))?;
    let Ok(manifest) = Manifest::parse(&content, None) else { return Ok(None) };
    Ok(Some(Descriptor {
        media_type,
        digest: digest.clone(),
        size: content.len() as u64,
        artifact_type: manifest.artifact_type().map(str::to_owned),
        annotations: manifest.annotations().clone(),
        platform: None,
    }))
}

/// The parameters of lists.
#[derive(Default)]
struct Page {
    n: Option<usize>,
    last: Option<String>,
    artifact_type: Option<String>,
}

impl Page {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut page = Self::default();
        for (name, value) in pairs(query) {
            match name.as_str() {
                "n" => {
                    let n = value.parse().map_err(|_| {
                        Refusal::new(Code::Unsupported, "n is a number of entries")
                            .status(http::StatusCode::BAD_REQUEST)
                    })?;
                    page.n = Some(n);
                }
                "last" => page.last = Some(value),
                "artifactType" => page.artifact_type = Some(value),
                _ => {}
            }
        }
        Ok(page)
    }
}

/// Adds the link to the next page (RFC 8288).
fn linked(mut response: Response, next: Option<String>) -> Response {
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, header_value(format!("<{next}>; rel=\"next\"")));
    }
    response
}
