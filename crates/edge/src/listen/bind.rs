//! Opening listening sockets.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpSocket};

use super::{Sockets, holder};
use crate::EdgeError;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// Listens on an address, by an inherited socket if there is one. `flag` is the option by which the user chose it.
pub fn bind(sockets: &Sockets, address: SocketAddr, flag: &'static str) -> Result<Arc<TcpListener>, EdgeError> {
    let listener = sockets.take_tcp(address).unwrap_or_else(|| listen(address));
    listener.map(|listener| sockets.in_use(listener)).map_err(|source| match source.kind() {
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
