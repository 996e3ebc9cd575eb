//! Finds block devices by what the host calls them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use guest::BootFailure;

use crate::{failure::failure, uevents::Uevents};

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for the device that `name` means: `vda`, `/dev/vda`, `serial:NAME` or `label:NAME`.
pub fn wait_for(uevents: &Uevents, name: &str) -> Result<PathBuf, BootFailure> {
    uevents.wait(PATIENCE, || find(name)).ok_or_else(|| {
        let disks = block_devices().join(", ");
        failure("disks", format_args!("there is no disk {name:?} after {} s; disks: [{disks}]", PATIENCE.as_secs()))
    })
}

fn find(name: &str) -> Option<PathBuf> {
    let path = |device: &String| Path::new("/dev").join(device);
    if let Some(serial) = name.strip_prefix("serial:") {
        block_devices().iter().find(|device| serial_of(device).as_deref() == Some(serial)).map(path)
    } else if let Some(label) = name.strip_prefix("label:") {
        block_devices().iter().map(path).find(|path| label_of(path).as_deref() == Some(label))
    } else {
        let path = Path::new("/dev").join(name.trim_start_matches("/dev/"));
        path.exists().then_some(path)
    }
}

fn block_devices() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn serial_of(device: &str) -> Option<String> {
    let serial = fs::read_to_string(Path::new("/sys/block").join(device).join("serial")).ok()?;
    Some(serial.trim().to_owned())
}

/// The label of an ext2, ext3 or ext4 file system: 16 bytes in the superblock, which begins at 1024.
fn label_of(path: &Path) -> Option<String> {
    let mut superblock = [0; 0x88];
    File::open(path).ok()?.read_exact_at(&mut superblock, 1024).ok()?;
    if superblock[0x38..0x3A] != [0x53, 0xEF] {
        return None;
    }
    let label = superblock[0x78..0x88].split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(label).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_known_by_its_label() {
        let mut image = vec![0; 4096];
        image[1024 + 0x38..1024 + 0x3A].copy_from_slice(&[0x53, 0xEF]);
        image[1024 + 0x78..1024 + 0x7E].copy_from_slice(b"volume");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &image).unwrap();
        assert_eq!(label_of(file.path()).as_deref(), Some("volume"));

        image[1024 + 0x38] = 0;
        fs::write(file.path(), &image).unwrap();
        assert_eq!(label_of(file.path()), None);
        assert_eq!(find("no-such-device"), None);
    }
}
