//! The endpoints of blobs: read them whole or in part, delete them.

use std::{io::SeekFrom, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use model::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{
    DOCKER_CONTENT_DIGEST, Registry,
    error::{Code, Refusal},
    header_value,
    repository::RepositoryName,
};

/// How much of a blob is read at a time, in bytes.
const READ_BYTES: usize = 128 << 10;

/// `GET` and `HEAD` of a blob, with `Range` (RFC 9110 §14; one range).
pub async fn get(
    registry: &Arc<Registry>,
    name: RepositoryName,
    digest: Digest,
    headers: &HeaderMap,
    with_body: bool,
) -> Result<Response, Refusal> {
    let size = registry.on_disk({
        let digest = digest.clone();
        move |registry| visible(registry, &name, &digest)
    });
    let size = size.await?;
    let base = [
        (DOCKER_CONTENT_DIGEST, header_value(&digest)),
        (header::CONTENT_TYPE, header_value("application/octet-stream")),
        (header::ACCEPT_RANGES, header_value("bytes")),
    ];
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).map(|range| wanted_range(range, size));
    let (status, first, len) = match range {
        None | Some(Wanted::Everything) => (StatusCode::OK, 0, size),
        Some(Wanted::Part { first, len }) => (StatusCode::PARTIAL_CONTENT, first, len),
        Some(Wanted::Beyond) => {
            let message = format!("the blob has {size} bytes; the range lies beyond them");
            return Err(Refusal::new(Code::SizeInvalid, message)
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, header_value(format!("bytes */{size}"))));
        }
    };
    let body = if with_body { part(registry, &digest, first, len).await? } else { Body::empty() };
    let mut response = (status, base, [(header::CONTENT_LENGTH, header_value(len))], body).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{size}", first + len - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, header_value(range));
    }
    Ok(response)
}

/// `DELETE` of a blob: takes it out of the repository. The collector takes the content when nothing reaches it.
pub async fn delete(registry: &Arc<Registry>, name: RepositoryName, digest: Digest) -> Result<Response, Refusal> {
    registry
        .on_disk(move |registry| {
            if registry.repositories.get(&name).unlink_blob(&digest)? { Ok(()) } else { Err(unknown(&name, &digest)) }
        })
        .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The size of a blob that the repository shows.
fn visible(registry: &Registry, name: &RepositoryName, digest: &Digest) -> Result<u64, Refusal> {
    if !registry.repositories.get(name).has_blob(digest) {
        return Err(unknown(name, digest));
    }
    // A pusher who is told that it is here will not send it: it must stay until the manifest comes.
    registry.store.want(digest)?.ok_or_else(|| unknown(name, digest))
}

fn unknown(name: &RepositoryName, digest: &Digest) -> Refusal {
    Refusal::new(Code::BlobUnknown, format!("{name} has no blob {digest}"))
}

/// A stream of `len` bytes of a blob.
async fn part(registry: &Registry, digest: &Digest, first: u64, len: u64) -> Result<Body, Refusal> {
    let mut file = tokio::fs::File::open(registry.store.path(digest)).await?;
    file.seek(SeekFrom::Start(first)).await?;
    Ok(Body::from_stream(ReaderStream::with_capacity(file.take(len), READ_BYTES)))
}

/// What a `Range` header asks of a representation.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// It is not a single byte range; RFC 9110 lets a server ignore it.
    Everything,
    Part {
        first: u64,
        len: u64,
    },
    Beyond,
}

fn wanted_range(header: &str, size: u64) -> Wanted {
    let Some((first, last)) = header.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Wanted::Everything;
    };
    let (first, end) = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, size),
        (Err(_), Ok(count)) if first.trim().is_empty() => (size.saturating_sub(count), size),
        _ => return Wanted::Everything,
    };
    if first < end { Wanted::Part { first, len: end - first } } else { Wanted::Beyond }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_ranges_as_rfc_9110_says() {
        let part = |first, len| Wanted::Part { first, len };
        for (header, wanted) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 4)),
            ("bytes=2-", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=5-99", part(5, 5)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=5-2", Wanted::Everything),
            ("bytes=0-1,3-4", Wanted::Everything),
            ("lines=0-1", Wanted::Everything),
            ("bytes=-", Wanted::Everything),
        ] {
            assert_eq!(wanted_range(header, 10), wanted, "{header}");
        }
        assert_eq!(wanted_range("bytes=0-", 0), Wanted::Beyond);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(first: u64, last: u64, size: u64) {
            if let Wanted::Part { first, len } = wanted_range(&format!("bytes={first}-{last}"), size) {
                prop_assert!(len > 0 && first + len <= size);
            }
        }
    }
}
