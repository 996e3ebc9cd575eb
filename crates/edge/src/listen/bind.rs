//! Opening listening sockets.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use super::holder;
use crate::EdgeError;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Listens on an address. `flag` is the option by which the user chose it.
pub fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, EdgeError> {
    listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => EdgeError::PortTaken { address, holder: holder::of(address), flag },
        _ => EdgeError::Listen { address, flag, source },
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // An IPv4 address beside it is given by itself: the two do not take each other's port.
        socket2::SockRef::from(&socket).set_only_v6(true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
