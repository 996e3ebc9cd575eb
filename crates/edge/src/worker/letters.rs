//! How datagrams are written into the connection between two hosts: those of all clients and all machines, one after the
//! other.
//!
//! ```text
//!  edge ══ flow 7 begins: from 192.0.2.1:4000 to port 53 of a machine │ flow 7: "ping" │ flow 9: … │ flow 7 ends ══▶ worker
//!       ◀═ flow 7: "pong" │ flow 9 ends ══════════════════════════════════════════════════════════════════════════
//!
//!  flow (32 bits)   what (8)   length (16)   then `length` bytes
//!  of a beginning:  client (128 + 16)   port (16)   length of the machine's name (8)   machine   app
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use model::{AppName, MachineId};
use thiserror::Error;

/// The length of what stands before the bytes.
const HEAD: usize = 7;
const DATAGRAM: u8 = 0;
const BEGIN: u8 = 1;
const END: u8 = 2;
/// What stands before the names of a beginning.
const ENDS: usize = 21;

/// What is said of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letter {
    /// It begins.
    Begin(Begin),
    /// A datagram passes.
    Datagram(Bytes),
    /// It is over.
    End,
}

/// Between whom a flow is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The client.
    pub client: SocketAddr,
    /// The port of the machine; datagrams keep their port.
    pub port: u16,
    /// The machine.
    pub machine: MachineId,
    /// Its app.
    pub app: AppName,
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
        (BEGIN, _) => Letter::Begin(begin(bytes).ok_or(BadLetter)?),
        (END, 0) => Letter::End,
        _ => return Err(BadLetter),
    };
    Ok(Some((u32::from_be_bytes([a, b, c, d]), letter)))
}

/// Writes that a flow begins.
pub fn write_begin(out: &mut BytesMut, flow: u32, begin: &Begin) {
    let ip = match begin.client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let (machine, app) = (begin.machine.as_str(), begin.app.as_str());
    let short = |length: usize| u16::try_from(length).expect("names are short");
    write_head(out, flow, BEGIN, short(ENDS + machine.len() + app.len()));
    out.extend_from_slice(&ip.octets());
    out.put_u16(begin.client.port());
    out.put_u16(begin.port);
    out.put_u8(u8::try_from(machine.len()).expect("names are short"));
    out.extend_from_slice(machine.as_bytes());
    out.extend_from_slice(app.as_bytes());
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

fn begin(mut bytes: Bytes) -> Option<Begin> {
    let ip = Ipv6Addr::from(bytes.try_get_u128().ok()?);
    let client = SocketAddr::new(IpAddr::V6(ip).to_canonical(), bytes.try_get_u16().ok()?);
    let (port, machine) = (bytes.try_get_u16().ok()?, bytes.try_get_u8().ok()?);
    let (machine, app) = bytes.split_at_checked(usize::from(machine))?;
    let text = |name| std::str::from_utf8(name).ok();
    Some(Begin { client, port, machine: text(machine)?.parse().ok()?, app: text(app)?.parse().ok()? })
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
            any::<(SocketAddr, u16, [u8; 7])>().prop_map(|(client, port, machine)| {
                let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                let (machine, app) = (MachineId::from_random(machine), "shop".parse().unwrap());
                Letter::Begin(Begin { client, port, machine, app })
            }),
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
                    Letter::Begin(begin) => write_begin(&mut out, *flow, begin),
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
