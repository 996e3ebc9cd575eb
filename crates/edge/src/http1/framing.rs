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

/// How a request's content is framed, and whether that can be trusted for what follows on the connection. A length
/// beside a coding is taken out: the coding counts (RFC 9112, 6.3).
pub fn of_request(version: Version, headers: &mut HeaderMap) -> Result<(Framing, bool), BadFraming> {
    let both = headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH);
    if is_chunked(version, headers)? {
        headers.remove(header::CONTENT_LENGTH);
        return Ok((Framing::Chunked, !both));
    }
    Ok((length(headers)?.map_or(Framing::Empty, Framing::Length), true))
}

/// How an answer's content is framed.
pub fn of_answer(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<Framing, BadFraming> {
    let bare = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bare || method == Method::HEAD {
        length(headers)?;
        return Ok(Framing::Empty);
    }
    if is_chunked(version, headers)? {
        headers.remove(header::CONTENT_LENGTH);
        return Ok(Framing::Chunked);
    }
    Ok(length(headers)?.map_or(Framing::ToClose, Framing::Length))
}

/// Whether the connection goes on after a message of this version with these fields.
pub fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |token| headers.get_all(header::CONNECTION).iter().any(|list| has_token(list, token));
    !says("close") && (version == Version::HTTP_11 || says("keep-alive"))
}

fn is_chunked(version: Version, headers: &HeaderMap) -> Result<bool, BadFraming> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    if version != Version::HTTP_11 {
        return Err(BadFraming::CodingInHttp10);
    }
    let alone = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if alone { Ok(true) } else { Err(BadFraming::Coding) }
}

/// The one length that all fields agree on. Several equal ones become one.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, BadFraming> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next().cloned() else { return Ok(None) };
    let mut others = 0;
    for other in lengths {
        others += 1;
        if other != first {
            return Err(BadFraming::Length);
        }
    }
    if others > 0 {
        headers.insert(header::CONTENT_LENGTH, first.clone());
    }
    let digits = first.as_bytes();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or(BadFraming::Length)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_request_ends_where_it_says_or_is_refused() {
        let of = |list: &[(&'static str, &str)]| of_request(Version::HTTP_11, &mut fields(list));
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
        let old = of_request(Version::HTTP_10, &mut fields(&[("transfer-encoding", "chunked")]));
        assert_eq!(old, Err(BadFraming::CodingInHttp10));
    }

    #[test]
    fn an_answer_without_content_has_none_whatever_it_says() {
        let of = |method: Method, status: u16| {
            let mut headers = fields(&[("content-length", "5")]);
            of_answer(&method, StatusCode::from_u16(status).unwrap(), Version::HTTP_11, &mut headers)
        };
        assert_eq!(of(Method::HEAD, 200), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 304), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 204), Ok(Framing::Empty));
        assert_eq!(of(Method::GET, 200), Ok(Framing::Length(5)));
        let without = of_answer(&Method::GET, StatusCode::OK, Version::HTTP_11, &mut HeaderMap::new());
        assert_eq!(without, Ok(Framing::ToClose));
    }

    proptest! {
        #[test]
        fn no_pair_of_lengths_is_read_in_two_ways(one in "[0-9+, -]{0,4}", other in "[0-9+, -]{0,4}") {
            let list = [("content-length", one.as_str()), ("content-length", other.as_str())];
            let read = of_request(Version::HTTP_11, &mut fields(&list));
            if let Ok((Framing::Length(length), _)) = read {
                prop_assert_eq!(&one, &other);
                prop_assert_eq!(Ok(length), one.parse::<u64>());
            } else {
                prop_assert!(read.is_err());
            }
        }
    }
}
