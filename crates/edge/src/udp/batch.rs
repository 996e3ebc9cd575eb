//! Datagrams, many at a time: recvmmsg(2) and sendmmsg(2).

use std::{
    cell::RefCell,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use nix::libc;
use socket2::{SockAddr, SockAddrStorage, Socket};

/// How many are received at a time.
const MANY: usize = 32;
/// No datagram is longer. Memory that no datagram has reached is not taken from the system.
const LONGEST: usize = 1 << 16;
/// Room for what the system says beside a datagram: the address it was sent to.
const CONTROL: usize = 64;

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::new(Batch::new());
}

/// Runs with this thread's batch. What is in it is there only until then.
pub fn with_batch<T>(run: impl FnOnce(&mut Batch) -> T) -> T {
    BATCH.with_borrow_mut(run)
}

/// Datagrams that were received together.
pub struct Batch {
    bytes: Box<[u8]>,
    arrived: Vec<Arrived>,
}

/// What is known of a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Arrived {
    /// How long it is.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address of ours that it was sent to, if the socket tells it.
    pub to: Option<IpAddr>,
}

/// Control data has to lie as its header does.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

impl Batch {
    fn new() -> Self {
        Self { bytes: vec![0; MANY * LONGEST].into(), arrived: Vec::with_capacity(MANY) }
    }

    /// The datagrams.
    pub fn arrived(&self) -> &[Arrived] {
        &self.arrived
    }

    /// Shows each datagram.
    pub fn each(&self, mut see: impl FnMut(&[u8])) {
        (0..self.arrived.len()).for_each(|place| see(self.at(place)));
    }

    /// What a datagram says.
    pub fn at(&self, place: usize) -> &[u8] {
        &self.bytes[place * LONGEST..][..self.arrived[place].length]
    }

    /// Holds a datagram that came another way, and nothing else.
    pub fn hold(&mut self, datagram: &[u8]) {
        self.bytes[..datagram.len()].copy_from_slice(datagram);
        let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        self.arrived.clear();
        self.arrived.push(Arrived { length: datagram.len(), from: nobody, to: None });
    }

    /// What an operation on a socket that is waited for says after a batch: a batch that is not full was the last one,
    /// so that the system need not be asked for another.
    pub fn end(&self) -> io::Result<()> {
        if self.arrived.len() < MANY { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    /// Receives those that are there, some at the least; `WouldBlock` if there are none.
    pub fn receive(&mut self, socket: &impl AsRawFd) -> io::Result<()> {
        self.arrived.clear();
        // SAFETY: all of these are plain data of C, for which zero is a value.
        let (mut headers, mut iovecs, mut names, mut controls): (
            [libc::mmsghdr; MANY],
            [libc::iovec; MANY],
            [SockAddrStorage; MANY],
            [Control; MANY],
        ) = unsafe {
            (mem::zeroed(), mem::zeroed(), std::array::from_fn(|_| SockAddrStorage::zeroed()), mem::zeroed())
        };
        for (place, bytes) in self.bytes.chunks_exact_mut(LONGEST).enumerate() {
            iovecs[place] = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: LONGEST };
            let header = &mut headers[place].msg_hdr;
            header.msg_name = (&raw mut names[place]).cast();
            header.msg_namelen = names[place].size_of();
            header.msg_iov = &raw mut iovecs[place];
            header.msg_iovlen = 1;
            header.msg_control = controls[place].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        // SAFETY: every header points to memory of the sizes it tells, which outlives the call and is nobody else's.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), MANY as u32, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, name) in headers[..received].iter().zip(names) {
            // SAFETY: the system wrote an address of this length there; without one (a connected socket) it is none.
            let from = unsafe { SockAddr::new(name, header.msg_hdr.msg_namelen) }.as_socket();
            let unknown = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
            // SAFETY: the system wrote the control data that the header points to, which still lives.
            let to = unsafe { destination(&header.msg_hdr) };
            self.arrived.push(Arrived { length: header.msg_len as usize, from: from.unwrap_or(unknown), to });
        }
        Ok(())
    }

    /// Sends some of the datagrams on: to the peer of a connected socket, or to an address, from one of ours. Tells how
    /// many were sent; the others were not.
    pub fn send(
        &self,
        socket: RawFd,
        which: Range<usize>,
        to: Option<SocketAddr>,
        from: Option<IpAddr>,
    ) -> io::Result<usize> {
        let to = to.map(SockAddr::from);
        let mut control = Control([0; CONTROL]);
        let control_length = from.map_or(0, |from| tell_source(&mut control, from));
        // SAFETY: plain data of C, for which zero is a value.
        let (mut headers, mut iovecs): ([libc::mmsghdr; MANY], [libc::iovec; MANY]) = unsafe { mem::zeroed() };
        for (place, datagram) in which.clone().enumerate() {
            let bytes = self.at(datagram);
            iovecs[place] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let header = &mut headers[place].msg_hdr;
            header.msg_iov = &raw mut iovecs[place];
            header.msg_iovlen = 1;
            if let Some(to) = &to {
                header.msg_name = to.as_ptr().cast_mut().cast();
                header.msg_namelen = to.len();
            }
            if control_length > 0 {
                header.msg_control = control.0.as_mut_ptr().cast();
                header.msg_controllen = control_length as _;
            }
        }
        // SAFETY: every header points to memory of the sizes it tells, which outlives the call; sending only reads it.
        let sent = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), which.len() as u32, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Asks the system to say, beside each datagram, which address of ours it was sent to.
pub fn tell_destination(socket: &Socket) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    if socket.domain()? == socket2::Domain::IPV4 {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// The address of ours that a datagram was sent to.
///
/// # Safety
///
/// The header's control data has been written by the system and still lives.
unsafe fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the caller vouches for the control data; the macros of cmsg(3) stay inside of it, and what is read behind
    // a header of this kind is of its type.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = control.as_ref() {
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                    return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(libc::CMSG_DATA(control).cast());
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => control = libc::CMSG_NXTHDR(header, control),
            }
        }
    }
    None
}

/// Writes from which address of ours to send. Tells how long that is.
fn tell_source(control: &mut Control, from: IpAddr) -> usize {
    match from {
        IpAddr::V4(v4) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
            let info =
                libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
            put(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        IpAddr::V6(v6) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: 0 };
            put(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn put<T>(control: &mut Control, level: i32, kind: i32, value: T) -> usize {
    // SAFETY: sizes only.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size_of::<T>() as u32), libc::CMSG_LEN(size_of::<T>() as u32)) };
    assert!(space as usize <= CONTROL, "it is made large enough for any address");
    // SAFETY: plain data of C, for which zero is a value.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    (header.cmsg_level, header.cmsg_type, header.cmsg_len) = (level, kind, length as _);
    // SAFETY: both writes lie within the first `space` bytes, which are there and are nobody else's.
    unsafe {
        let at = control.0.as_mut_ptr();
        ptr::write_unaligned(at.cast(), header);
        ptr::write_unaligned(libc::CMSG_DATA(at.cast()).cast(), value);
    }
    space as usize
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_batch_passes_whole_and_leaves_from_the_address_that_was_asked() {
        for loopback in ["127.0.0.1", "::1"] {
            let ip: IpAddr = loopback.parse().unwrap();
            let Ok(asking) = UdpSocket::bind((ip, 0)) else { continue };
            let any = if ip.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            let public = UdpSocket::bind((any, 0)).unwrap();
            tell_destination(&Socket::from(public.try_clone().unwrap())).unwrap();
            let address = SocketAddr::new(ip, public.local_addr().unwrap().port());
            let datagrams: Vec<Vec<u8>> = [0, 1, 2000, 60_000].map(|length| vec![length as u8; length]).into();
            for datagram in &datagrams {
                asking.send_to(datagram, address).unwrap();
            }
            let mut batch = Batch::new();
            batch.receive(&public).unwrap();
            let lengths: Vec<usize> = batch.arrived().iter().map(|arrived| arrived.length).collect();
            assert_eq!(lengths, [0, 1, 2000, 60_000]);
            let first = batch.arrived()[0];
            assert_eq!((first.from, first.to), (asking.local_addr().unwrap(), Some(ip)));
            assert_eq!(batch.send(public.as_raw_fd(), 0..4, Some(first.from), first.to).unwrap(), 4);
            let mut buffer = vec![0; LONGEST];
            for datagram in &datagrams {
                let (length, from) = asking.recv_from(&mut buffer).unwrap();
                assert!(from == address && buffer[..length] == *datagram);
            }
            assert_eq!(batch.receive(&public).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
