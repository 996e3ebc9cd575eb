//! Reading a header. Strict: what the specification does not allow is refused, not guessed at.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use super::{
    AUTHORITY, BadHeader, Beginning, CRC32C, Header, MAX_HEADER, MAX_V1, Route, SIGNATURE, WORD, crc32c::crc32c,
};

/// What a connection begins with.
pub fn read(bytes: &[u8]) -> Result<Beginning, BadHeader> {
    if begins(bytes, &SIGNATURE) {
        return read_v2(bytes);
    }
    if begins(bytes, WORD) { read_v1(bytes) } else { Ok(Beginning::Other) }
}

/// Whether bytes begin with a text, as far as there are any.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let both = bytes.len().min(with.len());
    bytes[..both] == with[..both]
}

fn read_v1(bytes: &[u8]) -> Result<Beginning, BadHeader> {
    let line = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_V1 { Ok(Beginning::Incomplete) } else { Err(BadHeader::TooLong) };
    };
    let text = std::str::from_utf8(&line[..end]).map_err(|_| BadHeader::Addresses)?;
    let words: Vec<&str> = text.split(' ').collect();
    let route = match words.as_slice() {
        // What follows this word has no meaning.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", rest @ ..] => Some(route_v1::<Ipv4Addr>(rest)?),
        ["PROXY", "TCP6", rest @ ..] => Some(route_v1::<Ipv6Addr>(rest)?),
        _ => return Err(BadHeader::Unknown),
    };
    Ok(Beginning::Header(Header { route, authority: None }, end + 2))
}

fn route_v1<A: FromStr + Into<IpAddr>>(words: &[&str]) -> Result<Route, BadHeader> {
    let [source, destination, source_port, destination_port] = words else { return Err(BadHeader::Addresses) };
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| BadHeader::Addresses);
    Ok(Route {
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    })
}

/// A decimal number without sign and leading zeros.
fn port(text: &str) -> Result<u16, BadHeader> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(BadHeader::Addresses)
}

fn read_v2(bytes: &[u8]) -> Result<Beginning, BadHeader> {
    let Some((start, rest)) = bytes.split_first_chunk::<16>() else { return Ok(Beginning::Incomplete) };
    let (version_and_command, family) = (start[12], start[13]);
    let length = usize::from(u16::from_be_bytes([start[14], start[15]]));
    if start.len() + length > MAX_HEADER {
        return Err(BadHeader::TooLong);
    }
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader::Unknown),
    };
    let Some(body) = rest.get(..length) else { return Ok(Beginning::Incomplete) };
    let mut header = Header::default();
    if !is_local {
        let (route, extensions) = route_v2(family, body)?;
        header = Header { route, authority: authority(start, body, extensions)? };
    }
    Ok(Beginning::Header(header, start.len() + length))
}

/// The addresses of a header in binary, and what follows them.
fn route_v2(family: u8, body: &[u8]) -> Result<(Option<Route>, &[u8]), BadHeader> {
    let cut = |length: usize| body.split_at_checked(length).ok_or(BadHeader::Addresses);
    match family {
        // Only what came over TCP or UDP has addresses that mean something here.
        0x00 => Ok((None, body)),
        0x11 | 0x12 => cut(12).map(|(addresses, rest)| (Some(route_of::<4>(addresses)), rest)),
        0x21 | 0x22 => cut(36).map(|(addresses, rest)| (Some(route_of::<16>(addresses)), rest)),
        0x31 | 0x32 => cut(216).map(|(_, rest)| (None, rest)),
        _ => Err(BadHeader::Addresses),
    }
}

fn route_of<const N: usize>(bytes: &[u8]) -> Route
where
    [u8; N]: Into<IpAddr>,
{
    let address = |at: usize| <[u8; N]>::try_from(&bytes[at..at + N]).expect("it is cut to length").into();
    let port = |at: usize| u16::from_be_bytes([bytes[2 * N + at], bytes[2 * N + at + 1]]);
    Route { source: SocketAddr::new(address(0), port(0)), destination: SocketAddr::new(address(N), port(2)) }
}

/// The host that the extensions name. Checks the checksum, if there is one; skips what is unknown.
fn authority(start: &[u8], body: &[u8], extensions: &[u8]) -> Result<Option<String>, BadHeader> {
    let (mut authority, mut checked, mut rest) = (None, false, extensions);
    while !rest.is_empty() {
        let (kind, value, after) = extension(rest).ok_or(BadHeader::Extensions)?;
        match kind {
            CRC32C if checked || value.len() != 4 => return Err(BadHeader::Extensions),
            CRC32C => {
                let at = body.len() - after.len() - 4;
                let told = u32::from_be_bytes(value.try_into().expect("it is four bytes long"));
                if told != crc32c(&[start, &body[..at], &[0; 4], after]) {
                    return Err(BadHeader::Checksum);
                }
                checked = true;
            }
            AUTHORITY if authority.is_some() || value.is_empty() || value.len() > 255 => {
                return Err(BadHeader::Extensions);
            }
            AUTHORITY => {
                authority = Some(String::from_utf8(value.to_vec()).map_err(|_| BadHeader::Extensions)?);
            }
            _ => {}
        }
        rest = after;
    }
    Ok(authority)
}

/// The kind and the value of the first extension, and what follows it.
fn extension(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([kind, high, low], rest) = bytes.split_first_chunk::<3>()?;
    let (value, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
    Some((*kind, value, after))
}
