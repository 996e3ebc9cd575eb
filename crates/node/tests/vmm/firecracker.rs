//! The real Firecracker and its jailer, in an emulated host.
//!
//! Firecracker needs hardware virtualization, which few test machines offer. QEMU can emulate a processor that has it
//! (AMD SVM), so the scenario runs in a host of its own:
//!
//! ```text
//!   this test ─▶ QEMU, software ─▶ Linux with KVM ─▶ this program again, `inside` ─▶ jailer ─▶ Firecracker ─▶ guest
//! ```

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use guest::{
    RunSpec,
    spec::{Address, Interface, Network},
};
use model::machine::Isolation;
use node::{
    kernel::GuestKernel,
    link::Session,
    vmm::{self, Driver, Nic, Vm},
};
use tokio::time::timeout;

use crate::{
    guests::{self, Host, PATIENCE, host_or_skip, run_script, which},
    shell,
};

/// Marks the host inside, where the scenario runs.
const INSIDE: &str = "DUNLIN_TEST_EMULATED_HOST";
/// Emulation twice over takes its time; reached only when something is broken.
const SCENARIO_PATIENCE: Duration = Duration::from_secs(400);

/// What the emulated host loads, each after what it needs; some kernels have some of these built in.
const BOOT_MODULES: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];
const HOST_MODULES: [&str; 5] = ["irqbypass", "kvm", "ccp", "kvm-amd", "tun"];

#[test]
fn firecracker_runs_an_app_in_its_jail_on_an_emulated_host() {
    let test = "firecracker_runs_an_app_in_its_jail_on_an_emulated_host";
    let skip = |reason: &str| eprintln!("skipped: {test}: {reason}");
    let Some(firecracker) = std::env::var_os("DUNLIN_FIRECRACKER").map(PathBuf::from).or_else(|| which("firecracker"))
    else {
        return skip("firecracker is neither in PATH nor named by DUNLIN_FIRECRACKER");
    };
    let jailer = firecracker.with_file_name("jailer");
    let Some(jailer) = Some(jailer).filter(|path| path.is_file()).or_else(|| which("jailer")) else {
        return skip("jailer is neither beside firecracker nor in PATH");
    };
    let host = host_or_skip!("firecracker_runs_an_app_in_its_jail_on_an_emulated_host");
    let kernels = guests::kernel_directory().expect("a host was found with it");
    if which("cpio").is_none() {
        return skip("cpio is not installed");
    }
    let Some(parts) = Parts::find(&kernels) else { return skip("the kernel package holds no KVM for AMD") };

    let scratch = tempfile::tempdir().unwrap();
    let console = EmulatedHost::start(scratch.path(), &parts, &host, &firecracker, &jailer).finish();
    for line in console.lines().filter(|line| line.starts_with("figure:")) {
        eprintln!("{line}");
    }
    assert!(console.contains("the scenario ended with status 0"), "{console}");
}

/// What the scenario does in the emulated host; elsewhere, nothing.
#[tokio::test(flavor = "multi_thread")]
async fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let file = |name: &str| Path::new("/host/kernel").join(name);
    let kernel = GuestKernel {
        release: "prepared outside".into(),
        key: fs::read_to_string(file("key")).unwrap(),
        vmlinux: file("vmlinux"),
        initramfs_qemu: file("initramfs-qemu"),
        initramfs_firecracker: file("initramfs-firecracker"),
    };
    let host = Host::with(Path::new("/host"), kernel.into());
    fs::create_dir_all(host.data()).unwrap();
    let begun = Instant::now();
    let choice = vmm::choose(Driver::Auto, &host.kernel, &host.data(), guests::user()).await.unwrap();
    println!("figure: choosing took {:?}: {}", begun.elapsed(), choice.why);
    assert_eq!(choice.vmm.isolation(), Isolation::Firecracker);

    let mut plan = host.plan();
    plan.nic = Some(Nic { tap: "tap0".into(), mac: [2, 0, 0, 0, 0, 7] });
    plan.cgroup_procs = vec!["/sys/fs/cgroup/machine/cgroup.procs".into()];
    let begun = Instant::now();
    let vm = choice.vmm.launch(&plan).await.unwrap();
    let launched = begun.elapsed();
    let record = vm.record.clone();
    let (link, logs) = host.link(vm);
    host.reach(&link, |status| matches!(status.session, Session::Open(_))).await;
    let hello = begun.elapsed();
    timeout(PATIENCE, link.boot(web_server())).await.unwrap().unwrap();
    let started = begun.elapsed();
    let start = link.status().borrow().start.unwrap();
    println!("figure: launched after {launched:?}, hello after {hello:?}, started after {started:?}; guest: {start:?}");
    logs.wait_for("serving").await;

    assert_eq!(fetch("/marker"), "the image\n");
    println!("figure: first answer over HTTP after {:?}", begun.elapsed());
    assert_jailed(record.process.pid);
    let (code, stdout) = shell(&link, "cat /proc/cmdline; cat /sys/block/vda/ro /sys/block/vdb/ro").await;
    assert_eq!((code, stdout.lines().skip(1).collect::<Vec<_>>()), (0, vec!["1", "0"]));
    println!("figure: command line {}", stdout.lines().next().unwrap());

    // Another process takes over.
    link.close().await;
    let found = vmm::find(&plan.machine, &plan.dir).unwrap();
    assert_eq!(found, record);
    let (link, _) = host.link(Vm::adopt(found));
    let (code, stdout) = shell(&link, "echo adopted").await;
    assert_eq!((code, stdout.as_str()), (0, "adopted\n"));

    timeout(PATIENCE, link.stop(0, Duration::from_secs(30))).await.unwrap().unwrap();
    link.power_off().await.unwrap();
    host.reach(&link, |status| status.session == Session::Gone).await;
    link.close().await;
    assert!(!record.process.alive());
    vmm::clear(&plan.dir).unwrap();
    assert!(!plan.dir.exists());

    // One that is killed leaves nothing that clearing its directory does not remove.
    plan.nic = None;
    let vm = choice.vmm.launch(&plan).await.unwrap();
    vm.record.process.kill().await.unwrap();
    assert!(vmm::find(&plan.machine, &plan.dir).is_none());
    vmm::clear(&plan.dir).unwrap();
}

fn web_server() -> RunSpec {
    let interface = Interface {
        mac: Some("02:00:00:00:00:07".into()),
        addresses: vec![Address { ip: [10, 9, 0, 2].into(), prefix: 24 }],
        ..Interface::default()
    };
    RunSpec {
        network: Network { interface: Some(interface), ..Network::default() },
        ..run_script("echo serving; exec /bin/busybox httpd -f -p 8080 -h /")
    }
}

/// Fetches from the guest, once it accepts connections.
fn fetch(path: &str) -> String {
    let address = SocketAddr::from(([10, 9, 0, 2], 8080));
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") || answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The process is nobody in particular, sees no file but its own, and is counted in its control group.
fn assert_jailed(pid: u32) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = read("status");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let user = guests::user();
    assert_eq!(field("Uid:"), vec![user.uid.to_string(); 4].join("\t"));
    assert_eq!((field("CapEff:"), field("NoNewPrivs:")), ("0000000000000000", "1"));
    println!("figure: system call filter of Firecracker: mode {}", field("Seccomp:"));
    assert!(read("cgroup").contains("/machine"), "{}", read("cgroup"));
    let mut seen: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/root/")).unwrap().map(|e| e.unwrap().file_name()).collect();
    seen.sort();
    assert!(seen.contains(&"api.sock".into()) && !seen.contains(&"host".into()), "{seen:?}");
}

/// A kernel that can be such a host, and its modules.
struct Parts {
    image: PathBuf,
    boot_modules: Vec<PathBuf>,
    host_modules: Vec<PathBuf>,
}

impl Parts {
    fn find(kernels: &Path) -> Option<Self> {
        let mut images = fs::read_dir(kernels.join("boot")).ok()?.flatten().map(|entry| entry.path());
        let image = images
            .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")))?;
        let modules = files_below(&kernels.join("lib/modules"));
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

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() { pending.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files
}

/// A host in software; ended with its handle.
struct EmulatedHost {
    qemu: Child,
    console: PathBuf,
}

impl EmulatedHost {
    fn start(scratch: &Path, parts: &Parts, host: &Host, firecracker: &Path, jailer: &Path) -> Self {
        let (disk, initramfs, console) = (scratch.join("disk"), scratch.join("initramfs"), scratch.join("console"));
        let tree = scratch.join("tree");
        furnish(&tree, parts, host, firecracker, jailer);
        guests::make_ext4(&disk, 700, Some(&tree));
        fs::write(&initramfs, boot_archive(scratch, parts)).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt", "-m", "1024", "-smp", "2"]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.arg("-kernel").arg(&parts.image).arg("-initrd").arg(&initramfs);
        command.args(["-append", "console=ttyS0 quiet panic=-1"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-drive").arg(format!("if=none,id=disk,format=raw,file={}", disk.display()));
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        Self { qemu: command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), console }
    }

    /// Waits until the host has turned itself off, and returns what it said.
    fn finish(mut self) -> String {
        let deadline = Instant::now() + SCENARIO_PATIENCE;
        while self.qemu.try_wait().unwrap().is_none() {
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

/// The first program on the emulated host's disk.
const START: &str = "#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup; mkdir /sys/fs/cgroup/machine
for module in $(cat /modules/order); do insmod /modules/$module; done
mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
tunctl -t tap0; ip address add 10.9.0.1/24 dev tap0; ip link set tap0 up; ip link set lo up
INSIDE=1 /test --exact firecracker::inside --nocapture 2>&1
echo the scenario ended with status $?
poweroff -f
";

/// Fills the disk of the emulated host.
fn furnish(tree: &Path, parts: &Parts, host: &Host, firecracker: &Path, jailer: &Path) {
    for directory in ["bin", "usr/bin", "proc", "sys", "dev", "tmp", "modules", "host"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    let busybox = which("busybox").unwrap();
    fs::copy(&busybox, tree.join("bin/busybox")).unwrap();
    for applet in ["sh", "mount", "mkdir", "insmod", "mknod", "tunctl", "ip", "poweroff", "cat", "echo"] {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    let this = std::env::current_exe().unwrap();
    for (program, place) in [(&*this, "test"), (firecracker, "usr/bin/firecracker"), (jailer, "usr/bin/jailer")] {
        fs::copy(program, tree.join(place)).unwrap();
        copy_libraries(program, tree);
    }
    write_executable(&tree.join("start"), &START.replace("INSIDE", INSIDE));
    copy_modules(&parts.host_modules, &tree.join("modules"));
    copy_files(host.kernel.vmlinux.parent().unwrap(), &tree.join("host/kernel"));
    guests::image(&tree.join("host"));
}

/// The archive that the emulated host starts from: it finds the disk and goes on there.
fn boot_archive(scratch: &Path, parts: &Parts) -> Vec<u8> {
    let tree = scratch.join("boot");
    for directory in ["modules", "root", "dev", "bin"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy(which("busybox").unwrap(), tree.join("bin/busybox")).unwrap();
    symlink("busybox", tree.join("bin/sh")).unwrap();
    copy_modules(&parts.boot_modules, &tree.join("modules"));
    let init = "#!/bin/sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t ext4 /dev/vda /root
exec $b switch_root /root /start
";
    write_executable(&tree.join("init"), init);
    let archive = "find . | cpio --create --format=newc --quiet";
    let cpio = Command::new("sh").args(["-c", archive]).current_dir(&tree).stderr(Stdio::null()).output().unwrap();
    assert!(cpio.status.success());
    cpio.stdout
}

fn write_executable(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Copies modules, and says in which order to load them.
fn copy_modules(modules: &[PathBuf], directory: &Path) {
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap();
        fs::copy(module, directory.join(name)).unwrap();
        order.push_str(&format!("{}\n", name.to_string_lossy()));
    }
    fs::write(directory.join("order"), order).unwrap();
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Copies what a program is linked against to the same places below `tree`.
fn copy_libraries(program: &Path, tree: &Path) {
    let listing = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8_lossy(&listing.stdout).split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let place = tree.join(&word[1..]);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(word, place).unwrap();
    }
}
