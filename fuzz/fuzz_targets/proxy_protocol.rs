//! The first bytes of a connection, which may be a PROXY protocol header: reading them does not panic, a header is
//! never longer than the bytes, needs no more than its own, and is read again from what is written of it.
#![no_main]

use edge::proxy_protocol::{Beginning, Header, MAX_HEADER, read, write};
use libfuzzer_sys::fuzz_target;
use model::machine::ProxyProtoVersion;

fuzz_target!(|data: &[u8]| {
    let Ok(Beginning::Header(header, length)) = read(data) else { return };
    assert!(length <= data.len() && length <= MAX_HEADER);
    assert_eq!(read(&data[..length]), Ok(Beginning::Header(header.clone(), length)));
    assert_eq!(read(&data[..length - 1]), Ok(Beginning::Incomplete));
    let again = write(&header, ProxyProtoVersion::V2);
    let Ok(Beginning::Header(Header { route, .. }, whole)) = read(&again) else { panic!("{again:?}") };
    assert_eq!((route.is_some(), whole), (header.route.is_some(), again.len()));
});
