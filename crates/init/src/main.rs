//! PID 1 in the guest: a single thread, one loop, no runtime.
//!
//! ```text
//!   kernel ─▶ early mounts ─▶ kernel modules ─▶ channel to the host ─▶ wait for Boot
//!          ─▶ random bytes, devices, root file system, network, volumes, files, user ─▶ program ─▶ supervise ─▶ disks in order ─▶ reboot
//! ```
//!
//! [`supervisor`] holds the loop and the state; everything before the program is in [`boot`].
#![cfg_attr(not(test), no_main)]

mod boot;
mod busy;
mod cgroup;
mod commands;
mod console;
mod credentials;
mod devices;
mod disks;
mod entropy;
mod environment;
mod etc;
mod exec;
mod failure;
mod kmod;
mod link;
mod logs;
mod netlink;
mod network;
mod processes;
mod program;
mod sockets;
mod spawn;
mod statics;
mod supervisor;
mod uevents;
mod virtio;

use std::time::Instant;

/// The entry from the C runtime. Rust's own start-up is left out: it ends the process when standard streams are
/// closed, and the kernel starts PID 1 that way on a machine without a console.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    if std::process::id() != 1 {
        eprintln!("dunlin's init is the first process of a guest; it does nothing elsewhere");
        return 2;
    }
    run(Instant::now())
}

/// Runs the guest from start to end.
#[cfg_attr(test, allow(dead_code))]
fn run(started: Instant) -> ! {
    let early = disks::mount_early();
    console::open();
    std::panic::set_hook(Box::new(|panic| {
        console::say(&format!("init: {panic}"));
        reboot();
    }));
    let supervisor = early.and_then(|()| supervisor::Supervisor::start(started));
    match supervisor {
        Ok(supervisor) => supervisor.run(),
        Err(failure) => console::say(&format!("init: {}: {}", failure.step, failure.reason)),
    }
    reboot()
}

/// Restarts the machine, which ends the virtual machine under all of our monitors.
fn reboot() -> ! {
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    console::say(&format!("init: cannot reboot: {error}"));
    loop {
        nix::unistd::pause();
    }
}
