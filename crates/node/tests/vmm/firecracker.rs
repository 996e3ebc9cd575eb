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
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::emulated::{EmulatedHost, HostKernel, Tree};
use guest::{
    RunSpec,
    spec::{Address, Interface, Network},
};
use model::machine::Isolation;
use node::{
    kernel::GuestKernel,
    link::{Link, Session},
    vmm::{self, Driver, Nic, Vm, VmPlan, VmRecord, Vmm},
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
    let Some(kernel) = HostKernel::find(&kernels) else { return skip("the kernel package holds no KVM for AMD") };

    let scratch = tempfile::tempdir().unwrap();
    let tree = furnish(scratch.path().join("tree"), &kernel, &host, &firecracker, &jailer);
    let console = EmulatedHost::start(scratch.path(), &kernel, &tree, 700, 1024).finish(SCENARIO_PATIENCE);
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
    plan.nic = Some(Nic { tap: Some("tap0".into()), mac: [2, 0, 0, 0, 0, 7] });
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

    let record = goes_on(&host, choice.vmm.as_ref(), &mut plan, record, link).await;
    let (link, _) = host.link(Vm::adopt(record.clone()));
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

/// Keeps the guest's memory and goes on with it, in another process.
async fn goes_on(host: &Host, firecracker: &dyn Vmm, plan: &mut VmPlan, record: VmRecord, link: Link) -> VmRecord {
    let before = shell(&link, "echo kept > /kept; echo 5 > /dev/shm/number; cat /proc/sys/kernel/random/boot_id").await;
    link.close().await;
    let memory = host.data().join("memory");
    let begun = Instant::now();
    firecracker.suspend(&record, &memory).await.unwrap();
    println!("figure: memory written in {:?}", begun.elapsed());
    record.process.kill().await.unwrap();
    vmm::clear(&plan.dir).unwrap();
    plan.memory = Some(memory.clone());
    let begun = Instant::now();
    let vm = firecracker.launch(plan).await.unwrap();
    vmm::remove_memory(&memory).unwrap();
    plan.memory = None;
    let record = vm.record.clone();
    let (link, _) = host.link(vm);
    host.reach(&link, |status| matches!(status.session, Session::Open(_))).await;
    println!("figure: it goes on after {:?}", begun.elapsed());
    assert_eq!(shell(&link, "cat /proc/sys/kernel/random/boot_id").await, before);
    assert_eq!(shell(&link, "cat /kept /dev/shm/number").await, (0, "kept\n5\n".to_owned()));
    assert_eq!(fetch("/marker"), "the image\n");
    assert_jailed(record.process.pid);
    link.close().await;
    record
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

/// What the emulated host does.
const SCRIPT: &str = "mkdir /sys/fs/cgroup/machine
tunctl -t tap0; ip address add 10.9.0.1/24 dev tap0; ip link set tap0 up
INSIDE=1 /test --exact firecracker::inside --nocapture 2>&1
echo the scenario ended with status $?";

/// Fills the disk of the emulated host.
fn furnish(tree: PathBuf, kernel: &HostKernel, host: &Host, firecracker: &Path, jailer: &Path) -> Tree {
    let tree = Tree::new(tree, kernel, &SCRIPT.replace("INSIDE", INSIDE));
    tree.program(&std::env::current_exe().unwrap(), "test");
    tree.program(firecracker, "usr/bin/firecracker");
    tree.program(jailer, "usr/bin/jailer");
    tree.directory(host.kernel.vmlinux.parent().unwrap(), "host/kernel");
    guests::image(tree.place("host/lower").parent().unwrap());
    tree
}
