//! Connects to sockets that a VMM, which is not trusted, made in a directory of its own.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::fs::{FileType, Mode, OFlags};
use tokio::{net::UnixStream, time::sleep};

use super::ProcessId;

/// Connects to the socket `name` in `directory`. Neither may be a symbolic link, which could lead us anywhere, and the
/// path may be longer than a socket's address can be.
pub(super) async fn connect(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = open_socket(directory, name)?;
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

fn open_socket(directory: &Path, name: &str) -> io::Result<OwnedFd> {
    let nothing_followed = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, nothing_followed | OFlags::DIRECTORY, Mode::empty())?;
    let socket = rustix::fs::openat(&directory, name, nothing_followed, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket)?.st_mode);
    if kind == FileType::Socket { Ok(socket) } else { Err(io::Error::other(format!("{name} is not a socket"))) }
}

/// Connects as soon as the process has made the socket and listens. `None` if the process ended before.
pub(super) async fn connect_to(process: &ProcessId, directory: &Path, name: &str) -> Option<UnixStream> {
    loop {
        if let Ok(stream) = connect(directory, name).await {
            return Some(stream);
        }
        if !process.alive() {
            return None;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_reached_however_long_its_path_is() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let short = root.path().join("short");
        std::os::unix::fs::symlink(&deep, &short).unwrap();
        let _listener = UnixListener::bind(short.join("s")).unwrap();
        connect(&deep, "s").await.unwrap();
    }

    #[tokio::test]
    async fn a_link_to_another_socket_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(root.path().join("elsewhere")).unwrap();
        let own = root.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::symlink("../elsewhere", own.join("s")).unwrap();
        std::fs::write(own.join("file"), "").unwrap();
        assert!(connect(&own, "s").await.is_err());
        assert!(connect(&own, "file").await.is_err());
    }
}
