//! Waits for devices: the kernel tells of each one that appears.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
    },
};

/// The longest sleep between two looks, for what the kernel does not tell.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// The kernel's stream of device events.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Events from now on.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
        setsockopt(&socket, sockopt::RcvBuf, &(256 * 1024))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self(socket))
    }

    /// Looks now and after each event until there is something to see, or `patience` is over.
    pub fn wait<T>(&self, patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            self.forget();
            if let Some(seen) = look() {
                return Some(seen);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let sleep = PollTimeout::try_from(left.min(LONGEST_SLEEP)).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], sleep);
        }
    }

    /// Drops the events so far; the look that follows sees what they tell.
    fn forget(&self) {
        let mut event = [0; 8192];
        while matches!(recv(self.0.as_raw_fd(), &mut event, MsgFlags::empty()), Ok(1..) | Err(Errno::ENOBUFS)) {}
    }
}
