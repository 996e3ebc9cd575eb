//! Opens a tap for QEMU, which has no right to do so itself (Linux `tuntap` interface).

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use nix::libc;

nix::ioctl_write_ptr_bad!(set_interface, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);

/// A queue of an existing tap.
pub(super) fn open(name: &str) -> io::Result<File> {
    // Without this, the call below would make a tap that is not there.
    nix::net::if_::if_nametoindex(name)?;
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let request = interface_request(name)?;
    // SAFETY: `tun` is an open tun device; `request` is the structure that this call reads, and lives through it.
    unsafe { set_interface(tun.as_raw_fd(), &request) }?;
    Ok(tun)
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface's name has at most 15 bytes"));
    }
    // SAFETY: a structure of numbers, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    Ok(request)
}
