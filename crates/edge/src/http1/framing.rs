//! Where the content of a message ends (RFC 9112, 6).

use http::{HeaderMap, Method, StatusCode, Version, header};
use thiserror::Error;

use crate::http::has_token;

/// How a message says where its content ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// It comes in chunks that say their lengths.
    Chunked,
    /// With the connection. Answers only.
    ToClose,
}

/// A message that does not say clearly where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadFraming {
    /// Lengths that differ, or are none.
    #[error("its Content-Length is not one number")]
    Length,
    /// Something else than `chunked`, alone and last.
    #[error("its Transfer-Encoding is not chunked alone")]
    Coding,
    /// HTTP/1.0 knows no transfer codings.
    #[error("it has a Transfer-Encoding, which HTTP/1.0 does not know")]
    CodingInHttp10,
}

/// Leaves one field that frames the message, or none.
pub fn settle(framing: Framing, headers: &mut HeaderMap) {
    let length = headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = length.filter(|_| framing != Framing::Chunked) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// What the fields of a message say about where it ends and what becomes of its connection. They are looked at once,
/// as they were parsed: a map would have to be asked for each.
#[derive(Debug, Default, Clone, Copy)]
pub struct Said<'a> {
    length: Option<&'a [u8]>,
    lengths: u32,
    lengths_differ: bool,
    coding: Option<&'a [u8]>,
    codings: u32,
    closes: bool,
    keeps_alive: bool,
    /// Whoever sent it reads trailers.
    pub reads_trailers: bool,
    /// Its sender waits to be told that its content is wanted (RFC 9110, 10.1.1).
    pub waits: bool,
}

impl<'a> Said<'a> {
    /// What these fields say.
    pub fn of(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut said = Self::default();
        for (name, value) in fields {
            said.hear(name, value);
        }
        said
    }

    fn hear(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match name.len() {
            2 if is("te") => self.reads_trailers |= has_token(value, "trailers"),
            6 if is("expect") => self.waits |= has_token(value, "100-continue"),
            10 if is("connection") => {
                self.closes |= has_token(value, "close");
                self.keeps_alive |= has_token(value, "keep-alive");
            }
            14 if is("content-length") => {
                self.lengths += 1;
                self.lengths_differ |= *self.length.get_or_insert(value) != value;
            }
            17 if is("transfer-encoding") => {
                self.codings += 1;
                self.coding.get_or_insert(value);
            }
            _ => {}
        }
    }

    /// How a request's content is framed, and whether that can be trusted for what follows on the connection.
    pub fn of_request(&self, version: Version) -> Result<(Framing, bool), BadFraming> {
        if self.is_chunked(version)? {
            return Ok((Framing::Chunked, self.length.is_none()));
        }
        Ok((self.length()?.map_or(Framing::Empty, Framing::Length), true))
    }

    /// How an answer's content is framed.
    pub fn of_answer(&self, method: &Method, status: StatusCode, version: Version) -> Result<Framing, BadFraming> {
        let bare = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        if bare || method == Method::HEAD {
            self.length()?;
            return Ok(Framing::Empty);
        }
        if self.is_chunked(version)? {
            return Ok(Framing::Chunked);
        }
        Ok(self.length()?.map_or(Framing::ToClose, Framing::Length))
    }

    /// Whether the connection goes on after a message of this version.
    pub fn keeps_alive(&self, version: Version) -> bool {
        !self.closes && (version == Version::HTTP_11 || self.keeps_alive)
    }

    /// Whether a message says both how long it is and that it comes in chunks.
    pub fn is_ambiguous(&self) -> bool {
        self.length.is_some() && self.coding.is_some()
    }

    /// Whether fields would frame the message a second time: a length beside a coding, which counts (RFC 9112, 6.3), or
    /// several equal ones.
    pub fn says_too_much(&self) -> bool {
        self.lengths > 1 || self.is_ambiguous()
    }

    fn is_chunked(&self, version: Version) -> Result<bool, BadFraming> {
        let Some(coding) = self.coding else { return Ok(false) };
        if version != Version::HTTP_11 {
            return Err(BadFraming::CodingInHttp10);
        }
        let alone = coding.eq_ignore_ascii_case(b"chunked") && self.codings == 1;
        if alone { Ok(true) } else { Err(BadFraming::Coding) }
    }

    /// The one length that all fields agree on.
    fn length(&self) -> Result<Option<u64>, BadFraming> {
        let Some(digits) = self.length else { return Ok(None) };
        let is_number = !self.lengths_differ && !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
        number.map(Some).ok_or(BadFraming::Length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said<'a>(fields: &[(&'static str, &'a str)]) -> Said<'a> {
        Said::of(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn a_request_ends_where_it_says_or_is_refused() {
        let of = |list: &[(&'static str, &str)]| said(list).of_request(Version::HTTP_11);
        assert_eq!(of(&[]), Ok((Framing::Empty, true)));
        assert_eq!(of(&[("content-length", "5")]), Ok((Framing::Length(5), true)));
        assert_eq!(of(&[("content-length", "5"), ("content-length", "5")]), Ok((Framing::Length(5), true)));
        assert_eq!(of(&[("transfer-encoding", "Chunked")]), Ok((Framing::Chunked, true)));
        assert_eq!(of(&[("transfer-encoding", "chunked"), ("content-length", "5")]), Ok((Framing::Chunked, false)));
        for bad in ["5, 5", "+5", "-1", " 5", "", "0x5", "99999999999999999999"] {
            assert_eq!(of(&[("content-length", bad)]), Err(BadFraming::Length), "{bad}");
        }
        for bad in ["gzip, chunked", "chunked, chunked", "identity", "xchunked", "chunked;q=1"] {
            assert_eq!(of(&[("transfer-encoding", bad)]), Err(BadFraming::Coding), "{bad}");
        }
        let old = said(&[("transfer-encoding", "chunked")]).of_request(Version::HTTP_10);
        assert_eq!(old, Err(BadFraming::CodingInHttp10));
    }

    #[test]
    fn an_answer_without_content_has_none_whatever_it_says() {
        let of = |method: Method, status: u16| {
            let said = said(&[("Content-Length", "5")]);
            said.of_answer(&method, StatusCode::from_u16(status).unwrap(), Version::HTTP_11)
        };
        assert_eq!(of(Method::HEAD, 200), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 304), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 204), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 200), Ok(Framing::Length(5)));
        let without = said(&[]).of_answer(&Method::GET, StatusCode::OK, Version::HTTP_11);
        assert_eq!(without, Ok(Framing::ToClose));
    }

    proptest! {
        #[test]
        fn no_pair_of_lengths_is_read_in_two_ways(one in "[0-9+, -]{0,4}", other in "[0-9+, -]{0,4}") {
            let list = [("content-length", one.as_str()), ("content-length", other.as_str())];
            let read = said(&list).of_request(Version::HTTP_11);
            if let Ok((Framing::Length(length), _)) = read {
                prop_assert_eq!(&one, &other);
                prop_assert_eq!(Ok(length), one.parse::<u64>());
            } else {
                prop_assert!(read.is_err());
            }
        }
    }
}
