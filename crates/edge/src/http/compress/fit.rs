//! Which answers gain by being compressed, and may be.

use http::{HeaderName, StatusCode, header};
use http_body::SizeHint;

use crate::{
    http::headers::{has_token, is_one_of},
    http1::Fields,
};

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
pub fn forbids_transform(fields: &Fields) -> bool {
    fields.all(&header::CACHE_CONTROL).any(|list| has_token(list, "no-transform"))
}

/// What is to be done with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Nothing.
    Leave,
    /// The app says by `Content-Encoding: none` that it has no coding and shall get none: that is to be taken out.
    Unmark,
    /// It gains by being compressed, and may be.
    Gains,
}

/// Looks at an answer whose body is as long as `size` says. Its fields are walked through once: there are fewer of them
/// than of those that would forbid to change it.
pub fn look(status: StatusCode, fields: &Fields, size: &SizeHint) -> Fit {
    let whole = !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED]
            .contains(&status);
    let large = size.upper().is_none_or(|bytes| bytes >= MIN_BYTES);
    let (mut kind, mut codings, mut is_none, mut forbidden) = (None, 0, false, !whole || !large);
    fields.each(|name, value| {
        let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        match name.len() {
            12 if is(header::CONTENT_TYPE) => kind = kind.or(Some(value)),
            16 if is(header::CONTENT_ENCODING) => {
                codings += 1;
                is_none = value.eq_ignore_ascii_case(b"none");
            }
            13 if is(header::CONTENT_RANGE) => forbidden = true,
            13 if is(header::CACHE_CONTROL) => forbidden |= has_token(value, "no-transform"),
            _ => forbidden |= is_one_of(name, &VOUCHING),
        }
    });
    match codings {
        1 if is_none => Fit::Unmark,
        0 if !forbidden && kind.is_some_and(is_gaining) => Fit::Gains,
        _ => Fit::Leave,
    }
}

fn is_gaining(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let ends = |suffix| kind.ends_with(suffix);
    kind.starts_with("text/") || GAINING.contains(&kind.as_str()) || ends("+json") || ends("+xml") || ends("+text")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

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
            assert_eq!(is_gaining(kind.as_bytes()), gains, "{kind}");
        }
    }

    #[test]
    fn small_answers_and_vouched_ones_are_left_alone() {
        let answer = |bytes: u64, field: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            if let Some(field) = field {
                headers.insert(field, HeaderValue::from_static("x"));
            }
            look(StatusCode::OK, &Fields::Map(headers), &SizeHint::with_exact(bytes)) == Fit::Gains
        };
        assert!(answer(512, None) && !answer(511, None));
        assert!(VOUCHING.iter().all(|field| !answer(1000, Some(field))));
    }
}
