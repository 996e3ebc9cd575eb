//! What a VM prints: what its guest's kernel writes to the serial port, and what its VMM says.
//!
//! Neither may fill a disk or stall anybody, whether or not we run. A VMM's own output goes into a pipe with a name,
//! of which the VMM holds both ends and which does not block: it never breaks, keeps the first 64 KiB that nobody has
//! read, and drops the rest. QEMU's serial port is a socket, which drops what comes while nobody is connected.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use tokio::{io::AsyncRead, net::unix::pipe};

use super::socket;

/// The name of the pipe in a VM's directory.
const PIPE: &str = "vmm.out";

/// Where something of a VM's output can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A pipe with a name.
    Pipe(PathBuf),
    /// A socket in a directory that belongs to the VMM.
    Socket {
        /// The directory.
        directory: PathBuf,
        /// The socket's name.
        name: &'static str,
    },
}

/// A VM's output as a stream of bytes. It ends with the VM.
pub type OutputStream = Box<dyn ReadStream>;

/// Anything that can be read.
pub trait ReadStream: AsyncRead + Send + Unpin + std::fmt::Debug {}
impl<T: AsyncRead + Send + Unpin + std::fmt::Debug> ReadStream for T {}

impl Output {
    /// The output of the VMM itself.
    pub(super) fn of_vmm(dir: &Path) -> Self {
        Self::Pipe(dir.join(PIPE))
    }

    /// Connects to it.
    pub async fn connect(&self) -> io::Result<OutputStream> {
        Ok(match self {
            Self::Pipe(path) => Box::new(pipe::OpenOptions::new().open_receiver(path)?),
            Self::Socket { directory, name } => Box::new(socket::connect(directory, name).await?),
        })
    }
}

/// Makes the pipe of a VM and opens both of its ends at once, without blocking.
pub(super) fn make_pipe(dir: &Path) -> io::Result<OwnedFd> {
    let path = dir.join(PIPE);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let both_ends = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(&path, both_ends, Mode::empty())?)
}

/// What a pipe holds now, made printable: why a VMM ended.
pub(super) fn drain(pipe: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while bytes.len() < 64 * 1024 {
        match rustix::io::read(pipe, &mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).rev().take(5).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("; ");
    if last.is_empty() { "it said nothing".into() } else { last.chars().filter(|c| !c.is_control()).collect() }
}
