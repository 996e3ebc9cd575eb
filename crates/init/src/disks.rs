//! Mounts: from the initramfs to the root file system of the image, and back to clean disks at the end.
//!
//! ```text
//!   initramfs /  ── lower (ext4, read-only, shared by machines) ┐
//!                └─ upper (ext4, this machine's own) ───────────┴─ overlay, becomes /
//!                                                                   ├─ proc, sys, dev, run, …
//!                                                                   └─ volumes (ext4)
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown, symlink},
    path::{Path, PathBuf},
};

use guest::{BootFailure, spec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    console,
    credentials::Credentials,
    devices,
    failure::{OrFailure, failure},
    uevents::Uevents,
};

const NEW_ROOT: &str = "/newroot";

/// What is mounted in any root: source, target, type, flags, options. A missing one of the second list is no harm.
type Entry = (&'static str, &'static str, MsFlags, &'static str);

const EARLY: [Entry; 3] =
    [("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"), ("proc", "/proc", SAFE, ""), ("sysfs", "/sys", SAFE, "")];

const LATE: [Entry; 6] = [
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "mode=0620,gid=5,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=1777"),
    ("mqueue", "/dev/mqueue", SAFE, ""),
    ("tmpfs", "/run", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), "mode=0755"),
    ("tmpfs", "/run/lock", SAFE, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", SAFE, "nsdelegate"),
];

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);

const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what init itself needs.
pub fn mount_early() -> Result<(), BootFailure> {
    EARLY.iter().try_for_each(mount_entry)
}

/// The root file system.
pub struct Root {
    /// The root of the writable layer's own file system, which no path leads to any more.
    upper: File,
    /// What could not be mounted but can be done without.
    pub missing: Vec<String>,
}

/// Makes the image's file system the root, with everything mounted that a program expects.
pub fn enter_root(root: &spec::Root, uevents: &Uevents) -> Result<Root, BootFailure> {
    let lower = devices::wait_for(uevents, &root.lower)?;
    let upper = devices::wait_for(uevents, &root.upper)?;
    mount_ext4(&lower, Path::new("/lower"), MsFlags::MS_RDONLY)?;
    mount_ext4(&upper, Path::new("/upper"), MsFlags::empty())?;
    for directory in ["/upper/data", "/upper/work", NEW_ROOT] {
        make_directory(Path::new(directory)).or_failure("root", directory)?;
    }
    let layers = "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work";
    mount_at("overlay", Path::new(NEW_ROOT), "overlay", MsFlags::empty(), layers)?;
    let upper = File::open("/upper").or_failure("root", "/upper")?;
    switch_root().or_failure("root", "changing to the image's file system")?;
    mount_early()?;
    let missing = LATE.iter().filter_map(|entry| mount_entry(entry).err()).map(|failure| failure.reason).collect();
    for (target, link) in LINKS {
        let _ = symlink(target, link);
    }
    Ok(Root { upper, missing })
}

/// Frees the initramfs and makes `NEW_ROOT` the root. The initramfs cannot be left by `pivot_root`.
fn switch_root() -> nix::Result<()> {
    for (_, target, ..) in EARLY {
        umount2(target, MntFlags::MNT_DETACH)?;
    }
    let _ = fs::remove_dir_all("/modules");
    let _ = fs::remove_file("/init");
    nix::unistd::chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")
}

/// Mounts a volume. The root directory of a file system that has just been made goes to the program's user.
pub fn mount_volume(volume: &spec::Mount, owner: &Credentials, uevents: &Uevents) -> Result<(), BootFailure> {
    let path = Path::new(&volume.path);
    if !path.is_absolute() || path == Path::new("/") {
        return Err(failure("volumes", format_args!("a volume cannot be mounted at {path:?}")));
    }
    let device = devices::wait_for(uevents, &volume.device)?;
    mount_ext4(&device, path, MsFlags::empty())?;
    if is_fresh(path).or_failure("volumes", path.display())? {
        chown(path, Some(owner.uid), Some(owner.gid)).or_failure("volumes", path.display())?;
    }
    Ok(())
}

fn is_fresh(path: &Path) -> io::Result<bool> {
    let mut names = fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name()));
    let empty = names.all(|name| name.is_ok_and(|name| name == "lost+found"));
    let metadata = fs::metadata(path)?;
    Ok(empty && metadata.uid() == 0 && metadata.gid() == 0)
}

/// Unmounts what can be unmounted, makes the rest read-only, and writes everything to the disks.
pub fn close(root: Option<&Root>) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in mounts.lines().rev().filter_map(mount_point) {
        let needed = target == Path::new("/") || EARLY.iter().any(|(_, early, ..)| Path::new(early) == target);
        if !needed && let Err(error) = umount2(&target, MntFlags::empty()) {
            console::say(&format!("init: unmounting {}: {error}", target.display()));
            let _ = umount2(&target, MntFlags::MNT_DETACH);
        }
    }
    nix::unistd::sync();
    if let Some(root) = root
        && let Err(error) = close_root(root)
    {
        console::say(&format!("init: making the root file system read-only: {error}"));
    }
}

/// The overlay first, since it writes to the layer below it.
fn close_root(root: &Root) -> nix::Result<()> {
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>)?;
    nix::unistd::fchdir(&root.upper)?;
    mount(None::<&str>, ".", None::<&str>, read_only, None::<&str>)?;
    nix::unistd::chdir("/")
}

/// The mount point in a line of `/proc/self/mounts`, where blanks are written as octal numbers.
fn mount_point(line: &str) -> Option<PathBuf> {
    let mut rest = line.split(' ').nth(1)?;
    let mut path = String::new();
    while let Some((plain, escaped)) = rest.split_once('\\') {
        path.push_str(plain);
        path.push(char::from(u8::from_str_radix(escaped.get(..3)?, 8).ok()?));
        rest = &escaped[3..];
    }
    Some(PathBuf::from(path + rest))
}

fn mount_ext4(device: &Path, target: &Path, flags: MsFlags) -> Result<(), BootFailure> {
    let source = device.to_string_lossy();
    mount_at(&source, target, "ext4", flags | MsFlags::MS_RELATIME, "")
}

fn mount_entry(&(kind, target, flags, options): &Entry) -> Result<(), BootFailure> {
    mount_at(kind, Path::new(target), kind, flags, options)
}

fn mount_at(source: &str, target: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<(), BootFailure> {
    let what = format!("mounting {kind} ({source}) at {}", target.display());
    make_directory(target).or_failure("mounts", &what)?;
    mount(Some(source), target, Some(kind), flags, Some(options)).or_failure("mounts", &what)
}

/// Makes a directory and those above it, where they are missing; 0755.
pub fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_unescaped() {
        let point = |line: &str| mount_point(line).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(point("/dev/vdb /my\\040data\\011x ext4 rw 0 0").as_deref(), Some("/my data\tx"));
        assert_eq!(point("overlay / overlay rw 0 0").as_deref(), Some("/"));
        assert_eq!(point("broken"), None);
        assert_eq!(point("a /b\\9"), None);
    }

    #[test]
    fn a_file_system_is_fresh_while_it_holds_nothing_of_a_user() {
        let root = tempfile::tempdir().unwrap();
        let fresh_owner = fs::metadata(root.path()).unwrap().uid() == 0;
        fs::create_dir(root.path().join("lost+found")).unwrap();
        assert_eq!(is_fresh(root.path()).unwrap(), fresh_owner);
        fs::write(root.path().join("data"), "").unwrap();
        assert!(!is_fresh(root.path()).unwrap());
    }
}
