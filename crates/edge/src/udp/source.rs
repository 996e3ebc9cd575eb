//! The socket of a flow: under which address its machine sees it.
//!
//! The client's own, where the host brings the answers back (`IP_TRANSPARENT`, ip(7)): machines are dialed by IPv4, so
//! clients of IPv6 come from the host's address, and so do those of this host itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::context::Context;

/// Whether nobody can be answered at an address, or must not be: machines come from elsewhere, so that is a lie.
pub fn is_forged(context: &Context, client: SocketAddr) -> bool {
    client.port() == 0 || context.keeps_sources.get().is_some_and(|machines| machines.has(client.ip().to_canonical()))
}

/// A socket to a machine, under the client's address where this host brings the answers back.
pub fn socket_towards(context: &Context, machine: SocketAddr, client: SocketAddr) -> io::Result<UdpSocket> {
    match context.keeps_sources.get() {
        Some(_) => kept(machine, client).unwrap_or_else(|| own(machine)),
        None => own(machine),
    }
}

/// A socket of the host's own that only this machine's answers reach.
fn own(machine: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new()?;
    socket.connect(&machine.into())?;
    UdpSocket::from_std(socket.into())
}

/// The same under the client's address; nothing where that cannot be.
fn kept(machine: SocketAddr, client: SocketAddr) -> Option<io::Result<UdpSocket>> {
    let IpAddr::V4(ip) = client.ip().to_canonical() else { return None };
    if !may_be_elsewhere(ip) || is_ours(ip) {
        return None;
    }
    let bound = new().and_then(|socket| {
        socket.set_ip_transparent_v4(true)?;
        // One client may have flows at several public ports.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(ip.into(), client.port()).into())?;
        socket.connect(&machine.into())?;
        UdpSocket::from_std(socket.into())
    });
    Some(bound)
}

fn new() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))
}

/// Whether it is the address of a host at all, and reached by more than one link.
fn may_be_elsewhere(ip: Ipv4Addr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast())
}

/// Whether it is an address of this host: then the client's own socket has it.
fn is_ours(ip: Ipv4Addr) -> bool {
    new().is_ok_and(|socket| socket.bind(&SocketAddr::new(ip.into(), 0).into()).is_ok())
}
