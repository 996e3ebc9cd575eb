//! What is a header, and what only looks like one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::machine::ProxyProtoVersion;
use proptest::prelude::*;

use super::*;

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn header() -> impl Strategy<Value = Header> {
    let route = (address(), address()).prop_map(|(source, destination)| Route { source, destination });
    (route, prop::option::of("[a-z0-9.-]{1,60}"))
        .prop_map(|(route, authority)| Header { route: Some(route), authority })
}

fn canonical(header: Header) -> Option<(SocketAddr, SocketAddr)> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    header.route.map(|route| (plain(route.source), plain(route.destination)))
}

fn v2(family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x21, family]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_nothing_after_it(header in header(), binary: bool, rest: Vec<u8>) {
        let version = if binary { ProxyProtoVersion::V2 } else { ProxyProtoVersion::V1 };
        let bytes = write(&header, version);
        let all = [bytes.as_slice(), &rest].concat();
        let Ok(Beginning::Header(found, length)) = read(&all) else { panic!("{all:?}") };
        prop_assert_eq!(length, bytes.len());
        if binary {
            prop_assert_eq!(&found.authority, &header.authority);
        }
        prop_assert_eq!(canonical(found), canonical(header));
        for short in 0..bytes.len() {
            prop_assert_eq!(read(&bytes[..short]), Ok(Beginning::Incomplete));
        }
    }

    #[test]
    fn a_bit_that_flips_in_a_binary_header_is_noticed(header in header(), at: prop::sample::Index, bit in 0..8_u8) {
        let mut bytes = write(&header, ProxyProtoVersion::V2);
        let at = at.index(bytes.len());
        // An extension of another kind is none that this reader knows: then there is no checksum.
        prop_assume!(at != bytes.len() - 7);
        bytes[at] ^= 1 << bit;
        // A command that became LOCAL says nothing of anybody; all else is an error, or no whole header.
        if let Ok(Beginning::Header(found, _)) = read(&bytes) {
            prop_assert_eq!(found, Header::default());
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic_and_a_header_is_never_longer_than_they_are(bytes: Vec<u8>, binary: bool) {
        let bytes = if binary { v2(bytes.first().copied().unwrap_or_default(), &bytes) } else { bytes };
        if let Ok(Beginning::Header(_, length)) = read(&bytes) {
            prop_assert!(length <= bytes.len());
        }
    }
}

#[test]
fn text_is_read_strictly() {
    let good = b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 443\r\n";
    let Ok(Beginning::Header(header, 45)) = read(good) else { panic!() };
    assert_eq!(header.route.unwrap().source, "192.0.2.1:40000".parse().unwrap());
    assert_eq!(read(b"PROXY UNKNOWN what ever\r\n"), Ok(Beginning::Header(Header::default(), 25)));
    for bad in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 0443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 443 \r\n",
        "PROXY TCP4 ::1 ::1 1 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXYTCP4 192.0.2.1 198.51.100.2 1 443\r\n",
        "PROXY\r\n",
    ] {
        assert!(read(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(read(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat()), Err(BadHeader::TooLong));
    assert_eq!(read(b"GET / HTTP/1.1\r\n"), Ok(Beginning::Other));
    assert_eq!(read(b"PR"), Ok(Beginning::Incomplete));
}

#[test]
fn a_binary_header_of_any_family_is_skipped_whole() {
    assert_eq!(read(&v2(0x00, b"")), Ok(Beginning::Header(Header::default(), 16)));
    assert_eq!(read(&v2(0x31, &[0; 216])), Ok(Beginning::Header(Header::default(), 232)));
    for (family, body) in [(0x11, &[0; 11][..]), (0x21, &[0; 35]), (0x41, &[0; 12]), (0x31, &[0; 36])] {
        assert_eq!(read(&v2(family, body)), Err(BadHeader::Addresses));
    }
    let unknown = [&[0; 12][..], &[0x7f, 0, 2, 1, 2]].concat();
    assert!(matches!(read(&v2(0x11, &unknown)), Ok(Beginning::Header(Header { route: Some(_), .. }, _))));
    for bad in [&[0x7f, 0, 2, 1][..], &[0x7f, 0], &[3, 0, 3, 1, 2, 3], &[2, 0, 0], &[2, 0, 1, 0xff]] {
        let body = [&[0; 12][..], bad].concat();
        assert_eq!(read(&v2(0x11, &body)), Err(BadHeader::Extensions), "{bad:?}");
    }
    let mut long = v2(0x11, &[0; 12]);
    long[14] = 0xff;
    assert_eq!(read(&long), Err(BadHeader::TooLong));
}
