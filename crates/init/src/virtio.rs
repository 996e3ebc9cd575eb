//! The bus of virtio devices: which there are, and from when on drivers have them.
//!
//! Disks and the network device get their drivers only when the guest is told what to run. Until then it has asked
//! nothing of them, so that the host can freeze it where it waits, and have copies of it go on with other ones.

use std::{
    fs,
    path::{Path, PathBuf},
};

const BUS: &str = "/sys/bus/virtio";

/// The kinds of devices (virtio 1.2, section 5) that a guest has no use for before it knows what to run.
pub const NETWORK: u32 = 1;
pub const BLOCK: u32 = 2;

/// The kinds of devices that are there.
pub fn kinds() -> Vec<u32> {
    let kind = |device: PathBuf| {
        let text = fs::read_to_string(device.join("device")).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    devices().into_iter().filter_map(kind).collect()
}

/// Loads a driver that gets no device yet.
pub fn held_back<T>(load: impl FnOnce() -> T) -> T {
    set_autoprobe("0");
    let loaded = load();
    set_autoprobe("1");
    loaded
}

/// Gives each device that has no driver to the one that fits, in the order in which the host placed them.
pub fn attach_all() {
    for device in devices().iter().filter(|device| !device.join("driver").exists()) {
        if let Some(name) = device.file_name().and_then(|name| name.to_str()) {
            // There may be no driver for it, which is no harm.
            let _ = fs::write(Path::new(BUS).join("drivers_probe"), name);
        }
    }
}

fn set_autoprobe(value: &str) {
    let _ = fs::write(Path::new(BUS).join("drivers_autoprobe"), value);
}

/// The devices, `virtio0` first.
fn devices() -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(BUS).join("devices")).into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries.map(|entry| entry.path()).collect();
    devices.sort_by_key(|device| number(device));
    devices
}

fn number(device: &Path) -> Option<u32> {
    device.file_name()?.to_str()?.strip_prefix("virtio")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_counted_and_not_spelled() {
        assert!(number(Path::new("/x/virtio9")) < number(Path::new("/x/virtio10")));
        assert_eq!(number(Path::new("/x/other")), None);
    }
}
