//! Taps: persistent, owned by the VMM's user, opened by name by the VMM itself (Linux `tuntap` interface).

use std::{fs::OpenOptions, io, os::fd::AsRawFd};

use nix::libc;

use super::NetError;

mod ioctls {
    use nix::libc;
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
}

/// Makes a tap that lives on without us, which `owner_uid` may open. One of that name that exists is reused.
pub fn create(name: &str, owner_uid: u32) -> Result<(), NetError> {
    make(name, owner_uid).map_err(NetError::io(format!("create tap {name}")))
}

fn make(name: &str, owner_uid: u32) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let request = interface_request(name)?;
    // SAFETY: `tun` is an open tun device, `request` lives through the call and is the structure that the call reads.
    unsafe { ioctls::set_interface(tun.as_raw_fd(), &request) }?;
    // SAFETY: as above; the argument of these two is a plain number.
    unsafe { ioctls::set_owner(tun.as_raw_fd(), owner_uid as libc::c_int) }?;
    // SAFETY: as above.
    unsafe { ioctls::set_persist(tun.as_raw_fd(), 1) }?;
    Ok(())
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 bytes"));
    }
    // SAFETY: a C structure of numbers, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    Ok(request)
}
