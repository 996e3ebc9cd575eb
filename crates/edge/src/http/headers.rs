//! The fields that the edge takes away and adds.
//!
//! On the way in, fields that belong to one connection only are dropped (RFC 9110, 7.6.1), and every field by which the
//! platform speaks to an app is set by the platform alone, also where a client spells it with underscores, which many
//! app servers cannot tell from dashes.

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};

use super::{Client, host::Host, request_id::RequestId};
use crate::{
    account::{TRACEPARENT, Trace},
    http1::{Fields, Listed, write_field},
};

/// Where the client's address is told to the app.
const FLY_CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_FORWARDED_PORT: HeaderName = HeaderName::from_static("fly-forwarded-port");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
/// The name of this server in answers.
pub const SERVER: &str = "Dunlin";
/// The name of a request, in what a machine and the client get.
pub const FLY_REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");

/// Fields beside `fly-*` and `dunlin-*` that only the platform may set: each tells an app where a request came from. A
/// client's are dropped, so that those that are there are true.
const OURS: [&str; 11] = [
    "forwarded",
    "front-end-https",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
    "x-url-scheme",
];

/// Nobody but the message's own framing says where it ends; a server that cannot tell `Content_Length` from `Content-Length`
/// would read another message.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// By these a client may say which machine it wants.
const CLIENTS: [&str; 5] = [
    "fly-force-instance-id",
    "fly-force-region",
    "fly-prefer-instance-id",
    "fly-prefer-region",
    "fly-replay-cache-control",
];

/// What an app says to the platform about remembering its orders.
const REPLAY_CACHE: [&str; 3] = ["fly-replay-cache", "fly-replay-cache-ttl-secs", "fly-replay-cache-allow-bypass"];

/// Fields that frame, route or authorize a message: after its content they would come too late to be true (RFC 9110,
/// 6.5.1).
const NEVER_TRAILERS: [&str; 16] = [
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "max-forwards",
    "range",
    "set-cookie",
    "trailer",
    "www-authenticate",
    "x-forwarded-for",
];

/// Makes a client's fields those that a machine gets, but for those that the platform says: in this request, which are
/// returned, and in all of its connection.
pub fn to_machine(
    fields: &mut Fields,
    version: Version,
    common: &ClientFields,
    host: &Host,
    (id, trace): (&RequestId, Trace),
) -> OwnFields {
    let mut said = OwnFields {
        host: host.field(),
        id: *id,
        trace,
        way: join(fields.all(&X_FORWARDED_FOR), &common.way),
        via: join(fields.all(&header::VIA), &HeaderValue::from_static(via(version))),
        reads_trailers: false,
    };
    join_cookies(fields);
    match fields {
        Fields::Came(listed) => {
            said.reads_trailers = listed.all(&header::TE).any(|list| has_token(list, "trailers"));
            drop_listed(listed, |name| is_forged(name) || is_one_of(name, &SAID_IN_EACH));
        }
        Fields::Map(headers) => {
            drop_hop_by_hop(headers, |name| is_forged(name.as_str().as_bytes()));
            SAID_IN_EACH.iter().for_each(|name| drop(headers.remove(*name)));
        }
    }
    said
}

/// The fields of [`OwnFields`] that are not forged if a client says them.
const SAID_IN_EACH: [&str; 4] = ["host", "traceparent", "via", "x-forwarded-for"];

/// What the platform says in one request.
#[derive(Debug, Clone)]
pub struct OwnFields {
    host: HeaderValue,
    id: RequestId,
    trace: Trace,
    /// Through whom the request came, the client's list before our own.
    way: HeaderValue,
    via: HeaderValue,
    /// The client reads trailers, and so do we; gRPC asks for it.
    reads_trailers: bool,
}

impl OwnFields {
    /// Says so among the other fields.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.insert(header::HOST, self.host.clone());
        headers.insert(FLY_REQUEST_ID, self.id.value());
        headers.insert(TRACEPARENT, self.trace.value());
        headers.insert(X_FORWARDED_FOR, self.way.clone());
        headers.insert(header::VIA, self.via.clone());
        if self.reads_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }

    /// Says so in lines of HTTP/1.1.
    pub fn write(&self, text: &mut BytesMut) {
        write_field(text, "host", self.host.as_bytes());
        write_field(text, FLY_REQUEST_ID.as_str(), self.id.as_str().as_bytes());
        write_field(text, TRACEPARENT.as_str(), self.trace.as_bytes());
        write_field(text, X_FORWARDED_FOR.as_str(), self.way.as_bytes());
        write_field(text, "via", self.via.as_bytes());
        if self.reads_trailers {
            write_field(text, "te", b"trailers");
        }
    }

    /// What it says by this name.
    pub fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        match *name {
            header::HOST => Some(self.host.as_bytes()),
            header::VIA => Some(self.via.as_bytes()),
            _ if *name == FLY_REQUEST_ID => Some(self.id.as_str().as_bytes()),
            _ if *name == TRACEPARENT => Some(self.trace.as_bytes()),
            _ if *name == X_FORWARDED_FOR => Some(self.way.as_bytes()),
            _ => None,
        }
    }
}

/// A list that may have been begun by others, in one line, with `ours` at its end.
fn join<'a>(before: impl Iterator<Item = &'a [u8]>, ours: &HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for value in before {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    if list.is_empty() {
        return ours.clone();
    }
    list.extend_from_slice(ours.as_bytes());
    HeaderValue::from_bytes(&list).expect("field values joined by a comma are a field value")
}

/// What the platform says in all requests of a connection. A client's own fields of these names are dropped.
#[derive(Debug)]
pub struct ClientFields {
    list: [(HeaderName, HeaderValue); 6],
    /// The same as lines of HTTP/1.1: most requests need them in no other way.
    lines: BytesMut,
    /// The client and where it came to, for a list that it may have begun.
    way: HeaderValue,
}

impl ClientFields {
    /// Those of this client, who came in here.
    pub fn of(client: &Client, region: &HeaderValue) -> Self {
        let (ip, local) = (client.ip(), client.local);
        let port = HeaderValue::from(local.port());
        let (scheme, ssl) = if client.is_secure() { ("https", "on") } else { ("http", "off") };
        let list = [
            (FLY_CLIENT_IP, text(&ip.to_string())),
            (FLY_REGION, region.clone()),
            (FLY_FORWARDED_PORT, port.clone()),
            (X_FORWARDED_PORT, port),
            (X_FORWARDED_PROTO, HeaderValue::from_static(scheme)),
            (X_FORWARDED_SSL, HeaderValue::from_static(ssl)),
        ];
        let mut lines = BytesMut::new();
        list.iter().for_each(|(name, value)| write_field(&mut lines, name.as_str(), value.as_bytes()));
        Self { list, lines, way: text(&format!("{ip}, {}", local.ip().to_canonical())) }
    }

    /// Says so among the other fields.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.extend(self.list.iter().cloned());
    }

    /// Says so in lines of their own.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("addresses, numbers and names are field values")
}

/// Makes a machine's fields those that the client gets.
pub fn to_client(fields: &mut Fields) {
    match fields {
        Fields::Came(listed) => drop_listed(listed, |name| is_one_of(name, &REPLAY_CACHE)),
        Fields::Map(headers) => {
            drop_hop_by_hop(headers, |name| REPLAY_CACHE.contains(&name.as_str()));
            headers.remove(header::TE);
        }
    }
}

/// Drops from a list what [`drop_hop_by_hop`] drops from a map, and `TE` in any case.
fn drop_listed(listed: &mut Listed, other: impl Fn(&[u8]) -> bool) {
    let named = listed.all(&header::CONNECTION).flat_map(tokens).filter(|token| {
        let is_end_to_end = || HeaderName::from_bytes(token).is_ok_and(|name| is_end_to_end(&name));
        !is_one_of(token, &["close"]) && !is_hop_by_hop(token) && !is_end_to_end()
    });
    // What the Connection field says beside is nothing, mostly.
    let named: Vec<Vec<u8>> = named.map(<[u8]>::to_vec).collect();
    listed.retain(|name| !is_hop_by_hop(name) && !other(name) && !named.iter().any(|it| it.eq_ignore_ascii_case(name)));
}

/// Whether a field belongs to one connection, also where the Connection field does not list it (RFC 9110, 7.6.1).
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        14 => is("http2-settings"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// Whether a name is one of these, in any case.
pub fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|it| it.as_bytes().eq_ignore_ascii_case(name))
}

/// Takes away what belongs to the connection that a message came by.
pub fn leave_connection(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers, |_| false);
}

/// Takes away from a list of fields what the platform says in its place. Tells whether it can stand beside them: where
/// somebody else has passed the message on, or says where else the app is, only a map can hold what both say.
pub fn leave_room(fields: &mut Fields) -> bool {
    let Fields::Came(listed) = fields else { return false };
    if [header::VIA, header::ALT_SVC].iter().any(|name| listed.all(name).next().is_some()) {
        return false;
    }
    listed.retain(|name| !is_one_of(name, &["server", "fly-request-id"]));
    true
}

/// Makes a client's trailers those that a machine gets, and a machine's those that the client gets: some servers mix
/// them with the header, so what must not be forged there must not be forged here.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    drop_hop_by_hop(trailers, |name| is_forged(name.as_str().as_bytes()) || NEVER_TRAILERS.contains(&name.as_str()));
    trailers.remove(header::TE);
}

/// Says that the answer came through us, and in which version of HTTP the machine gave it.
pub fn pass_on(headers: &mut HeaderMap, version: Version) {
    let before = headers.get_all(header::VIA).iter().map(HeaderValue::as_bytes);
    let list = join(before, &HeaderValue::from_static(via(version)));
    headers.insert(header::VIA, list);
}

/// What every answer carries, whoever made it.
pub fn sign(headers: &mut HeaderMap, id: &RequestId) {
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    headers.insert(FLY_REQUEST_ID, id.value());
}

/// Who passed the message on, and in which version he got it (RFC 9110, 7.6.3).
pub fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_3 => "3 dunlin",
        Version::HTTP_2 => "2 dunlin",
        Version::HTTP_10 => "1.0 dunlin",
        _ => "1.1 dunlin",
    }
}

/// Drops what belongs to one connection, what the Connection field says does, and what `other` says. `TE: trailers`
/// stays: it is true of us too, and gRPC asks for it. The names that are there are walked through once: there are fewer
/// of them than of those that could be.
fn drop_hop_by_hop(headers: &mut HeaderMap, other: impl Fn(&HeaderName) -> bool) {
    let goes = |name: &&HeaderName| is_hop_by_hop(name.as_str().as_bytes()) || other(name);
    let names: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    if names.is_empty() {
        return;
    }
    let trailers = headers.get_all(header::TE).iter().any(|te| has_token(te, "trailers"));
    for name in names {
        let Entry::Occupied(field) = headers.entry(&name) else { continue };
        let (_, values) = field.remove_entry_mult();
        if name == header::CONNECTION {
            let lists: Vec<HeaderValue> = values.collect();
            let listed = lists
                .iter()
                .flat_map(|list| tokens(list.as_bytes()))
                .filter_map(|token| HeaderName::from_bytes(token).ok());
            for name in listed.filter(|name| !is_end_to_end(name)) {
                headers.remove(name);
            }
        }
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Fields that a Connection field cannot take away: framing and routing are not the client's to remove.
fn is_end_to_end(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::HOST, header::CONTENT_TYPE, header::COOKIE, header::AUTHORIZATION].contains(name)
}

/// Whether a field is one by which the platform speaks, so that nobody else may set it.
pub fn is_ours(name: &HeaderName) -> bool {
    is_forged(name.as_str().as_bytes())
}

/// Many app servers cannot tell `Fly_Client_IP` from `Fly-Client-IP`, and some take any sign for a dash, so a name is
/// looked at as they see it.
fn is_forged(name: &[u8]) -> bool {
    // Of the names that matter each begins with one of these letters.
    if !name.first().is_some_and(|letter| matches!(letter | 0x20, b'c' | b'd' | b'f' | b't' | b'x')) {
        return false;
    }
    if FRAMING.iter().any(|framing| reads_like(name, framing)) {
        return !is_one_of(name, &FRAMING);
    }
    let is_clients = CLIENTS.iter().any(|clients| reads_like(name, clients));
    let is_ours = || OURS.iter().any(|ours| reads_like(name, ours));
    if is_clients || reads_like(name, "x-forwarded-for") {
        return name.iter().any(|byte| !byte.is_ascii_alphanumeric() && *byte != b'-');
    }
    begins_like(name, "fly-") || begins_like(name, "dunlin-") || is_ours()
}

/// Whether a name is this one to whoever takes any sign for a dash.
fn reads_like(name: &[u8], other: &str) -> bool {
    name.len() == other.len() && begins_like(name, other)
}

fn begins_like(name: &[u8], other: &str) -> bool {
    name.len() >= other.len() && name.iter().zip(other.bytes()).all(|(byte, other)| dashed(*byte) == other)
}

fn dashed(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// HTTP/2 may send a cookie list in pieces; HTTP/1.1 wants one line (RFC 9113, 8.2.3).
fn join_cookies(fields: &mut Fields) {
    let pieces: Vec<&[u8]> = fields.all(&header::COOKIE).collect();
    if pieces.len() > 1 {
        let joined = HeaderValue::from_bytes(&pieces.join(&b"; "[..]));
        let joined = joined.expect("field values joined by a semicolon are a field value");
        fields.map_mut().insert(header::COOKIE, joined);
    }
}

/// Whether a list has this token, in any case.
pub fn has_token(list: impl AsRef<[u8]>, token: &str) -> bool {
    tokens(list.as_ref()).any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn a_name_is_forged_in_whatever_way_it_is_spelled() {
        for forged in
            ["fly-client-ip", "fly_client_ip", "fly.client.ip", "fly-anything", "x_forwarded_proto", "forwarded"]
        {
            assert!(is_forged(forged.as_bytes()) && is_forged(forged.to_ascii_uppercase().as_bytes()), "{forged}");
        }
        for forged in [
            "x_forwarded_for",
            "fly_prefer_region",
            "dunlin-error",
            "x-url_scheme",
            "content_length",
            "transfer_encoding",
        ] {
            assert!(is_forged(forged.as_bytes()) && is_forged(forged.to_ascii_uppercase().as_bytes()), "{forged}");
        }
        for allowed in ["x-forwarded-for", "content-length", "content_type", "traceparent", "x-request-id", "x_custom"]
        {
            assert!(!is_forged(allowed.as_bytes()) && !is_forged(allowed.to_ascii_uppercase().as_bytes()), "{allowed}");
        }
    }

    #[test]
    fn trailers_can_neither_forge_nor_frame() {
        let mut trailers = HeaderMap::new();
        for name in ["grpc-status", "fly-client-ip", "x-forwarded-for", "content-length", "transfer-encoding", "host"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-status"]);
    }

    #[test]
    fn what_belongs_to_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private, content-length"),
            ("connection", "te"),
            ("x-private", "1"),
            ("content-length", "5"),
            ("te", "gzip, trailers;q=0.5, trailers"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("trailer", "x-checksum"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        drop_hop_by_hop(&mut headers, |_| false);
        let mut left = names(&headers);
        left.sort_unstable();
        assert_eq!(left, ["content-length", "te", "trailer"]);
        assert_eq!(headers[header::TE], "trailers");
    }

    proptest! {
        #[test]
        fn nothing_that_reads_like_ours_is_left(name in "[xf][-_.a-z]{1,20}") {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("6.6.6.6"));
            drop_hop_by_hop(&mut headers, |name| is_forged(name.as_str().as_bytes()));
            let dashed = name.replace(['_', '.'], "-");
            if dashed.starts_with("fly-") && !CLIENTS.contains(&dashed.as_str()) {
                prop_assert!(headers.is_empty());
            }
        }
    }
}
