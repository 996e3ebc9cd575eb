//! The head of a message: what comes before its content (RFC 9112, 2 to 5).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version, header};
use thiserror::Error;

use super::{
    fields::{Fields, Listed, Places, place_in},
    framing::{BadFraming, Framing, Said, settle},
};
use crate::http::has_token;

/// More fields than this are refused.
pub const MAX_FIELDS: usize = 128;
/// A longer target is refused; `http::Uri` holds no more.
pub const MAX_TARGET: usize = 65_534;

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// What is to be done,
    pub method: Method,
    /// with what.
    pub uri: Uri,
    /// Its version.
    pub version: Version,
    /// What it says beside.
    pub fields: Fields,
    /// Where its content ends.
    pub framing: Framing,
    /// Whether another request may follow it.
    pub keeps_alive: bool,
    /// Whether the client reads trailers.
    pub reads_trailers: bool,
    /// Whether the client waits to be told that its content is wanted (RFC 9110, 10.1.1).
    pub waits: bool,
}

/// An answer's head.
pub struct AnswerHead {
    /// Its status.
    pub status: StatusCode,
    /// Its version.
    pub version: Version,
    /// What it says beside.
    pub fields: Fields,
    /// Where its content ends.
    pub framing: Framing,
    /// Whether another request may follow on the connection.
    pub keeps_alive: bool,
}

/// A head that cannot be read, or must not be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadHead {
    /// It breaks the grammar.
    #[error("its head cannot be read: {0}")]
    Syntax(&'static str),
    /// It is longer than the bound.
    #[error("its head is longer than {0} bytes")]
    TooLong(usize),
    /// It has too many fields.
    #[error("it has more than {MAX_FIELDS} fields")]
    TooManyFields,
    /// Its target is too long.
    #[error("its target is longer than {MAX_TARGET} bytes")]
    TargetTooLong,
    /// It does not say clearly where it ends.
    #[error(transparent)]
    Framing(#[from] BadFraming),
}

impl BadHead {
    /// The status that says so.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLong(_) | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Syntax(_) | Self::Framing(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<httparse::Error> for BadHead {
    fn from(error: httparse::Error) -> Self {
        Self::Syntax(match error {
            httparse::Error::HeaderName => "the name of a field is none",
            httparse::Error::HeaderValue => "the value of a field is none",
            httparse::Error::NewLine => "a line does not end as it must",
            httparse::Error::Status => "its status is none",
            httparse::Error::Token => "its first line is none of HTTP",
            httparse::Error::TooManyHeaders => return Self::TooManyFields,
            httparse::Error::Version => "its version is not HTTP/1.0 or HTTP/1.1",
        })
    }
}

/// How much of a head that is not whole has been looked through.
#[derive(Default)]
pub struct Seen(usize);

impl Seen {
    fn is_nothing(&self) -> bool {
        self.0 == 0
    }

    /// Takes a whole head from the beginning of `inbox`, once it is there. What was looked through is not looked through
    /// again, however slowly a head comes.
    fn take(&mut self, inbox: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, BadHead> {
        // Empty lines before a message are passed over (RFC 9112, 2.2).
        let empty = inbox.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        inbox.advance(empty);
        let end = end_of_head(inbox, self.0.saturating_sub(2));
        self.0 = if end.is_some() { 0 } else { inbox.len() };
        match end {
            Some(end) if end <= limit => Ok(Some(inbox.split_to(end).freeze())),
            None if inbox.len() <= limit => Ok(None),
            _ => Err(BadHead::TooLong(limit)),
        }
    }
}

/// Where the first empty line ends.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.min(bytes.len());
    memchr::memchr_iter(b'\n', &bytes[from..]).map(|at| from + at + 1).find_map(|at| match &bytes[at..] {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// Takes a request's head from the beginning of `inbox`, once it is whole.
pub fn take_request(inbox: &mut BytesMut, seen: &mut Seen, limit: usize) -> Result<Option<RequestHead>, BadHead> {
    // Other protocols have no lines to wait for.
    let first = inbox.iter().find(|byte| !matches!(byte, b'\r' | b'\n'));
    if first.is_some_and(|byte| !byte.is_ascii_graphic()) {
        return Err(httparse::Error::Token.into());
    }
    let Some((read, head)) = take(inbox, seen, limit, read_request)? else { return Ok(None) };
    let ReadRequest { method, target: (begin, length), version, framing, keeps_alive, asks, settle, places } = read;
    let target = head.slice(begin as usize..(begin + length) as usize);
    let uri = Uri::from_maybe_shared(target).map_err(|_| BadHead::Syntax("its target is none"))?;
    let fields = settled(places.in_head(head), framing, settle);
    let (reads_trailers, waits) = asks;
    Ok(Some(RequestHead { method, uri, version, fields, framing, keeps_alive, reads_trailers, waits }))
}

/// Takes an answer's head from the beginning of `inbox`, once it is whole. `method` is that of the request.
pub fn take_answer(
    inbox: &mut BytesMut,
    seen: &mut Seen,
    limit: usize,
    method: &Method,
) -> Result<Option<AnswerHead>, BadHead> {
    const BEGINNING: &[u8] = b"HTTP/1.";
    if !BEGINNING.starts_with(&inbox[..inbox.len().min(BEGINNING.len())]) {
        return Err(httparse::Error::Token.into());
    }
    let Some((read, head)) = take(inbox, seen, limit, |head| read_answer(head, method))? else { return Ok(None) };
    let ReadAnswer { status, version, framing, keeps_alive, settle, places } = read;
    let fields = settled(places.in_head(head), framing, settle);
    Ok(Some(AnswerHead { status, version, fields, framing, keeps_alive }))
}

/// Takes a whole head from the beginning of `inbox` as `read` understands it. Most come whole and are read at once; the
/// others are read once their end is there, however slowly that comes. What is wrong with a head is told then as well, so
/// that it does not depend on how the head was cut.
fn take<T>(
    inbox: &mut BytesMut,
    seen: &mut Seen,
    limit: usize,
    read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, BadHead>,
) -> Result<Option<(T, Bytes)>, BadHead> {
    if inbox.is_empty() {
        return Ok(None);
    }
    if seen.is_nothing()
        && let Ok(Some((head, length))) = read(&inbox[..inbox.len().min(limit)])
    {
        return Ok(Some((head, inbox.split_to(length).freeze())));
    }
    let Some(bytes) = seen.take(inbox, limit)? else { return Ok(None) };
    match read(&bytes)? {
        Some((head, length)) if length == bytes.len() => Ok(Some((head, bytes))),
        _ => Err(BadHead::Syntax("a line does not end as it must")),
    }
}

/// A request's head that was read where it came.
struct ReadRequest {
    method: Method,
    target: (u32, u32),
    version: Version,
    framing: Framing,
    keeps_alive: bool,
    /// Whether the client reads trailers, and waits to be told that its content is wanted.
    asks: (bool, bool),
    settle: bool,
    places: Places,
}

/// Reads a request's head at the beginning of `bytes`, if all of it is there. Tells how long it is.
fn read_request(bytes: &[u8]) -> Result<Option<(ReadRequest, usize)>, BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let read = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, bytes, &mut fields)?;
    let httparse::Status::Complete(length) = read else { return Ok(None) };
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if target.len() > MAX_TARGET {
        return Err(BadHead::TargetTooLong);
    }
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| BadHead::Syntax("its method is none"))?;
    let target = place_in(bytes, target.as_bytes()).ok_or(BadHead::Syntax("its target is none"))?;
    let (version, said) = (version(parsed.version), said(parsed.headers));
    let (framing, clear) = said.of_request(version)?;
    let keeps_alive = clear && said.keeps_alive(version);
    let (asks, settle) = ((said.reads_trailers, said.waits), said.says_too_much());
    let places = Places::of(bytes, parsed.headers)?;
    Ok(Some((ReadRequest { method, target, version, framing, keeps_alive, asks, settle, places }, length)))
}

/// An answer's head that was read where it came.
struct ReadAnswer {
    status: StatusCode,
    version: Version,
    framing: Framing,
    keeps_alive: bool,
    settle: bool,
    places: Places,
}

/// Reads an answer's head at the beginning of `bytes`, if all of it is there. Tells how long it is.
fn read_answer(bytes: &[u8], method: &Method) -> Result<Option<(ReadAnswer, usize)>, BadHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)?;
    let httparse::Status::Complete(length) = read else { return Ok(None) };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(httparse::Error::Status)?;
    let (version, said) = (version(parsed.version), said(parsed.headers));
    let framing = said.of_answer(method, status, version)?;
    let keeps_alive = said.keeps_alive(version) && !said.is_ambiguous() && framing != Framing::ToClose;
    let (settle, places) = (said.says_too_much(), Places::of(bytes, parsed.headers)?);
    Ok(Some((ReadAnswer { status, version, framing, keeps_alive, settle, places }, length)))
}

/// The fields, of which one frames the message, or none.
fn settled(listed: Listed, framing: Framing, says_too_much: bool) -> Fields {
    let mut fields = Fields::Came(listed);
    if says_too_much {
        settle(framing, fields.map_mut());
    }
    fields
}

/// Reads the fields after the last chunk.
pub fn trailers(section: &Bytes) -> Result<HeaderMap, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(section, &mut fields)? {
        // It ends at its first empty line, however that is written.
        httparse::Status::Complete((length, fields)) if length == section.len() => fields_of(section, fields),
        httparse::Status::Complete(_) => Err(BadHead::Syntax("an empty line of its trailers does not end as it must")),
        httparse::Status::Partial => Err(BadHead::Syntax("its trailers do not end")),
    }
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 }
}

fn said<'a>(parsed: &[httparse::Header<'a>]) -> Said<'a> {
    Said::of(parsed.iter().map(|field| (field.name.as_bytes(), field.value)))
}

fn fields_of(section: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<HeaderMap, BadHead> {
    Ok(Fields::Came(Places::of(section, parsed)?.in_head(section.clone())).into_map())
}

/// Writes a request's first line.
pub fn write_request_line(outbox: &mut BytesMut, method: &Method, target: &str) {
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        outbox.extend_from_slice(part.as_bytes());
    }
}

/// Writes a request's fields, but for those that frame it: they are the caller's. Tells whether they announced content.
pub fn write_request_fields(outbox: &mut BytesMut, fields: &Fields) -> bool {
    let mut announced = false;
    fields.each_line(|name, value, line| {
        if name.len() == 14 && name.eq_ignore_ascii_case(header::CONTENT_LENGTH.as_str().as_bytes()) {
            announced = true;
        } else {
            write_line(outbox, name, value, line);
        }
    });
    announced
}

/// What the fields of an answer said when they were written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// When it was made.
    pub date: bool,
    /// What becomes of the connection.
    pub connection: bool,
    /// That it is closed.
    pub closes: bool,
}

/// Writes an answer's first line and fields. Those that frame it are the caller's: a length is written only where it
/// `tells_length` of content that does not come with it.
pub fn write_answer(
    outbox: &mut BytesMut,
    version: Version,
    status: StatusCode,
    fields: &Fields,
    tells_length: bool,
) -> Written {
    outbox.reserve(256 + fields.count() * 48);
    let version: &[u8] = if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
    for part in [version, status.as_str().as_bytes(), b" ", reason(status), b"\r\n"] {
        outbox.extend_from_slice(part);
    }
    let mut written = Written::default();
    fields.each_line(|name, value, line| {
        let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        match name.len() {
            14 if is(header::CONTENT_LENGTH) && !tells_length => return,
            4 => written.date |= is(header::DATE),
            10 if is(header::CONNECTION) => {
                written.connection = true;
                written.closes |= has_token(value, "close");
            }
            _ => {}
        }
        write_line(outbox, name, value, line);
    });
    written
}

/// Writes fields, a line each.
pub fn write_fields(outbox: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        write_field(outbox, name.as_str(), value.as_bytes());
    }
}

/// Writes one field.
#[inline]
pub fn write_field(outbox: &mut BytesMut, name: &str, value: &[u8]) {
    write_line(outbox, name.as_bytes(), value, None);
}

/// Writes a field, whose line may be there already.
#[inline]
fn write_line(outbox: &mut BytesMut, name: &[u8], value: &[u8], line: Option<&[u8]>) {
    match line {
        Some(line) => outbox.extend_from_slice(line),
        None => {
            outbox.extend_from_slice(name);
            outbox.extend_from_slice(b": ");
            outbox.extend_from_slice(value);
            outbox.extend_from_slice(b"\r\n");
        }
    }
}

fn reason(status: StatusCode) -> &'static [u8] {
    status.canonical_reason().unwrap_or("Unknown").as_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(text: &str) -> Result<Option<RequestHead>, BadHead> {
        take_request(&mut BytesMut::from(text), &mut Seen::default(), 1000)
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_and_what_follows_stays() {
        let text = "\r\nPOST /a?b HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nX-Empty:\r\n\r\nhello";
        let (mut inbox, mut seen) = (BytesMut::new(), Seen::default());
        let head = text.bytes().find_map(|byte| {
            inbox.extend_from_slice(&[byte]);
            take_request(&mut inbox, &mut seen, 1000).unwrap()
        });
        let head = head.unwrap();
        assert_eq!((head.method, head.framing, head.keeps_alive), (Method::POST, Framing::Length(5), true));
        assert_eq!(head.uri.to_string(), "/a?b");
        assert_eq!(head.fields.into_map()["x-empty"], "");
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_none_is_refused_with_its_status() {
        let status = |text: &str| request(text).map(|_| ()).unwrap_err().status().as_u16();
        assert_eq!(status("GET / HTTP/1.1\r\nA : b\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 400);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(1000))), 431);
        assert_eq!(status(&"a".repeat(1001)), 431);
        let many = "a: b\r\n".repeat(MAX_FIELDS + 1);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{many}\r\n")), 431);
    }

    #[test]
    fn a_connection_goes_on_if_both_ends_know_how() {
        let keeps = |text: &str| request(text).unwrap().unwrap().keeps_alive;
        assert!(keeps("GET / HTTP/1.1\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: a, Close\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn what_is_wrong_is_told_once_the_head_is_there_however_it_was_cut() {
        // The first was found by fuzzing.
        for start in [&b"1%\xe9"[..], b"GET / HTTP/1.1\r\nA : b\r\n"] {
            let whole = take_request(&mut BytesMut::from(start), &mut Seen::default(), 1000);
            assert!(matches!(whole, Ok(None)), "it has not ended");
            let ended = [start, b"\r\n\r\n"].concat();
            assert!(take_request(&mut BytesMut::from(&ended[..]), &mut Seen::default(), 1000).is_err());
        }
    }

    proptest! {
        #[test]
        fn however_it_comes_it_is_read_alike(bytes: Vec<u8>, cuts: Vec<u8>) {
            let all = [b"GET / HTTP/1.1\r\n", bytes.as_slice(), b"\r\n\r\n"].concat();
            let whole = take_request(&mut BytesMut::from(&all[..]), &mut Seen::default(), 1000);
            let (mut inbox, mut seen, mut left) = (BytesMut::new(), Seen::default(), &all[..]);
            let mut cuts = cuts.into_iter().chain(std::iter::repeat(1));
            let piecewise = loop {
                let (piece, rest) = left.split_at(usize::from(cuts.next().unwrap()).min(left.len()));
                left = rest;
                inbox.extend_from_slice(piece);
                match take_request(&mut inbox, &mut seen, 1000) {
                    Ok(None) if !left.is_empty() => {}
                    end => break end,
                }
            };
            let headers = |read: Result<Option<RequestHead>, BadHead>| read.map(|head| head.map(|head| head.fields.into_map()));
            prop_assert_eq!(headers(whole), headers(piecewise));
        }
    }
}
