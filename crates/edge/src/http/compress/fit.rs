//! Which answers gain by being compressed, and may be.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::body::Body;

use crate::http::headers::has_token;

/// Below this many bytes a packet is a packet; answers whose length nobody knows are taken for longer.
const MIN_BYTES: u64 = 512;

/// Types that gain, beside `text/*` and those that end in `+json`, `+xml` or `+text`.
const GAINING: [&str; 22] = [
    "application/javascript",
    "application/json",
    "application/json5",
    "application/jsonlines",
    "application/manifest+json",
    "application/ndjson",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/x-javascript",
    "application/x-ndjson",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/vnd.microsoft.icon",
    "image/x-icon",
    "model/gltf+json",
];

/// Fields that vouch for the very bytes of an answer: whoever sets them wants these bytes.
const VOUCHING: [&str; 4] = ["content-digest", "content-md5", "digest", "repr-digest"];

/// Whether a message says that nobody on the way may change its content (RFC 9111, 5.2).
pub fn forbids_transform(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().any(|list| has_token(list, "no-transform"))
}

/// Whether the app says by `Content-Encoding: none` that its answer has no coding and shall get none.
pub fn is_marked_none(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"none")) && codings.next().is_none()
}

/// Whether an answer gains by being compressed, and may be.
pub fn gains<B: Body>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let status = response.status();
    let whole = !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED]
            .contains(&status);
    let free = !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && !forbids_transform(headers)
        && !VOUCHING.iter().any(|name| headers.contains_key(*name));
    let large = response.body().size_hint().upper().is_none_or(|bytes| bytes >= MIN_BYTES);
    whole && free && large && headers.get(header::CONTENT_TYPE).is_some_and(is_gaining)
}

fn is_gaining(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let ends = |suffix| kind.ends_with(suffix);
    kind.starts_with("text/") || GAINING.contains(&kind.as_str()) || ends("+json") || ends("+xml") || ends("+text")
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    #[test]
    fn kinds_that_gain_are_told_from_those_that_do_not() {
        for (kind, gains) in [
            ("text/html; charset=utf-8", true),
            ("Text/Event-Stream", true),
            ("application/json", true),
            ("application/activity+json; profile=x", true),
            ("image/svg+xml", true),
            ("application/wasm", true),
            ("image/png", false),
            ("application/octet-stream", false),
            ("application/grpc", false),
            ("application/grpc+proto", false),
            ("font/woff2", false),
            ("video/mp4", false),
            ("", false),
        ] {
            assert_eq!(is_gaining(&HeaderValue::from_static(kind)), gains, "{kind}");
        }
    }

    #[test]
    fn small_answers_and_vouched_ones_are_left_alone() {
        let answer = |bytes: usize, field: Option<&'static str>| {
            let mut response = Response::new(Full::new(bytes::Bytes::from(vec![b'a'; bytes])));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            if let Some(field) = field {
                response.headers_mut().insert(field, HeaderValue::from_static("x"));
            }
            gains(&response)
        };
        assert!(answer(512, None) && !answer(511, None));
        assert!(VOUCHING.iter().all(|field| !answer(1000, Some(field))));
    }
}
