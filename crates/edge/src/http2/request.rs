//! A request of a block of fields (RFC 9113, 8.3), or none: what would mean something else in HTTP/1 is malformed here.

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::hpack::List;
use crate::http1::{BadHead, Fields, Listed, MAX_FIELDS, MAX_TARGET, Place};

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// What is to be done,
    pub method: Method,
    /// with what.
    pub uri: Uri,
    /// What it says beside.
    pub fields: Fields,
    /// How many bytes of content were announced.
    pub length: Option<u64>,
    /// It waits to be told that its content is wanted.
    pub waits: bool,
    /// What the stream is to become: extended `CONNECT` (RFC 8441, 4).
    pub protocol: Option<HeaderValue>,
}

/// A block that is no request, or no trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A block that no request is made of.
#[derive(Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// It is none.
    Malformed,
    /// It is more than may be.
    TooMuch(BadHead),
}

impl From<Malformed> for BadRequest {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The pseudo-fields of a request, each once.
#[derive(Default)]
struct Pseudo {
    method: Option<Place>,
    scheme: Option<Place>,
    authority: Option<Place>,
    path: Option<Place>,
    protocol: Option<Place>,
}

impl Pseudo {
    fn put(&mut self, name: &[u8], place: Place) -> Result<(), Malformed> {
        let known = match name {
            b":method" => &mut self.method,
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            b":protocol" => &mut self.protocol,
            _ => return Err(Malformed),
        };
        if known.replace(place).is_some() { Err(Malformed) } else { Ok(()) }
    }
}

impl RequestHead {
    /// The request that a block says. It may be as long as one of HTTP/1.
    pub fn read(list: List) -> Result<Self, BadRequest> {
        let List { mut text, mut places, .. } = list;
        let (mut pseudo, mut count) = (Pseudo::default(), 0);
        for place in &places {
            let name = at(&text, place.name);
            if name.first() != Some(&b':') {
                break;
            }
            pseudo.put(name, *place)?;
            count += 1;
        }
        places.drain(..count);
        let said = Said::of(&text, &places)?;
        join_cookies(&mut text, &mut places, said.cookies);
        if places.len() > MAX_FIELDS {
            return Err(BadRequest::TooMuch(BadHead::TooManyFields));
        }
        let head = text.freeze();
        let part = |place: Option<Place>| place.map(|Place { value: (begin, length), .. }| slice(&head, begin, length));
        let method = part(pseudo.method).and_then(|method| Method::from_bytes(&method).ok()).ok_or(Malformed)?;
        let protocol = part(pseudo.protocol).map(HeaderValue::from_maybe_shared).transpose().map_err(|_| Malformed)?;
        let plain_connect = method == Method::CONNECT && protocol.is_none();
        if protocol.is_some() && method != Method::CONNECT {
            return Err(BadRequest::Malformed);
        }
        let authority = part(pseudo.authority).filter(|authority| !authority.is_empty());
        let authority = authority.map(Authority::from_maybe_shared).transpose().map_err(|_| Malformed)?;
        let uri = match (part(pseudo.scheme), part(pseudo.path)) {
            // RFC 9113, 8.5
            (None, None) if plain_connect => target(None, authority, None),
            (Some(scheme), Some(path)) if !plain_connect => {
                if path.len() > MAX_TARGET {
                    return Err(BadRequest::TooMuch(BadHead::TargetTooLong));
                }
                let is_whole = path.starts_with(b"/") || (*path == *b"*" && method == Method::OPTIONS);
                let path = PathAndQuery::from_maybe_shared(path).ok().filter(|_| is_whole).ok_or(Malformed)?;
                let scheme = Scheme::try_from(&scheme[..]).map_err(|_| Malformed)?;
                target(Some(scheme), authority, Some(path))
            }
            _ => None,
        };
        let uri = uri.ok_or(Malformed)?;
        let Said { length, waits, .. } = said;
        let fields = Fields::Came(Listed::new(head, places));
        Ok(Self { method, uri, fields, length, waits, protocol })
    }
}

/// The trailers that a block says.
pub fn trailers(list: List) -> Result<HeaderMap, Malformed> {
    Said::of(&list.text, &list.places)?;
    Ok(Fields::Came(Listed::new(list.text.freeze(), list.places)).into_map())
}

/// A target of these parts. One without a host is the path alone: who is meant says its Host field.
fn target(scheme: Option<Scheme>, authority: Option<Authority>, path: Option<PathAndQuery>) -> Option<Uri> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = scheme.filter(|_| authority.is_some());
    (parts.authority, parts.path_and_query) = (authority, path);
    Uri::from_parts(parts).ok()
}

/// What the fields of a message say that matters here.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    waits: bool,
    cookies: usize,
}

impl Said {
    /// What these say, if each is a field that HTTP/2 knows (RFC 9113, 8.2).
    fn of(text: &[u8], places: &[Place]) -> Result<Self, Malformed> {
        let mut said = Self::default();
        for place in places {
            let (name, value) = (at(text, place.name), at(text, place.value));
            if !is_name(name) || !is_value(value) {
                return Err(Malformed);
            }
            match name {
                b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                    return Err(Malformed);
                }
                b"te" if !value.eq_ignore_ascii_case(b"trailers") => return Err(Malformed),
                b"content-length" if said.length.is_some() => return Err(Malformed),
                b"content-length" => said.length = Some(length(value).ok_or(Malformed)?),
                b"expect" => said.waits = value.eq_ignore_ascii_case(b"100-continue"),
                b"cookie" => said.cookies += 1,
                _ => {}
            }
        }
        Ok(said)
    }
}

/// A list of cookies may come in pieces; HTTP/1.1 wants one line (RFC 9113, 8.2.3).
fn join_cookies(text: &mut BytesMut, places: &mut Vec<Place>, count: usize) {
    if count < 2 {
        return;
    }
    let (begin, mut first) = (text.len(), None);
    places.retain(|place| {
        if at(text, place.name) != b"cookie" {
            return true;
        }
        if first.is_some() {
            text.extend_from_slice(b"; ");
        }
        first.get_or_insert(place.name);
        repeat(text, place.value);
        false
    });
    if let Some(name) = first {
        let short = |length: usize| u32::try_from(length).expect("blocks are short");
        places.push(Place { name, value: (short(begin), short(text.len() - begin)) });
    }
}

/// Adds a part of a text to its end.
fn repeat(text: &mut BytesMut, (begin, length): (u32, u32)) {
    let (end, begin, length) = (text.len(), begin as usize, length as usize);
    text.resize(end + length, 0);
    text.copy_within(begin..begin + length, end);
}

fn at(text: &[u8], (begin, length): (u32, u32)) -> &[u8] {
    &text[begin as usize..][..length as usize]
}

fn slice(head: &Bytes, begin: u32, length: u32) -> Bytes {
    head.slice(begin as usize..(begin + length) as usize)
}

/// A name in lower case (RFC 9113, 8.2.1; RFC 9110, 5.6.2).
fn is_name(name: &[u8]) -> bool {
    const FITS: [bool; 256] = {
        let (mut fits, mut byte) = ([false; 256], 0);
        while byte < 256 {
            let it = byte as u8;
            fits[byte] = it.is_ascii_lowercase()
                || it.is_ascii_digit()
                || matches!(
                    it,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            byte += 1;
        }
        fits
    };
    // What no map could hold is refused here, so that one can be made at any time.
    !name.is_empty() && name.len() < usize::from(u16::MAX) && name.iter().all(|byte| FITS[usize::from(*byte)])
}

/// A value: no control character but the tab, nothing blank around it (RFC 9113, 8.2.1).
fn is_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !is_blank(value.first())
        && !is_blank(value.last())
        && value.iter().all(|byte| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t')
}

/// A length: digits and nothing else.
fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?;
    (digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use http::header;
    use proptest::prelude::*;

    use super::{super::hpack::Decoder, *};

    fn read(fields: &[(&str, &str)]) -> Result<RequestHead, BadRequest> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        RequestHead::read(Decoder::default().decode(&block, 10_000).unwrap())
    }

    const USUAL: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/b?c")];

    #[test]
    fn a_request_is_read_and_its_cookies_are_one_list() {
        let fields =
            [&USUAL[..], &[("cookie", "a=1"), ("x-y", "z"), ("cookie", "b=2"), ("content-length", "5")]].concat();
        let head = read(&fields).unwrap();
        assert_eq!(
            (head.method, head.uri.to_string(), head.length),
            (Method::GET, "https://a.example/b?c".into(), Some(5))
        );
        assert_eq!(head.fields.all(&header::COOKIE).collect::<Vec<_>>(), [b"a=1; b=2"]);
        assert_eq!(head.fields.count(), 3);
    }

    #[test]
    fn there_are_as_many_fields_as_in_http_1_however_many_pieces_a_list_of_cookies_has() {
        let many = |name| USUAL.into_iter().chain(std::iter::repeat_n((name, "1"), 200)).collect::<Vec<_>>();
        assert_eq!(read(&many("cookie")).unwrap().fields.count(), 1);
        assert_eq!(read(&many("x")).unwrap_err(), BadRequest::TooMuch(BadHead::TooManyFields));
    }

    #[test]
    fn extended_connect_says_what_the_stream_becomes() {
        let fields = [&[(":method", "CONNECT"), (":protocol", "websocket")], &USUAL[1..]].concat();
        assert_eq!(read(&fields).unwrap().protocol.unwrap(), "websocket");
        assert_eq!(read(&[(":method", "CONNECT"), (":authority", "a:1")]).unwrap().uri, "a:1");
        assert!(read(&[&USUAL[..], &[(":protocol", "websocket")]].concat()).is_err());
        assert!(read(&[&[(":method", "CONNECT")], &USUAL[1..]].concat()).is_err());
    }

    #[test]
    fn what_is_missing_or_comes_twice_is_malformed() {
        for left_out in [":method", ":scheme", ":path"] {
            let fields: Vec<_> = USUAL.into_iter().filter(|(name, _)| *name != left_out).collect();
            assert!(read(&fields).is_err(), "{left_out}");
        }
        for field in USUAL {
            assert!(read(&[&USUAL[..], &[field]].concat()).is_err(), "{field:?}");
        }
        for field in
            [("x", " a"), ("x", "a\t"), ("x", "a\u{7f}"), ("te", "gzip"), ("content-length", ""), (":status", "200")]
        {
            assert!(read(&[&USUAL[..], &[field]].concat()).is_err(), "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_can_be_written_as_http_1(fields in prop::collection::vec(("[ -~\u{0}-\u{20}]{0,6}", "[ -~\r\n\u{0}\t\u{80}]{0,8}"), 0..6)) {
            let fields: Vec<_> = USUAL.into_iter().chain(fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))).collect();
            if let Ok(head) = read(&fields) {
                let count = head.fields.count();
                head.fields.each(|name, value| {
                    assert!(!name.contains(&b':') && !name.contains(&b' ') && !name.iter().any(u8::is_ascii_control));
                    assert!(!value.contains(&b'\r') && !value.contains(&b'\n') && !value.contains(&0));
                });
                prop_assert_eq!(head.fields.into_map().len(), count);
            }
        }
    }
}
