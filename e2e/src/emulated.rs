//! A host in software whose processor has hardware virtualization (AMD SVM), for what few test machines can show.
//!
//! ```text
//!   test ─▶ QEMU, software ─▶ Linux with KVM ─▶ /start, on a disk that the test furnished
//! ```
//!
//! The disk is a tree of files: busybox, programs with the libraries they are linked against, kernel modules. `/start`
//! finds the usual file systems mounted and the modules loaded; when it ends, the host turns itself off.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What the host loads before its disk is there, each after what it needs; some kernels have some of these built in.
const BOOT_MODULES: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];
/// What makes it one that runs virtual machines with a network.
const HOST_MODULES: [&str; 5] = ["irqbypass", "kvm", "ccp", "kvm-amd", "tun"];
/// What scripts on it call.
const APPLETS: [&str; 18] = [
    "cat", "echo", "grep", "head", "hostname", "insmod", "ip", "ls", "mkdir", "mknod", "mount", "poweroff", "sed",
    "sh", "sleep", "tail", "tunctl", "wget",
];

/// A kernel that can be such a host, and its modules.
#[derive(Debug)]
pub struct HostKernel {
    image: PathBuf,
    boot_modules: Vec<PathBuf>,
    host_modules: Vec<PathBuf>,
}

impl HostKernel {
    /// The one of an unpacked package (`boot`, `lib/modules`), if it has KVM for AMD.
    pub fn find(package: &Path) -> Option<Self> {
        let mut images = fs::read_dir(package.join("boot")).ok()?.flatten().map(|entry| entry.path());
        let image = images
            .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")))?;
        let modules = files_below(&package.join("lib/modules"));
        let named = |name: &&str| {
            let file = format!("{name}.ko");
            modules.iter().find(|path| path.ends_with(&file)).cloned()
        };
        let host_modules: Vec<_> = HOST_MODULES.iter().filter_map(named).collect();
        host_modules.iter().any(|path| path.ends_with("kvm-amd.ko")).then(|| Self {
            image,
            boot_modules: BOOT_MODULES.iter().filter_map(named).collect(),
            host_modules,
        })
    }
}

/// The disk of a host, as it is furnished.
#[derive(Debug)]
pub struct Tree(PathBuf);

impl Tree {
    /// A disk with busybox, the host's modules, and what `/start` does once these are loaded.
    ///
    /// # Panics
    /// If a file cannot be written or busybox is not installed.
    pub fn new(root: PathBuf, kernel: &HostKernel, script: &str) -> Self {
        for directory in ["bin", "sbin", "usr/bin", "proc", "sys", "dev", "tmp", "modules", "etc", "root", "run"] {
            fs::create_dir_all(root.join(directory)).expect("a directory can be made");
        }
        fs::copy(busybox(), root.join("bin/busybox")).expect("busybox can be copied");
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).expect("a link can be made");
        }
        // Where the kernel looks for it when it needs a module.
        symlink("../bin/busybox", root.join("sbin/modprobe")).expect("a link can be made");
        copy_modules(&kernel.host_modules, &root.join("modules"));
        write_executable(&root.join("start"), &format!("{START}{script}\npoweroff -f\n"));
        Self(root)
    }

    /// Puts a program there, with the libraries that it is linked against.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn program(&self, program: &Path, place: &str) {
        fs::copy(program, self.place(place)).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let listing = Command::new("ldd").arg(program).output().expect("ldd is installed");
        let words = String::from_utf8_lossy(&listing.stdout).into_owned();
        for library in words.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
            fs::copy(library, self.place(&library[1..])).expect("a library can be copied");
        }
    }

    /// Puts a directory there, with all that is in it.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn directory(&self, from: &Path, place: &str) {
        let copied = Command::new("cp").arg("-aT").arg(from).arg(self.place(place)).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
    }

    /// Lets the kernel find the modules in `lib/modules` when it needs them.
    ///
    /// # Panics
    /// If busybox cannot.
    pub fn index_modules(&self) {
        for release in fs::read_dir(self.place("lib/modules/x").with_file_name("")).expect("they are there").flatten() {
            let mut depmod = Command::new(busybox());
            depmod.args(["depmod", "-b"]).arg(&self.0).arg(release.file_name());
            assert!(depmod.status().is_ok_and(|status| status.success()), "busybox lists the modules");
        }
    }

    /// Where a file of the disk lies for now. The directories above it are made.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn place(&self, place: &str) -> PathBuf {
        let path = self.0.join(place);
        fs::create_dir_all(path.parent().expect("it lies below the root")).expect("a directory can be made");
        path
    }
}

/// What `/start` begins with.
const START: &str = "#!/bin/sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs run /run; mount -t cgroup2 cgroup /sys/fs/cgroup
for module in $(cat /modules/order); do insmod /modules/$module; done
mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
";

/// A host that runs; it ends with its handle.
#[derive(Debug)]
pub struct EmulatedHost {
    qemu: Child,
    console: PathBuf,
}

impl EmulatedHost {
    /// Starts it from a furnished disk of this size, in MB; its other files go to `scratch`.
    ///
    /// # Panics
    /// If QEMU, cpio or mke2fs fails.
    pub fn start(scratch: &Path, kernel: &HostKernel, tree: &Tree, disk_mb: u64, memory_mb: u32) -> Self {
        let (disk, initramfs, console) = (scratch.join("disk"), scratch.join("initramfs"), scratch.join("console"));
        fs::File::create(&disk).and_then(|file| file.set_len(disk_mb << 20)).expect("a disk can be made");
        let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree.0).arg(&disk).output();
        assert!(made.is_ok_and(|made| made.status.success()), "mke2fs makes the disk");
        fs::write(&initramfs, boot_archive(scratch, kernel)).expect("an archive can be written");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-smp", "2"]);
        command.args(["-m", &memory_mb.to_string(), "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-append", "console=ttyS0 quiet panic=-1"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-drive").arg(format!("if=none,id=disk,format=raw,file={}", disk.display()));
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        let qemu = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("QEMU starts");
        Self { qemu, console }
    }

    /// Waits until the host has turned itself off, and returns what it said.
    ///
    /// # Panics
    /// If it has not after so long.
    pub fn finish(mut self, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        while self.qemu.try_wait().expect("it is our child").is_none() {
            assert!(Instant::now() < deadline, "the emulated host does not end:\n{}", self.said());
            std::thread::park_timeout(Duration::from_millis(100));
        }
        self.said()
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }
}

impl Drop for EmulatedHost {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The archive that the emulated host starts from: it finds the disk and goes on there.
fn boot_archive(scratch: &Path, kernel: &HostKernel) -> Vec<u8> {
    let tree = scratch.join("boot");
    for directory in ["modules", "root", "dev", "bin"] {
        fs::create_dir_all(tree.join(directory)).expect("a directory can be made");
    }
    fs::copy(busybox(), tree.join("bin/busybox")).expect("busybox can be copied");
    symlink("busybox", tree.join("bin/sh")).expect("a link can be made");
    copy_modules(&kernel.boot_modules, &tree.join("modules"));
    let init = "#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t ext4 /dev/vda /root
exec $b switch_root /root /start
";
    write_executable(&tree.join("init"), init);
    let archive = "find . | cpio --create --format=newc --quiet";
    let cpio = Command::new("sh").args(["-c", archive]).current_dir(&tree).stderr(Stdio::null()).output();
    cpio.ok().filter(|cpio| cpio.status.success()).expect("cpio packs").stdout
}

/// The static busybox of this machine.
fn busybox() -> PathBuf {
    ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.is_file()).expect("busybox")
}

fn write_executable(path: &Path, content: &str) {
    fs::write(path, content).expect("a script can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Copies modules, and says in which order to load them.
fn copy_modules(modules: &[PathBuf], directory: &Path) {
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().expect("a module is a file");
        fs::copy(module, directory.join(name)).expect("a module can be copied");
        order.push_str(&format!("{}\n", name.to_string_lossy()));
    }
    fs::write(directory.join("order"), order).expect("a list can be written");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_directory { pending.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}
