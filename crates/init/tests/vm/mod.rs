//! A real guest for the tests: QEMU in software, a distribution's kernel, this init, and the host's end of the channel.

pub mod channel;
pub mod cpio;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use channel::Host;
use guest::{
    RunSpec,
    spec::{Address, HostEntry, Interface, Network, Root},
};
use tempfile::TempDir;

/// Long enough for software emulation on a busy machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The modules that a guest needs, in an order that satisfies their dependencies.
const MODULES: [&str; 12] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_mmio.ko",
    "drivers/block/virtio_blk.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/char/virtio_console.ko",
    "fs/overlayfs/overlay.ko",
    "net/vmw_vsock/vsock.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport_common.ko",
    "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
];

/// What guests are made of.
pub struct Parts {
    kernel: PathBuf,
    modules: PathBuf,
}

impl Parts {
    /// What this machine has, or why there can be no guest on it.
    pub fn find() -> Result<Self, String> {
        for tool in ["qemu-system-x86_64", "mke2fs", "e2fsck", "busybox"] {
            let found = std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(tool).exists()));
            if !found {
                return Err(format!("{tool} is not installed"));
            }
        }
        let root = std::env::var_os("DUNLIN_TEST_KERNEL_DIR").ok_or(
            "DUNLIN_TEST_KERNEL_DIR does not name a directory with an unpacked kernel package (boot/, lib/modules/)",
        )?;
        let root = Path::new(&root);
        let only = |directory: PathBuf, prefix: &str| {
            let mut entries = fs::read_dir(&directory).into_iter().flatten().flatten();
            let entry = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
            entry.map(|entry| entry.path()).ok_or(format!("there is no {prefix}* in {}", directory.display()))
        };
        Ok(Self {
            kernel: only(root.join("boot"), "vmlinuz-")?,
            modules: only(root.join("lib/modules"), "")?.join("kernel"),
        })
    }
}

/// A guest's disks and sockets; removed with it.
pub struct Vm {
    directory: TempDir,
    qemu: Child,
}

impl Vm {
    /// Starts a guest. `prepare` fills the tree of its image, which holds busybox already.
    pub fn start(parts: &Parts, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let tree = path("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy(which("busybox"), tree.join("bin/busybox")).unwrap();
        prepare(&tree);
        make_ext4(&path("lower"), 64, Some(&tree));
        make_ext4(&path("upper"), 64, None);
        make_ext4(&path("volume"), 64, None);
        fs::write(path("initramfs"), initramfs(parts)).unwrap();
        let qemu = qemu(parts, directory.path());
        Self { directory, qemu }
    }

    /// Connects to the guest, as a host process that has just started does.
    pub fn connect(&self) -> Host {
        Host::connect(&self.directory.path().join("channel"), PATIENCE)
    }

    /// Waits until the virtual machine has ended, and returns its disks: `upper`, `volume`.
    pub fn ended(mut self) -> Disks {
        let deadline = Instant::now() + PATIENCE;
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "the guest does not end; its console:\n{}", self.console());
            std::thread::yield_now();
        }
        Disks(std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap()))
    }

    /// What the guest has written to its console, and QEMU to its standard error.
    fn console(&self) -> String {
        let read = |name| fs::read(self.directory.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("console"), read("complaints")].concat()).into_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if std::thread::panicking() {
            eprintln!("the guest's console:\n{}", self.console());
        }
    }
}

/// Disks of a guest that has ended.
pub struct Disks(TempDir);

impl Disks {
    /// Whether a file system was left in order: nothing to repair, nothing to replay.
    pub fn is_clean(&self, disk: &str) -> bool {
        let path = self.0.path().join(disk);
        let state = Command::new("dumpe2fs").arg("-h").arg(&path).stderr(Stdio::null()).output().unwrap();
        let state = String::from_utf8_lossy(&state.stdout).into_owned();
        let check = Command::new("e2fsck").arg("-fn").arg(&path).output().unwrap();
        check.status.success() && state.contains("clean\n") && !state.contains("needs_recovery")
    }

    /// The content of a file on a disk.
    pub fn read(&self, disk: &str, file: &str) -> String {
        let output =
            Command::new("debugfs").arg("-R").arg(format!("cat {file}")).arg(self.0.path().join(disk)).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }
}

/// A spec that runs `script` in the guest's shell.
pub fn run_script(script: &str) -> RunSpec {
    let ip = |text: &str| text.parse().unwrap();
    RunSpec {
        boot_id: "boot-1".into(),
        hostname: "heron".into(),
        argv: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).into(),
        env: vec!["PATH=/bin".into(), "GREETING=hello world".into()],
        root: Root { lower: "serial:lower".into(), upper: "serial:upper".into() },
        network: Network {
            interface: Some(Interface {
                mac: Some("02:00:00:00:00:07".into()),
                addresses: vec![Address { ip: ip("10.9.0.2"), prefix: 32 }, Address { ip: ip("fdaa::7"), prefix: 112 }],
                gateway_v4: Some([10, 9, 0, 1].into()),
                gateway_v6: Some("fe80::1".parse().unwrap()),
                mtu: 1420,
            }),
            nameservers: vec![ip("fdaa::3")],
            hosts: vec![HostEntry { ip: ip("fdaa::7"), names: vec!["heron".into()] }],
        },
        nofile: 10240,
        unix_ns: 1_800_000_000_000_000_000,
        ..RunSpec::default()
    }
}

fn which(tool: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|directory| directory.join(tool)).find(|path| path.exists()).unwrap()
}

fn make_ext4(path: &Path, mib: u64, tree: Option<&Path>) {
    File::create(path).unwrap().set_len(mib << 20).unwrap();
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4"]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    assert!(command.arg(path).status().unwrap().success());
}

/// The static init if `DUNLIN_TEST_INIT` names one, else the one that cargo has just built, with the libraries it
/// is linked to.
fn initramfs(parts: &Parts) -> Vec<u8> {
    let mut archive = cpio::Archive::default();
    archive.directory("modules");
    let names = MODULES.map(|path| path.rsplit('/').next().unwrap());
    archive.file("modules/order", 0o644, names.join("\n").as_bytes());
    for (path, name) in MODULES.iter().zip(names) {
        archive.file(&format!("modules/{name}"), 0o644, &fs::read(parts.modules.join(path)).unwrap());
    }
    if let Some(init) = std::env::var_os("DUNLIN_TEST_INIT") {
        archive.file("init", 0o755, &fs::read(init).unwrap());
        return archive.finish();
    }
    archive.file("init", 0o755, &fs::read(env!("CARGO_BIN_EXE_init")).unwrap());
    for directory in ["lib64", "lib", "lib/x86_64-linux-gnu"] {
        archive.directory(directory);
    }
    for library in
        ["lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libgcc_s.so.1"]
    {
        archive.file(library, 0o755, &fs::read(Path::new("/").join(library)).unwrap());
    }
    archive.finish()
}

fn qemu(parts: &Parts, directory: &Path) -> Child {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "microvm,x-option-roms=off,isa-serial=on,rtc=on,acpi=on", "-accel", "tcg", "-cpu", "max"]);
    command.args(["-m", "256", "-smp", "1", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(path("initramfs"));
    command.arg("-append").arg(format!("console=ttyS0 reboot=t panic=-1 tsc_early_khz={}", tsc_khz()));
    command.arg("-serial").arg(format!("file:{}", path("console")));
    for (disk, options) in [("lower", ",readonly=on"), ("upper", ""), ("volume", "")] {
        command.arg("-drive").arg(format!("id={disk},file={},format=raw,if=none{options}", path(disk)));
        command.arg("-device").arg(format!("virtio-blk-device,drive={disk},serial={disk}"));
    }
    command.args([
        "-netdev",
        "hubport,id=net,hubid=0",
        "-device",
        "virtio-net-device,netdev=net,mac=02:00:00:00:00:07",
    ]);
    command.args(["-device", "virtio-serial-device", "-device", "virtserialport,chardev=channel,name=dunlin.0"]);
    command.arg("-chardev").arg(format!("socket,id=channel,path={},server=on,wait=off", path("channel")));
    let complaints = File::create(path("complaints")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints).spawn().unwrap()
}

/// The processor's time stamp counter, which the guest cannot measure in software emulation.
fn tsc_khz() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    let read = || unsafe { std::arch::x86_64::_rdtsc() };
    let (begin, first) = (Instant::now(), read());
    while begin.elapsed() < Duration::from_millis(20) {}
    let (ticks, elapsed) = (read() - first, begin.elapsed());
    ticks * 1_000_000 / elapsed.as_nanos() as u64
}
