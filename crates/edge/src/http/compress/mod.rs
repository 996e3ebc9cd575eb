//! Compressing answers that the app did not compress.
//!
//! ```text
//!  request ─▶ Wish: which coding the client likes best ┐
//!  answer  ─▶ does it gain, and may it be changed? ────┴─▶ fields say so ─▶ body: Compressed
//! ```
//!
//! An answer that trickles is never delayed: as soon as the app pauses, what it has sent so far is flushed (RFC 1951
//! calls it a sync flush, the other codings have the same). One stream costs a bounded amount of memory, and when too
//! many are under way the next answer passes as it is.

mod body;
mod coding;
mod encoder;
mod fit;

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{self, HeaderName},
};
use http_body::SizeHint;
use tokio::sync::Semaphore;

pub use body::Compressed;
use coding::Coding;
use fit::Fit;

use crate::http1::Fields;

/// How many answers are compressed at a time; each may hold about a mebibyte.
const MAX_UNDER_WAY: usize = 512;

/// Compresses answers, up to a number of them at a time.
pub struct Compressor {
    places: Arc<Semaphore>,
}

/// What a request says about compressing its answer.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// What the client likes best of what we can do.
    coding: Option<Coding>,
    /// The answer will have a body, and the client did not forbid changing it.
    may_change: bool,
}

impl Wish {
    /// Reads a request.
    pub fn of(method: &Method, fields: &Fields) -> Self {
        let may_change = *method != Method::HEAD && !fit::forbids_transform(fields);
        Self { coding: Coding::preferred(fields), may_change }
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_UNDER_WAY)) }
    }
}

impl Compressor {
    /// Makes an answer's fields those of a compressed one, if it is to be compressed; its body then has to go through
    /// what is returned. `Content-Encoding: none` is the app's word for "leave it as it is", and is no coding.
    pub fn begin(&self, wish: Wish, status: StatusCode, fields: &mut Fields, size: &SizeHint) -> Option<Start> {
        match fit::look(status, fields, size) {
            Fit::Gains if wish.may_change => {}
            Fit::Unmark => {
                fields.map_mut().remove(header::CONTENT_ENCODING);
                return None;
            }
            _ => return None,
        }
        let headers = fields.map_mut();
        // Another client would get other bytes for the same request, compressed or not.
        vary(headers);
        let coding = wish.coding?;
        let place = self.places.clone().try_acquire_owned().ok()?;
        declare(headers, coding);
        Some(Start { coding, place })
    }
}

/// A compression that is about to begin.
pub struct Start {
    coding: Coding,
    place: tokio::sync::OwnedSemaphorePermit,
}

impl Start {
    /// The body as the client gets it.
    pub fn body<B>(self, body: B) -> Compressed<B> {
        Compressed::new(body, self.coding, self.place)
    }
}

fn vary(headers: &mut HeaderMap) {
    let says_so = |list: &HeaderValue| super::headers::has_token(list, "accept-encoding") || list == "*";
    if !headers.get_all(header::VARY).iter().any(says_so) {
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Says what is now true: another coding, another length that nobody knows yet, no ranges, and a validator that is
/// true of the content but not of the bytes (RFC 9110, 8.8.3.3).
fn declare(headers: &mut HeaderMap, coding: Coding) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    weaken(headers, header::ETAG);
}

fn weaken(headers: &mut HeaderMap, name: HeaderName) {
    let Some(tag) = headers.get(&name).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return };
    let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
    headers.insert(name, weak.expect("a field value with two letters in front is one"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as an answer that gains.
    fn long() -> SizeHint {
        SizeHint::with_exact(1000)
    }

    fn fields(list: &[(&'static str, &'static str)]) -> Fields {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        Fields::Map(headers)
    }

    fn html() -> Fields {
        fields(&[("content-type", "text/html")])
    }

    /// The wish of a client that reads gzip.
    fn gzip(method: &Method) -> Wish {
        Wish::of(method, &fields(&[("accept-encoding", "gzip")]))
    }

    fn begin(request: &[(&'static str, &'static str)], answer: &[(&'static str, &'static str)]) -> (bool, HeaderMap) {
        let (wish, mut answer) = (Wish::of(&Method::GET, &fields(request)), fields(answer));
        let begun = Compressor::default().begin(wish, StatusCode::OK, &mut answer, &long()).is_some();
        (begun, answer.into_map())
    }

    #[test]
    fn the_fields_tell_what_is_true_of_the_compressed_answer() {
        let answer = [
            ("content-type", "text/html"),
            ("content-length", "1000"),
            ("accept-ranges", "bytes"),
            ("etag", "\"v1\""),
            ("vary", "Cookie"),
        ];
        let (begun, headers) = begin(&[("accept-encoding", "gzip")], &answer);
        assert!(begun && headers["content-encoding"] == "gzip" && headers["etag"] == "W/\"v1\"");
        assert!(!headers.contains_key("content-length") && !headers.contains_key("accept-ranges"));
        assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), ["Cookie", "Accept-Encoding"]);
    }

    #[test]
    fn an_answer_that_depends_on_the_coding_says_so_even_where_it_is_left_alone() {
        let (begun, headers) = begin(&[], &[("content-type", "text/html")]);
        assert!(!begun && headers["vary"] == "Accept-Encoding");
        let (_, headers) = begin(&[], &[("content-type", "image/png")]);
        assert!(!headers.contains_key("vary"));
        let (_, headers) = begin(&[], &[("content-type", "text/html"), ("vary", "*")]);
        assert_eq!(headers.get_all("vary").iter().count(), 1);
    }

    #[test]
    fn the_app_can_forbid_it_and_so_can_the_client() {
        let gzip = ("accept-encoding", "gzip");
        let html = ("content-type", "text/html");
        let (begun, headers) = begin(&[gzip], &[html, ("content-encoding", "none")]);
        assert!(!begun && !headers.contains_key("content-encoding"));
        assert!(!begin(&[gzip], &[html, ("content-encoding", "br")]).0);
        assert!(!begin(&[gzip], &[html, ("cache-control", "public, No-Transform")]).0);
        assert!(!begin(&[gzip, ("cache-control", "no-transform")], &[html]).0);
        assert!(begin(&[gzip], &[html, ("cache-control", "public")]).0);
    }

    #[test]
    fn answers_without_a_body_of_their_own_are_left_alone() {
        let status =
            |status, method: &Method| Compressor::default().begin(gzip(method), status, &mut html(), &long()).is_some();
        assert!(status(StatusCode::NOT_FOUND, &Method::GET));
        for bodiless in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::PARTIAL_CONTENT] {
            assert!(!status(bodiless, &Method::GET), "{bodiless}");
        }
        assert!(!status(StatusCode::OK, &Method::HEAD));
    }

    #[test]
    fn when_too_many_are_under_way_the_next_one_passes_as_it_is() {
        let compressor = Compressor::default();
        let begin = || compressor.begin(gzip(&Method::GET), StatusCode::OK, &mut html(), &long());
        let under_way: Vec<Start> = (0..MAX_UNDER_WAY).map(|_| begin().unwrap()).collect();
        assert!(begin().is_none());
        drop(under_way);
        assert!(begin().is_some());
    }
}
