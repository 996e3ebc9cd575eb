//! A host with what guests need: a kernel, disks, a driver.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use guest::{LogRecord, RunSpec, spec::Root};
use model::MachineId;
use node::{
    kernel::{GuestKernel, KernelSource},
    link::{Link, LinkStatus},
    vmm::{self, Disk, Driver, Vm, VmPlan, VmUser, Vmm},
};
use tempfile::TempDir;
use tokio::{sync::Notify, time::timeout};

/// Long enough for software emulation on a busy machine; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A script that lives until it is told to end, and says so.
pub const SERVE: &str = "trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 1000 & wait; done";

/// What one test runs its guests with; removed with it, and so are guests that still run.
pub struct Host {
    directory: PathBuf,
    pub kernel: Arc<GuestKernel>,
    temporary: Option<TempDir>,
}

macro_rules! host_or_skip {
    ($test:literal) => {
        match $crate::guests::Host::find() {
            Ok(host) => host,
            Err(reason) => return eprintln!("skipped: {}: {reason}", $test),
        }
    };
}
pub(crate) use host_or_skip;

impl Host {
    /// What this machine has, or why there can be no guest on it.
    pub fn find() -> Result<Self, String> {
        for tool in ["qemu-system-x86_64", "mke2fs", "busybox"] {
            which(tool).ok_or(format!("{tool} is not installed"))?;
        }
        let source = KernelSource::Directory(kernel_directory()?);
        let temporary = tempfile::tempdir().unwrap();
        let kernel = GuestKernel::prepare(&source, &temporary.path().join("data"), node::INIT).unwrap();
        for path in [&kernel.vmlinux, &kernel.initramfs_qemu, &kernel.initramfs_firecracker] {
            eprintln!("{}: {} KiB", path.display(), fs::metadata(path).unwrap().len() / 1024);
        }
        image(temporary.path());
        let host = Self::with(temporary.path(), kernel);
        Ok(host.removed_with(temporary))
    }

    /// A host whose directory holds the disks already.
    pub fn with(directory: &Path, kernel: Arc<GuestKernel>) -> Self {
        Self { directory: directory.to_owned(), kernel, temporary: None }
    }

    fn removed_with(mut self, directory: TempDir) -> Self {
        self.temporary = Some(directory);
        self
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Where the console of the VM last linked to is kept.
    pub fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// The driver that works on any host.
    pub async fn qemu(&self) -> Arc<dyn Vmm> {
        vmm::choose(Driver::Qemu, &self.kernel, &self.data(), user()).await.unwrap().vmm
    }

    /// A VM with the image, a writable layer and a volume.
    pub fn plan(&self) -> VmPlan {
        let machine = MachineId::from_random(kit::random::bytes());
        let disk = |name: &str, read_only| Disk { path: self.directory.join(name), read_only };
        VmPlan {
            dir: self.data().join("machines").join(machine.as_str()).join("run"),
            machine,
            cpus: 1,
            memory_mb: 256,
            kernel: self.kernel.clone(),
            kernel_args: Vec::new(),
            disks: vec![disk("lower", true), disk("upper", false), disk("volume", false)],
            nic: None,
            cgroup_procs: Vec::new(),
            user: user(),
            memory: None,
        }
    }

    /// A link to a VM, and the log records that come over it.
    pub fn link(&self, vm: Vm) -> (Link, Logs) {
        let logs = Logs::default();
        let taker = logs.clone();
        let link = Link::open(vm, self.console(), Arc::new(move |record| taker.take(record)));
        (link, logs)
    }

    /// Runs a script as the guest's program.
    pub async fn boot(&self, link: &Link, script: &str) {
        timeout(PATIENCE, link.boot(run_script(script))).await.expect("the guest boots").unwrap();
    }

    /// Waits until the link knows something.
    pub async fn reach(&self, link: &Link, reached: impl FnMut(&LinkStatus) -> bool) -> LinkStatus {
        let mut status = link.status();
        let found = timeout(PATIENCE, status.wait_for(reached)).await.map(|found| found.unwrap().clone());
        found.unwrap_or_else(|_| panic!("not reached; console:\n{}", node::link::console_tail(&self.console(), 10_000)))
    }
}

impl Drop for Host {
    /// Ends what a failed test has left.
    fn drop(&mut self) {
        let machines = fs::read_dir(self.data().join("machines")).into_iter().flatten().flatten();
        for entry in machines {
            let machine: MachineId = entry.file_name().to_str().unwrap().parse().unwrap();
            if let Some(left) = vmm::find(&machine, &entry.path().join("run")) {
                let _ = Command::new("kill").args(["-KILL", &left.process.pid.to_string()]).status();
            }
        }
        drop(self.temporary.take());
    }
}

/// A spec that runs a script on the disks of [`Host::plan`].
pub fn run_script(script: &str) -> RunSpec {
    RunSpec {
        boot_id: "boot".into(),
        argv: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".into()],
        root: Root { lower: "vda".into(), upper: "vdb".into() },
        ..RunSpec::default()
    }
}

/// Where the tests find a guest kernel.
pub fn kernel_directory() -> Result<PathBuf, String> {
    let directory = std::env::var_os("DUNLIN_TEST_KERNEL_DIR").ok_or(
        "DUNLIN_TEST_KERNEL_DIR does not name a directory with an unpacked kernel package (boot/, lib/modules/)",
    )?;
    Ok(directory.into())
}

/// Who VMs run as: nobody in particular, where we may choose.
pub fn user() -> VmUser {
    let own = nix::unistd::geteuid();
    if own.is_root() {
        VmUser { uid: 61_001, gid: 61_001 }
    } else {
        VmUser { uid: own.as_raw(), gid: nix::unistd::getegid().as_raw() }
    }
}

/// The log records of a guest.
#[derive(Clone, Default)]
pub struct Logs(Arc<(Mutex<Vec<String>>, Notify)>);

impl Logs {
    fn take(&self, record: LogRecord) {
        self.0.0.lock().unwrap().push(String::from_utf8_lossy(&record.bytes).into_owned());
        self.0.1.notify_waiters();
    }

    /// Waits until the guest has said this.
    pub async fn wait_for(&self, text: &str) {
        let heard = async {
            loop {
                let changed = self.0.1.notified();
                if self.0.0.lock().unwrap().iter().any(|line| line == text) {
                    return;
                }
                changed.await;
            }
        };
        timeout(PATIENCE, heard).await.expect("the guest says it");
    }
}

/// Makes the disks: an image with busybox, a writable layer, a volume; each of another size.
pub fn image(directory: &Path) {
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(which("busybox").unwrap(), tree.join("bin/busybox")).unwrap();
    for name in ["cat", "ls", "dd", "sleep", "echo"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
    }
    fs::write(tree.join("marker"), "the image\n").unwrap();
    make_ext4(&directory.join("lower"), 12, Some(&tree));
    make_ext4(&directory.join("upper"), 16, None);
    make_ext4(&directory.join("volume"), 20, None);
}

pub fn make_ext4(path: &Path, size_mb: u64, tree: Option<&Path>) {
    File::create(path).unwrap().set_len(size_mb << 20).unwrap();
    let mut mke2fs = Command::new(which("mke2fs").unwrap());
    mke2fs.args(["-q", "-F", "-t", "ext4"]);
    if let Some(tree) = tree {
        mke2fs.arg("-d").arg(tree);
    }
    assert!(mke2fs.arg(path).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
}

pub fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .map(|dir| dir.join(tool))
        .find(|p| p.is_file())
}
