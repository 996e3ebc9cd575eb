//! Writing a header.

use std::net::{IpAddr, SocketAddr};

use model::machine::ProxyProtoVersion;

use super::{AUTHORITY, CRC32C, Header, SIGNATURE, crc32c::crc32c};

/// The bytes of a header for a byte stream. The one in text has no room for more than addresses.
pub fn write(header: &Header, version: ProxyProtoVersion) -> Vec<u8> {
    match version {
        ProxyProtoVersion::V1 => write_v1(header),
        ProxyProtoVersion::V2 => write_v2(header),
    }
}

fn write_v1(header: &Header) -> Vec<u8> {
    let Some(route) = &header.route else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (source, destination) = alike(route.source, route.destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
}

fn write_v2(header: &Header) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let (command, family, body) = match &header.route {
        None => (0x20, 0x00, Vec::new()),
        Some(route) => {
            let (source, destination) = alike(route.source, route.destination);
            (0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, body(source, destination, header.authority.as_deref()))
        }
    };
    bytes.extend([command, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(&body);
    if !body.is_empty() {
        // The checksum comes last, and counts as zero while it is taken.
        let sum = crc32c(&[&bytes]);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn body(source: SocketAddr, destination: SocketAddr, authority: Option<&str>) -> Vec<u8> {
    let mut body = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(v4) => body.extend(v4.octets()),
            IpAddr::V6(v6) => body.extend(v6.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    if let Some(authority) = authority.filter(|it| (1..=255).contains(&it.len())) {
        extend(&mut body, AUTHORITY, authority.as_bytes());
    }
    extend(&mut body, CRC32C, &[0; 4]);
    body
}

fn extend(body: &mut Vec<u8>, kind: u8, value: &[u8]) {
    body.push(kind);
    body.extend((value.len() as u16).to_be_bytes());
    body.extend(value);
}

/// Two addresses of one family: of IPv4 if both are, of IPv6 otherwise.
fn alike(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let (one, other) = (plain(one), plain(other));
    if one.is_ipv4() == other.is_ipv4() { (one, other) } else { (wide(one), wide(other)) }
}
