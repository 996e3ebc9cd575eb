//! The kernel's console: what init says when something is wrong, and there may be nobody else to tell.

use std::{fs::OpenOptions, io::Write, os::fd::AsRawFd};

/// Puts the console, or else `/dev/null`, where the standard streams belong. Call once `/dev` is there.
pub fn open() {
    let open = |path| OpenOptions::new().read(true).write(true).open(path);
    let Ok(console) = open("/dev/console").or_else(|_| open("/dev/null")) else { return };
    for stream in 0..=2 {
        // SAFETY: both are plain descriptors; nothing in this process owns the standard streams.
        unsafe { libc::dup2(console.as_raw_fd(), stream) };
    }
    if console.as_raw_fd() <= 2 {
        std::mem::forget(console);
    }
}

/// Writes a line to the console. There is nobody to tell if that fails.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
