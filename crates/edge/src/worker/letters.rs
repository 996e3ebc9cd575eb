//! How datagrams are written into the connection between two hosts: those of all clients of one port of one machine, one
//! after the other.
//!
//! ```text
//!  edge ══ flow 7 begins: client 192.0.2.1:4000 │ flow 7: "ping" │ flow 9: … │ flow 7 ends ══▶ worker
//!       ◀═ flow 7: "pong" ═══════════════════════════════════════════════════════════════════
//!
//!  flow (32 bits)   what (8)   length (16)   then `length` bytes
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The length of what stands before the bytes.
const HEAD: usize = 7;
const DATAGRAM: u8 = 0;
const BEGIN: u8 = 1;
const END: u8 = 2;
/// An address and a port.
const CLIENT: usize = 18;

/// What is said of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letter {
    /// It begins: whose it is.
    Begin(SocketAddr),
    /// A datagram passes.
    Datagram(Bytes),
    /// It is over.
    End,
}

/// What is no letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("what it says of datagrams cannot be read")]
pub struct BadLetter;

/// Takes a letter from the beginning of `inbox`, once it is there: which flow it is about, and what it says.
pub fn take(inbox: &mut BytesMut) -> Result<Option<(u32, Letter)>, BadLetter> {
    let Some(head) = inbox.first_chunk::<HEAD>() else { return Ok(None) };
    let [a, b, c, d, what, high, low] = *head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if inbox.len() < HEAD + length {
        return Ok(None);
    }
    inbox.advance(HEAD);
    let bytes = inbox.split_to(length).freeze();
    let letter = match (what, length) {
        (DATAGRAM, _) => Letter::Datagram(bytes),
        (BEGIN, CLIENT) => Letter::Begin(client(bytes)),
        (END, 0) => Letter::End,
        _ => return Err(BadLetter),
    };
    Ok(Some((u32::from_be_bytes([a, b, c, d]), letter)))
}

/// Writes that a flow begins.
pub fn write_begin(out: &mut BytesMut, flow: u32, client: SocketAddr) {
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    write_head(out, flow, BEGIN, CLIENT as u16);
    out.extend_from_slice(&ip.octets());
    out.put_u16(client.port());
}

/// Writes a datagram; what is longer than any can be is cut.
pub fn write_datagram(out: &mut BytesMut, flow: u32, datagram: &[u8]) {
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    write_head(out, flow, DATAGRAM, length);
    out.extend_from_slice(&datagram[..usize::from(length)]);
}

/// Writes that a flow is over.
pub fn write_end(out: &mut BytesMut, flow: u32) {
    write_head(out, flow, END, 0);
}

fn write_head(out: &mut BytesMut, flow: u32, what: u8, length: u16) {
    out.put_u32(flow);
    out.put_u8(what);
    out.put_u16(length);
}

fn client(mut bytes: Bytes) -> SocketAddr {
    let ip = Ipv6Addr::from(bytes.get_u128());
    SocketAddr::new(IpAddr::V6(ip).to_canonical(), bytes.get_u16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8], cut: usize) -> Result<Vec<(u32, Letter)>, BadLetter> {
        let (mut inbox, mut letters) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(cut) {
            inbox.extend_from_slice(piece);
            while let Some(letter) = take(&mut inbox)? {
                letters.push(letter);
            }
        }
        Ok(letters)
    }

    fn letter() -> impl Strategy<Value = Letter> {
        prop_oneof![
            any::<SocketAddr>()
                .prop_map(|client| Letter::Begin(SocketAddr::new(client.ip().to_canonical(), client.port()))),
            prop::collection::vec(any::<u8>(), 0..100).prop_map(|bytes| Letter::Datagram(bytes.into())),
            Just(Letter::End),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_however_it_is_cut(
            letters in prop::collection::vec((any::<u32>(), letter()), 0..20),
            cut in 1usize..200,
        ) {
            let mut out = BytesMut::new();
            for (flow, letter) in &letters {
                match letter {
                    Letter::Begin(client) => write_begin(&mut out, *flow, *client),
                    Letter::Datagram(bytes) => write_datagram(&mut out, *flow, bytes),
                    Letter::End => write_end(&mut out, *flow),
                }
            }
            prop_assert_eq!(all(&out, cut), Ok(letters));
        }

        #[test]
        fn whatever_comes_is_read_in_one_way(bytes: Vec<u8>, cut in 1usize..20) {
            prop_assert_eq!(all(&bytes, cut), all(&bytes, bytes.len().max(1)));
        }
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        for bad in [&[0, 0, 0, 1, 3, 0, 0][..], &[0, 0, 0, 1, 2, 0, 1, 0], &[0, 0, 0, 1, 1, 0, 1, 0]] {
            assert_eq!(all(bad, 100), Err(BadLetter));
        }
    }
}
