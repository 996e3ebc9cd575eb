//! Kernel modules from the initramfs.
//!
//! `/modules/order` names uncompressed module files of `/modules`, one a line, each after those it needs. A driver
//! of a kind of virtio device that this machine does not have is left out: checking and linking a module is a good
//! part of the time that a guest takes to start.

use std::{fs, fs::File, io, os::fd::AsRawFd, path::Path};

use crate::virtio;

/// Modules that serve one kind of device only, and the kind's number (virtio 1.2, section 5).
const SERVES: [(&str, u32); 10] = [
    ("failover", virtio::NETWORK),
    ("net_failover", virtio::NETWORK),
    ("virtio_net", virtio::NETWORK),
    ("virtio_blk", virtio::BLOCK),
    ("virtio_console", 3),
    ("rng_core", 4),
    ("virtio_rng", 4),
    ("vsock", 19),
    ("vmw_vsock_virtio_transport_common", 19),
    ("vmw_vsock_virtio_transport", 19),
];

/// Loads all modules that this machine has use for. Returns what could not be loaded, with the reason.
pub fn load_all(directory: &Path) -> Vec<String> {
    let Ok(order) = fs::read_to_string(directory.join("order")) else { return Vec::new() };
    let names = order.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let useful = names.filter(|name| serves(name).is_none_or(|kind| virtio::kinds().contains(&kind)));
    useful.filter_map(|name| load_named(directory, name).err().map(|error| format!("{name}: {error}"))).collect()
}

/// The kind of device that a module's file serves, if it serves but one.
fn serves(file: &str) -> Option<u32> {
    let name = file.strip_suffix(".ko").unwrap_or(file).replace('-', "_");
    SERVES.iter().find(|(module, _)| *module == name).map(|(_, kind)| *kind)
}

fn load_named(directory: &Path, name: &str) -> io::Result<()> {
    let load = || load(&directory.join(name));
    match serves(name) {
        Some(virtio::NETWORK | virtio::BLOCK) => virtio::held_back(load),
        _ => load(),
    }
}

fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open, the parameters are a C string, and the kernel checks the rest.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_file() {
        assert_eq!(serves("virtio-rng.ko"), Some(4));
        assert_eq!(serves("virtio_blk.ko"), Some(2));
        assert_eq!(serves("overlay.ko"), None);
    }
}
