//! The few messages of the kernel's routing socket (rtnetlink) that a guest needs.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// The gateway is reached directly, whatever its address (`RTNH_F_ONLINK`).
const ON_LINK: u32 = 4;

/// A socket for requests to the kernel.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkRoute);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sets an interface's largest packet, unless `mtu` is 0, and brings it up.
    pub fn bring_up(&self, index: u32, mtu: u32) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0);
        request.bytes(&[0, 0, 0, 0]).u32(index).u32(libc::IFF_UP as u32).u32(libc::IFF_UP as u32);
        if mtu != 0 {
            request.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.ask(request)
    }

    /// Gives an interface that is down another hardware address.
    pub fn set_hardware_address(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, 0);
        request.bytes(&[0, 0, 0, 0]).u32(index).u32(0).u32(0).attribute(libc::IFLA_ADDRESS, &mac);
        self.ask(request)
    }

    /// Gives an interface an address, usable at once (no duplicate address detection).
    pub fn add_address(&self, index: u32, ip: IpAddr, prefix: u8) -> io::Result<()> {
        let create = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(libc::RTM_NEWADDR, create);
        request.bytes(&[family(ip), prefix, libc::IFA_F_NODAD as u8, libc::RT_SCOPE_UNIVERSE]).u32(index);
        request.attribute(libc::IFA_LOCAL, &octets(ip)).attribute(libc::IFA_ADDRESS, &octets(ip));
        self.ask(request)
    }

    /// Sends packets for elsewhere to `gateway`, which is reached directly, whatever its address.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let create = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(libc::RTM_NEWROUTE, create);
        let (table, protocol, kind) = (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RTN_UNICAST);
        request.bytes(&[family(gateway), 0, 0, 0, table, protocol, libc::RT_SCOPE_UNIVERSE, kind]).u32(ON_LINK);
        request.attribute(libc::RTA_GATEWAY, &octets(gateway)).attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.ask(request)
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        send(self.0.as_raw_fd(), &request.finish(), MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        parse_answer(&answer[..length])
    }
}

/// The kernel's answer: a header, then an error number, 0 for success.
fn parse_answer(answer: &[u8]) -> io::Result<()> {
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match number {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

fn family(ip: IpAddr) -> u8 {
    (if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A request under construction: `length: u32 │ type: u16 │ flags: u16 │ sequence: u32 │ port: u32`, then a fixed
/// part, then attributes of `length: u16 │ type: u16 │ value`, each padded to four bytes. Native byte order.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: i32) -> Self {
        let mut request = Self(vec![0; 4]);
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        request.bytes(&kind.to_ne_bytes()).bytes(&flags.to_ne_bytes()).u32(1).u32(0);
        request
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_ne_bytes())
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (4 + value.len()) as u16;
        self.bytes(&length.to_ne_bytes()).bytes(&kind.to_ne_bytes()).bytes(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_and_pads_as_the_kernel_reads_it() {
        let mut request = Request::new(libc::RTM_NEWLINK, 0);
        request.attribute(libc::IFLA_MTU, &[1, 2, 3]);
        let bytes = request.finish();
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..4], 24u32.to_ne_bytes());
        assert_eq!(bytes[16..18], 7u16.to_ne_bytes());
        assert_eq!(bytes[20..], [1, 2, 3, 0]);
    }

    #[test]
    fn an_answer_is_success_or_an_error_number() {
        let answer = |number: i32| [vec![0; 16], number.to_ne_bytes().to_vec()].concat();
        assert!(parse_answer(&answer(0)).is_ok());
        assert_eq!(parse_answer(&answer(-libc::EEXIST)).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert!(parse_answer(&[0; 18]).is_err());
    }
}
