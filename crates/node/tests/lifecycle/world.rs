//! What the tests share: a network of their own, a node with its surroundings, machines, and the search for leftovers.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use api::internal::{Drain, ExecEvent, ExecRequest, ImageError, LogSink, Node, NodeView, Rootfs, RootfsSource};
use async_trait::async_trait;
use kit::seal::SealingKey;
use model::{
    ImageConfig, ImageSpec, MachineId,
    log::LogRecord,
    machine::{MachineSpec, MachineState, Observed},
};
use node::{LocalNode, Machinery, NodeOptions, StepProbe, kernel::GuestKernel};
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::vm::Double;

/// Says that the process has a network of its own, and by which tag its instance is known: control groups have no
/// namespace that a test could have for itself.
const OWN: &str = "DUNLIN_TEST_OWN_NETWORK";
const HIERARCHIES: [&str; 4] = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids"];
/// Far longer than anything here takes, a guest in software emulation on a busy host included.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs the rest of a test in a process with its own network, if it is not there already. `false` where the test is over:
/// it has been run there, or cannot be run here.
pub fn in_own_network(test: &str) -> bool {
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let possible = Command::new("unshare").args(["-n", "true"]).stderr(Stdio::null()).status();
    let runs = |tool: &&str| Command::new(tool).arg("-V").stdin(Stdio::null()).output().is_ok();
    if !possible.is_ok_and(|status| status.success()) || !["nft", "mke2fs"].iter().all(runs) {
        eprintln!("skipped: {test}: needs root, unshare, nft and mke2fs");
        return false;
    }
    let (mut run, tag) = (Command::new("unshare"), &kit::random::token()[..6]);
    let run = run_to_end(run.arg("-n").arg(this_program()).args(["--exact", test, "--nocapture"]).env(OWN, tag));
    end_what_is_left(tag);
    assert!(run.contains("1 passed"), "{run}");
    false
}

/// This program, even if its file has been replaced by a newer one meanwhile.
pub fn this_program() -> String {
    format!("/proc/{}/exe", std::process::id())
}

/// Ends what a failed test has left running, and removes the control groups of its instance: those of this tag only.
fn end_what_is_left(tag: &str) {
    for root in HIERARCHIES {
        let instance = Path::new(root).join(format!("dunlin-{tag}"));
        for group in names(&instance).into_iter().map(|name| instance.join(name)).filter(|path| path.is_dir()) {
            end_group(&group);
        }
        let _ = fs::remove_dir(&instance);
    }
}

fn end_group(group: &Path) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while fs::remove_dir(group).is_err() && group.exists() && std::time::Instant::now() < deadline {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::yield_now();
    }
}

/// The tag of this test's instance.
fn tag() -> String {
    std::env::var(OWN).expect("the test runs in its own network")
}

fn run_to_end(command: &mut Command) -> String {
    let run = command.output().unwrap();
    String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr)
}

/// The log of all apps.
#[derive(Default)]
pub struct Log(pub Mutex<Vec<LogRecord>>);

impl LogSink for Log {
    fn append(&self, record: LogRecord) {
        self.0.lock().unwrap().push(record);
    }
}

/// Images: the configuration says which program is to be run; the file is the real one of the directory, if there is
/// one, else any.
struct Images(PathBuf);

#[async_trait]
impl RootfsSource for Images {
    async fn rootfs(&self, image: &ImageSpec) -> Result<Rootfs, ImageError> {
        if image.reference == "missing" {
            let reason = "it is not in the registry; push it".to_owned();
            return Err(ImageError::NotFound { reference: image.reference.clone(), reason });
        }
        let real = self.0.join("real.ext4");
        let path = if real.exists() { real } else { self.0.join("key") };
        let cmd = image.reference.split(' ').map(str::to_owned).collect();
        let env = vec!["FROM=image".into(), "FLY_APP_NAME=forged".into()];
        Ok(Rootfs { path, config: ImageConfig { cmd, env, ..ImageConfig::default() } })
    }
}

/// The traffic of machines: what is still under way when the time to drain is over.
pub struct Traffic {
    left: Mutex<BTreeMap<MachineId, usize>>,
    /// Draining ends.
    ends: watch::Sender<bool>,
    /// Who was drained, and what it did as far as everybody could see.
    asked: Mutex<Vec<(MachineId, MachineState)>>,
    node: OnceLock<Arc<LocalNode>>,
}

impl Traffic {
    fn new() -> Arc<Self> {
        let (left, asked, node) = (Mutex::default(), Mutex::default(), OnceLock::new());
        Arc::new(Self { left, ends: watch::Sender::new(true), asked, node })
    }

    pub fn set(&self, id: &MachineId, left: usize) {
        self.left.lock().unwrap().insert(id.clone(), left);
    }

    /// From now on draining does not end.
    pub fn hold(&self) {
        self.ends.send_replace(false);
    }

    pub fn release(&self) {
        self.ends.send_replace(true);
    }

    pub fn asked(&self) -> Vec<(MachineId, MachineState)> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Drain for Traffic {
    async fn drained(&self, id: &MachineId, generation: u64, _: Duration) -> usize {
        let view = self.node.get().unwrap().observe().borrow().clone();
        assert!(view.generation >= generation, "what it shall have seen is published");
        self.asked.lock().unwrap().push((id.clone(), view.machines[id].state));
        self.ends.subscribe().wait_for(|ends| *ends).await.unwrap();
        self.left.lock().unwrap().get(id).copied().unwrap_or_default()
    }
}

/// A node and what is around it.
pub struct World {
    pub directory: PathBuf,
    pub node: Arc<LocalNode>,
    pub log: Arc<Log>,
    pub key: SealingKey,
    pub traffic: Arc<Traffic>,
}

impl World {
    pub async fn open(directory: &Path, probe: StepProbe) -> Self {
        Self::open_with(directory, probe, Duration::from_secs(30)).await
    }

    pub async fn open_with(directory: &Path, probe: StepProbe, boot_timeout: Duration) -> Self {
        let kernel = GuestKernel {
            release: "none".into(),
            key: "none".into(),
            vmlinux: PathBuf::new(),
            initramfs_qemu: PathBuf::new(),
            initramfs_firecracker: PathBuf::new(),
        };
        let machinery =
            Machinery::Given { vmm: Arc::new(Double), kernel: Arc::new(kernel), why: "for the tests".into() };
        Self::open_on(directory, probe, boot_timeout, machinery).await
    }

    pub async fn open_on(directory: &Path, probe: StepProbe, boot_timeout: Duration, machinery: Machinery) -> Self {
        let log = Arc::new(Log::default());
        let key = SealingKey::load_or_create(&directory.join("key")).unwrap();
        let images = Arc::new(Images(directory.to_owned()));
        let region = "local".parse().unwrap();
        let options = NodeOptions::new(directory.to_owned(), region, machinery, key.clone(), images, log.clone());
        let traffic = Traffic::new();
        let drain = traffic.clone();
        let tag = tag().parse().unwrap();
        let options = NodeOptions { tag, overlay_size_gb: 1, boot_timeout, probe, drain, ..options };
        let node = LocalNode::open(options).await.unwrap();
        let _ = traffic.node.set(node.clone());
        Self { directory: directory.to_owned(), node, log, key, traffic }
    }

    pub fn seen(&self, id: &MachineId) -> Option<Arc<Observed>> {
        self.node.observe().borrow().machines.get(id).cloned()
    }

    /// Waits until a machine is as wanted.
    pub async fn until(&self, id: &MachineId, wanted: impl Fn(&Observed) -> bool) -> Arc<Observed> {
        let mut view = self.node.observe();
        let reached = |view: &Arc<NodeView>| view.machines.get(id).is_some_and(|machine| wanted(machine));
        let reached = timeout(PATIENCE, view.wait_for(reached)).await.map(|view| view.map(|view| view.clone()));
        match reached {
            Ok(view) => view.unwrap().machines[id].clone(),
            Err(_) => panic!("not reached: {:?}", self.seen(id)),
        }
    }

    /// What a command of one word prints in a guest.
    pub async fn exec(&self, id: &MachineId, command: &str) -> String {
        self.run(id, &[command]).await
    }

    /// What a command prints in a guest.
    pub async fn run(&self, id: &MachineId, command: &[&str]) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let request = ExecRequest { command, ..ExecRequest::default() };
        let mut session = self.node.exec(id, request).await.unwrap();
        let mut text = Vec::new();
        loop {
            match timeout(PATIENCE, session.output.recv()).await.unwrap() {
                Some(ExecEvent::Stdout(bytes)) => text.extend_from_slice(&bytes),
                Some(ExecEvent::Exit { code: 0, signal: 0 }) => return String::from_utf8(text).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The messages in the log.
    pub fn messages(&self) -> Vec<String> {
        self.log.0.lock().unwrap().iter().map(|record| record.message.clone()).collect()
    }
}

/// A machine that runs `program`.
pub fn machine(number: u8, program: &str) -> MachineSpec {
    serde_json::from_value(json!({
        "id": MachineId::from_random([number; 7]), "name": "m", "org": "o", "app": "a", "network": 1, "region": "local",
        "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "image": {"reference": program, "digest": format!("sha256:{}", format!("{number:02x}").repeat(32))},
        "config": {"image": "a:v1", "restart": {"policy": "no"}}, "secrets": {"version": 0, "sealed": ""},
    }))
    .unwrap()
}

/// Everything of this instance that is on the host, in words.
pub fn leftovers(directory: &Path) -> Vec<String> {
    let (mut found, tag) = (Vec::new(), tag());
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    found.extend(links.lines().filter(|line| line.contains(&format!("dl{tag}-"))).map(|line| format!("tap {line}")));
    let table = run_to_end(Command::new("nft").args(["list", "table", "inet", &format!("dunlin_{tag}")]));
    found.extend(
        table.lines().filter(|line| line.contains(&format!("dl{tag}-")) && !line.contains('*')).map(str::to_owned),
    );
    for root in HIERARCHIES {
        let groups = names(&Path::new(root).join(format!("dunlin-{tag}")));
        let groups = groups.into_iter().filter(|name| name.parse::<MachineId>().is_ok());
        found.extend(groups.map(|name| format!("control group {root} {name}")));
    }
    let ours = format!("DUNLIN_TEST_VM={}", directory.display());
    let processes = names(Path::new("/proc")).into_iter().filter(|name| name.parse::<u32>().is_ok());
    found.extend(
        processes.filter(|pid| environment(pid).is_ok_and(|it| it.contains(&ours))).map(|it| format!("process {it}")),
    );
    let expected = [".templates", "generation", "host-settings.json"];
    let files = names(&directory.join("machines")).into_iter().filter(|name| !expected.contains(&name.as_str()));
    found.extend(files.map(|name| format!("file machines/{name}")));
    found
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn environment(pid: &str) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ"))?).into_owned())
}
