//! Kernel modules from the initramfs.
//!
//! `/modules/order` names uncompressed module files of `/modules`, one a line, each after those it needs.

use std::{fs, fs::File, io, os::fd::AsRawFd, path::Path};

/// Loads all modules. Returns what could not be loaded, with the reason: a module may well serve a device that
/// another virtual machine monitor has.
pub fn load_all(directory: &Path) -> Vec<String> {
    let Ok(order) = fs::read_to_string(directory.join("order")) else { return Vec::new() };
    let names = order.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    names.filter_map(|name| load(&directory.join(name)).err().map(|error| format!("{name}: {error}"))).collect()
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
