//! Sockets that listen, from `/proc/net` (proc_net(5)).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use guest::{ListenSocket, STATICS_PORT};

/// The most sockets that are told.
const MAX_SOCKETS: usize = 1024;

/// Protocol, file, and the state that means "listens": `TCP_LISTEN`; for UDP, bound and not connected.
const TABLES: [(&str, &str, &str); 4] =
    [("tcp", "tcp", "0A"), ("tcp", "tcp6", "0A"), ("udp", "udp", "07"), ("udp", "udp6", "07")];

/// All sockets that listen, by protocol and port; that of init's own file server left out.
pub fn list() -> Vec<ListenSocket> {
    let mut sockets: Vec<_> = TABLES
        .into_iter()
        .flat_map(|(protocol, file, state)| {
            let table = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
            table.lines().filter_map(|line| parse_line(line, protocol, state)).collect::<Vec<_>>()
        })
        .filter(|socket| socket.port != STATICS_PORT)
        .take(MAX_SOCKETS)
        .collect();
    sockets.sort_by_key(|socket| (socket.protocol.clone(), socket.port, socket.address));
    sockets
}

/// `0: 0100007F:1F90 00000000:0000 0A …`: index, local address, remote address, state.
fn parse_line(line: &str, protocol: &str, listens: &str) -> Option<ListenSocket> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != listens {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(ListenSocket { protocol: protocol.to_owned(), address: parse_address(address)?, port })
}

/// Words of 32 bits in hexadecimal digits, each a number in the processor's byte order.
fn parse_address(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = digits.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match digits.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for at in 0..4 {
                octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_socket_is_told_and_goes_with_its_listener() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                eprintln!("skipped: a_listening_socket_is_told_and_goes_with_its_listener: no {address}");
                continue;
            };
            let bound = listener.local_addr().unwrap();
            let told = || list().iter().any(|socket| (socket.address, socket.port) == (bound.ip(), bound.port()));
            assert!(told());
            drop(listener);
            assert!(!told());
        }
    }

    #[test]
    fn only_sockets_that_listen_count() {
        let line = |state: &str| format!(" 1: 00000000:1F90 00000000:0000 {state} 00000000:00000000");
        let socket = parse_line(&line("0A"), "tcp", "0A").unwrap();
        assert_eq!((socket.address, socket.port), (IpAddr::from([0, 0, 0, 0]), 8080));
        assert_eq!(parse_line(&line("01"), "tcp", "0A"), None);
        for bad in
            ["", "sl local_address rem_address st", " 1: 0:0 0 0A", " 1: ZZZZZZZZ:1F90 0 0A", " 1: ééééé:1F90 0 0A"]
        {
            assert_eq!(parse_line(bad, "tcp", "0A"), None, "{bad}");
        }
    }
}
