//! What can be known of a host's hardware virtualization without trying it.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use super::VmUser;

const DEVICE: &str = "/dev/kvm";

/// Whether guests could run on the host's own processors; if not, why, and what to do.
pub(super) fn check() -> Result<(), String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("{DEVICE} does not exist: {}", advice()));
    }
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(format!("{DEVICE} may not be opened; run `dunlin serve` as root"))
        }
        Err(error) => Err(format!("{DEVICE} cannot be opened: {error}: {}", advice())),
    }
}

/// Whether a VMM that runs as `user` could open the device; if not, what to do.
pub(super) fn check_access(user: VmUser) -> Result<(), String> {
    let open = fs::metadata(DEVICE).is_ok_and(|device| {
        let (mode, owner) = (device.mode(), device.uid() == user.uid);
        let group = device.gid() != 0 && mode & 0o060 == 0o060;
        mode & 0o006 == 0o006 || group || (owner && mode & 0o600 == 0o600)
    });
    if open {
        return Ok(());
    }
    Err(format!(
        "{DEVICE} is closed to the unprivileged user that QEMU runs as; give it to a group, as distributions do: \
         `chgrp kvm {DEVICE} && chmod 660 {DEVICE}`"
    ))
}

/// Why it does not work although the device is there, as far as one can tell.
pub(super) fn suspicion() -> String {
    if flag("hypervisor") {
        "this host is itself a virtual machine, and its own host does not run guests of guests properly; turn nested \
         virtualization on there, or use a host with hardware of its own"
            .into()
    } else {
        "the host's virtualization is broken or in use by another hypervisor".into()
    }
}

fn advice() -> String {
    let module = if flag("svm") { Some("kvm_amd") } else { flag("vmx").then_some("kvm_intel") };
    match module {
        Some(module) => format!("load the kernel module with `modprobe {module}`"),
        None if flag("hypervisor") => {
            "this host is itself a virtual machine whose host keeps hardware virtualization to itself; turn nested \
             virtualization on there"
                .into()
        }
        None => "the processor offers no virtualization; turn it (VT-x or AMD-V) on in the firmware".into(),
    }
}

fn flag(name: &str) -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == name)
}

/// Changes when somebody has changed what [`check`] or a trial depend on.
pub(super) fn fingerprint() -> String {
    let device = fs::metadata(DEVICE).map(|device| (device.mode(), device.uid(), device.gid(), device.rdev())).ok();
    let nested = ["kvm_intel", "kvm_amd"]
        .map(|module| fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).unwrap_or_default());
    format!("{device:?} {nested:?} {} {}", flag("svm"), flag("vmx"))
}
