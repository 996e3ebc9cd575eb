//! The bytes of the channel: a virtio serial port, or a vsock connection that the host makes.
//!
//! Both are watched edge-triggered, since the port of an absent host is always "ready": the descriptor that the
//! loop polls is that of an epoll set, and `readable` and `writable` remember what the last edges said.

use std::{
    fs,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use guest::{BootFailure, VIRTIO_PORT, VSOCK_PORT};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket},
};

use crate::{
    failure::{OrFailure, failure},
    uevents::Uevents,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Any address of this guest (`VMADDR_CID_ANY`).
const ANY_CID: u32 = u32::MAX;

const STREAM: u64 = 0;
const LISTENER: u64 = 1;

/// The channel's bytes.
pub struct Link {
    epoll: Epoll,
    listener: Option<OwnedFd>,
    stream: Option<File>,
    readable: bool,
    writable: bool,
    /// What is to be sent.
    pub out: BytesMut,
}

/// What a read found.
pub enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The host has gone.
    Gone,
}

impl Link {
    /// Waits for a device that carries the channel: the virtio serial port, or else vsock.
    pub fn open(uevents: &Uevents) -> Result<Self, BootFailure> {
        let found =
            uevents.wait(PATIENCE, || find_port().map(Device::Port).or_else(|| vsock_listener().map(Device::Vsock)));
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).or_failure("channel", "epoll")?;
        let mut link =
            Self { epoll, listener: None, stream: None, readable: false, writable: false, out: BytesMut::new() };
        match found {
            Some(Device::Port(path)) => link.open_port(&path).or_failure("channel", path.display())?,
            Some(Device::Vsock(listener)) => link.listen_on(listener).or_failure("channel", "vsock")?,
            None => {
                return Err(failure("channel", format_args!("there is neither a serial port {VIRTIO_PORT} nor vsock")));
            }
        }
        Ok(link)
    }

    fn open_port(&mut self, path: &Path) -> io::Result<()> {
        let port = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        self.watch_stream(port)
    }

    fn listen_on(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        self.listener = Some(listener);
        Ok(())
    }

    fn watch_stream(&mut self, stream: File) -> io::Result<()> {
        let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(&stream, EpollEvent::new(edges, STREAM))?;
        self.stream = Some(stream);
        (self.readable, self.writable) = (true, true);
        Ok(())
    }

    /// Whether [`Self::receive`] may find something without waiting.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Takes note of what has happened. Returns whether the host has made another connection, which replaces the
    /// one before.
    pub fn wake(&mut self) -> bool {
        let mut events = [EpollEvent::empty(); 4];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut replaced = false;
        for event in &events[..count] {
            if event.data() == LISTENER {
                replaced |= self.accept();
            } else {
                self.readable = true;
                self.writable |= event.events().contains(EpollFlags::EPOLLOUT);
            }
        }
        replaced
    }

    fn accept(&mut self) -> bool {
        let Some(listener) = &self.listener else { return false };
        let Ok(connection) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) else {
            return false;
        };
        // SAFETY: accept4 has just made this descriptor for us.
        let connection = unsafe { OwnedFd::from_raw_fd(connection) };
        self.clear();
        self.watch_stream(connection.into()).is_ok()
    }

    /// Reads what has come from the host.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Received {
        let Some(stream) = self.stream.as_mut().filter(|_| self.readable) else { return Received::Nothing };
        match stream.read(buffer) {
            Ok(0) => self.gone(),
            Ok(length) => Received::Bytes(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Received::Nothing,
            Err(_) => self.gone(),
        }
    }

    /// A serial port is there for the next host; a connection is not.
    fn gone(&mut self) -> Received {
        self.readable = false;
        self.out.clear();
        if self.listener.is_some() {
            self.clear();
        }
        Received::Gone
    }

    /// Sends what can be sent without waiting.
    pub fn flush(&mut self) {
        let Some(stream) = &mut self.stream else { return self.out.clear() };
        while self.writable && !self.out.is_empty() {
            match stream.write(&self.out) {
                Ok(length) => self.out.advance(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.writable = false,
            }
        }
    }

    /// Forgets the stream and what was to be sent on it.
    fn clear(&mut self) {
        self.stream = None;
        self.out.clear();
        (self.readable, self.writable) = (false, false);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

enum Device {
    Port(PathBuf),
    Vsock(OwnedFd),
}

/// The port's device, known by the name that the host gave it.
fn find_port() -> Option<PathBuf> {
    let mut ports = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
    let port =
        ports.find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == VIRTIO_PORT))?;
    Some(Path::new("/dev").join(port.file_name())).filter(|path| path.exists())
}

/// A listening socket, if there is a vsock device (not only the address family).
fn vsock_listener() -> Option<OwnedFd> {
    local_cid()?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Vsock, SockType::Stream, flags, None).ok()?;
    bind(listener.as_raw_fd(), &VsockAddr::new(ANY_CID, VSOCK_PORT)).ok()?;
    listen(&listener, Backlog::new(4).ok()?).ok()?;
    Some(listener)
}

fn local_cid() -> Option<u32> {
    const GET_LOCAL_CID: libc::Ioctl = 0x7b9;
    let device = File::open("/dev/vsock").ok()?;
    let mut cid = ANY_CID;
    // SAFETY: the request writes one u32 to where its argument points.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), GET_LOCAL_CID, &mut cid) };
    (result == 0 && cid != ANY_CID).then_some(cid)
}
