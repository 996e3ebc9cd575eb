//! The service manager: sockets that it opened for this process, and what it is told (sd_listen_fds(3), sd_notify(3)).

use std::{
    env,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use anyhow::Result;

/// The first of the sockets that a service manager hands over.
const FIRST: RawFd = 3;
/// No unit has more.
const MAX: RawFd = 1024;

/// The sockets that the service manager opened for this process.
pub fn sockets() -> Vec<OwnedFd> {
    let number = |name: &str| env::var(name).ok()?.parse::<RawFd>().ok();
    let ours = number("LISTEN_PID") == RawFd::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|count| ours && (0..=MAX).contains(count)).unwrap_or(0);
    // SAFETY: the service manager opened these files for this process and says so by its number; nothing else here has
    // taken them, as this is called once, before anything is opened by number.
    (FIRST..FIRST + count).map(|file| unsafe { OwnedFd::from_raw_fd(file) }).collect()
}

/// The platform serves.
pub fn ready() {
    tell("READY=1");
}

/// It ends.
pub fn stopping() {
    tell("STOPPING=1");
}

/// Another process is the service now.
pub fn succeeded_by(pid: u32) {
    tell(&format!("MAINPID={pid}"));
}

/// Tells a service manager that wants to be told.
fn tell(state: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    let place = place.to_string_lossy();
    let address = match place.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*place),
    };
    let send = || -> Result<()> {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address?)?;
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!("the service manager cannot be told {state}: {error:#}");
    }
}
