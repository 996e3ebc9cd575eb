//! The fields that the edge takes away and adds.
//!
//! On the way in, fields that belong to one connection only are dropped (RFC 9110, 7.6.1), and every field by which the
//! platform speaks to an app is set by the platform alone, also where a client spells it with underscores, which many
//! app servers cannot tell from dashes.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};

use super::{Client, host::Host, request_id::RequestId};

/// Where the client's address is told to the app.
const FLY_CLIENT_IP: HeaderName = HeaderName::from_static("fly-client-ip");
const FLY_FORWARDED_PORT: HeaderName = HeaderName::from_static("fly-forwarded-port");
const FLY_REGION: HeaderName = HeaderName::from_static("fly-region");
pub const FLY_REQUEST_ID: HeaderName = HeaderName::from_static("fly-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");

/// Fields that only the platform may set. A client's are dropped.
const OURS: [&str; 14] = [
    "fly-client-ip",
    "fly-forwarded-port",
    "fly-region",
    "fly-request-id",
    "fly-replay-src",
    "fly-replay-failed",
    "fly-replay-cache-status",
    "fly-preferred-instance-unavailable",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-ssl",
    "x-real-ip",
];

/// Makes a client's fields those that a machine gets, with the Host field always there.
pub fn to_machine(
    headers: &mut HeaderMap,
    version: Version,
    client: &Client,
    host: &Host,
    id: &RequestId,
    region: &str,
) {
    drop_hop_by_hop(headers);
    drop_forgeries(headers);
    join_cookies(headers);
    let text = |text: &str| HeaderValue::from_str(text).expect("addresses, numbers and names are field values");
    headers.insert(header::HOST, text(&host.authority));
    headers.insert(FLY_CLIENT_IP, text(&client.ip().to_string()));
    headers.insert(FLY_REQUEST_ID, id.value());
    headers.insert(FLY_REGION, text(region));
    let port = HeaderValue::from(client.local.port());
    headers.insert(FLY_FORWARDED_PORT, port.clone());
    headers.insert(X_FORWARDED_PORT, port);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if client.is_secure() { "https" } else { "http" }));
    headers.insert(X_FORWARDED_SSL, HeaderValue::from_static(if client.is_secure() { "on" } else { "off" }));
    append(headers, X_FORWARDED_FOR, &format!("{}, {}", client.ip(), client.local.ip().to_canonical()));
    append(headers, header::VIA, via(version));
}

/// Makes a machine's fields those that the client gets.
pub fn to_client(headers: &mut HeaderMap, version: Version) {
    drop_hop_by_hop(headers);
    append(headers, header::VIA, via(version));
}

/// What every answer carries, whoever made it.
pub fn sign(headers: &mut HeaderMap, id: &RequestId) {
    headers.insert(header::SERVER, HeaderValue::from_static("Dunlin"));
    headers.insert(FLY_REQUEST_ID, id.value());
}

/// Who passed the message on, and in which version he got it (RFC 9110, 7.6.3).
fn via(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2 dunlin",
        Version::HTTP_10 => "1.0 dunlin",
        _ => "1.1 dunlin",
    }
}

/// Adds to a list that may stand in several lines already; afterwards it stands in one.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let mut list: Vec<u8> = Vec::new();
    for before in headers.get_all(&name) {
        list.extend_from_slice(before.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(value.as_bytes());
    let list = HeaderValue::from_bytes(&list).expect("field values joined by a comma are a field value");
    headers.insert(name, list);
}

/// Drops what belongs to one connection, and what the Connection field says does. `TE: trailers` stays: it is true of
/// us too, and gRPC asks for it.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = headers.get_all(header::TE).iter().any(|te| has_token(te, "trailers"));
    if let Entry::Occupied(connection) = headers.entry(header::CONNECTION) {
        let (_, listed) = connection.remove_entry_mult();
        let listed: Vec<HeaderValue> = listed.collect();
        let names = listed.iter().flat_map(tokens).filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok());
        for name in names.filter(|name| !is_end_to_end(name)) {
            headers.remove(name);
        }
    }
    for name in [header::TE, header::TRANSFER_ENCODING, header::UPGRADE, header::PROXY_AUTHENTICATE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Fields that a Connection field cannot take away: framing and routing are not the client's to remove.
fn is_end_to_end(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::HOST, header::CONTENT_TYPE, header::COOKIE, header::AUTHORIZATION].contains(name)
}

fn drop_forgeries(headers: &mut HeaderMap) {
    let forged = |name: &str| {
        let dashed = name.replace('_', "-");
        OURS.contains(&dashed.as_str()) || (dashed != name && dashed == "x-forwarded-for")
    };
    let forgeries: Vec<HeaderName> = headers.keys().filter(|name| forged(name.as_str())).cloned().collect();
    for name in forgeries {
        headers.remove(name);
    }
}

/// HTTP/2 may send a cookie list in pieces; HTTP/1.1 wants one line (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1 {
        let joined = HeaderValue::from_bytes(&pieces.join(&b"; "[..]));
        headers.insert(header::COOKIE, joined.expect("field values joined by a semicolon are a field value"));
    }
}

/// Whether a list has this token, in any case.
pub fn has_token(list: &HeaderValue, token: &str) -> bool {
    tokens(list).any(|it| it.eq_ignore_ascii_case(token))
}

fn tokens(list: &HeaderValue) -> impl Iterator<Item = &str> {
    list.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}
