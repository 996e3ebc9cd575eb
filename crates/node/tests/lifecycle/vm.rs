//! A process in place of a virtual machine: what a VMM and a guest's init do, as far as their host sees it.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use guest::{
    BootFailure, Exit, GuestChannel, GuestEvent, GuestMessage, GuestState, HostMessage, LogRecord, LogSource, RunSpec,
};
use model::machine::Isolation;
use node::vmm::{ProcessId, Vm, VmPlan, VmRecord, Vmm, VmmError};

use crate::world::this_program;

/// Launches such processes.
pub struct Double;

#[async_trait]
impl Vmm for Double {
    fn isolation(&self) -> Isolation {
        Isolation::QemuTcg
    }

    fn memory_overhead_mb(&self) -> u32 {
        64
    }

    async fn launch(&self, plan: &VmPlan) -> Result<Vm, VmmError> {
        let dir = plan.dir.clone();
        let prepare = || -> io::Result<u32> {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("vm"))?;
            for disk in &plan.disks {
                fs::metadata(&disk.path)?;
            }
            let groups: Vec<_> = plan.cgroup_procs.iter().map(|path| path.to_str().unwrap()).collect();
            fs::write(dir.join("groups"), groups.join("\n"))?;
            let mut command = Command::new(this_program());
            command.args(["--exact", "process"]).env("DUNLIN_TEST_VM", &dir).env_remove("DUNLIN_TEST_SCRIPT");
            let child =
                command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            Ok(child.id())
        };
        let pid = prepare().map_err(|source| VmmError::Setup { what: "launch".into(), source })?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !dir.join("ready").exists() {
            assert!(Instant::now() < deadline, "the process in place of a VM does not come up");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let process = ProcessId::of(pid).expect("it has just come up");
        let (machine, isolation) = (plan.machine.clone(), Isolation::QemuTcg);
        Ok(Vm::adopt(VmRecord { machine, isolation, dir, process }))
    }

    async fn suspend(&self, _: &VmRecord, _: &Path) -> Result<(), VmmError> {
        Err(VmmError::Plan("a process in place of a VM has no memory to keep".into()))
    }
}

/// The life of one. What its program does is its command line: `serve`, `exit CODE`, `stubborn` (heeds no signal),
/// `fail` (is not there), `mute` (never gets to run).
pub fn run(dir: &Path) {
    for group in fs::read_to_string(dir.join("groups")).unwrap().lines() {
        fs::write(group, std::process::id().to_string()).unwrap();
    }
    let listener = UnixListener::bind(dir.join("vm/channel.sock")).unwrap();
    let console = UnixListener::bind(dir.join("vm/console.sock")).unwrap();
    thread::spawn(move || {
        for stream in console.incoming() {
            thread::spawn(move || stream.unwrap().read_to_end(&mut Vec::new()));
        }
    });
    fs::write(dir.join("ready"), "").unwrap();
    let mut guest = Guest { state: GuestState::Waiting, spec: RunSpec::default(), logged: 0 };
    loop {
        let (stream, _) = listener.accept().unwrap();
        // A host that goes away breaks the stream; another comes.
        let _ = guest.talk(stream);
    }
}

struct Guest {
    state: GuestState,
    spec: RunSpec,
    logged: u64,
}

impl Guest {
    fn talk(&mut self, mut stream: UnixStream) -> io::Result<()> {
        let mut channel = GuestChannel::default();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let (mut input, mut out) = (&buffer[..count], BytesMut::new());
            while let Some(event) = channel.receive(&mut input, &mut out) {
                match event {
                    GuestEvent::Open { .. } => self.hello().encode(&mut out),
                    GuestEvent::Message(HostMessage::PowerOff) => std::process::exit(0),
                    GuestEvent::Message(message) => {
                        self.obey(message).iter().for_each(|answer| answer.encode(&mut out));
                    }
                    GuestEvent::Incompatible { .. } | GuestEvent::Malformed(_) => {}
                }
            }
            stream.write_all(&out)?;
        }
    }

    fn hello(&self) -> GuestMessage {
        GuestMessage::Hello { init_version: "test".into(), state: self.state.clone() }
    }

    fn obey(&mut self, message: HostMessage) -> Vec<GuestMessage> {
        match message {
            HostMessage::Boot(spec) if self.state == GuestState::Waiting => self.boot(*spec),
            HostMessage::Stop { .. } | HostMessage::Signal { .. } if self.spec.argv[0] == "stubborn" => Vec::new(),
            HostMessage::Stop { signal, .. } => {
                let signal = if signal == 0 { self.spec.stop_signal } else { signal };
                self.exit(Exit { signal, ..Exit::default() })
            }
            HostMessage::Signal { signal } => self.exit(Exit { signal, ..Exit::default() }),
            HostMessage::ExecStart { stream, spec } if spec.argv[0] == "busy" => {
                let mut told = vec![GuestMessage::Busy { for_ms: spec.argv[1].parse().unwrap() }];
                told.extend(self.exec(stream, &spec.argv));
                told
            }
            HostMessage::ExecStart { stream, spec } => self.exec(stream, &spec.argv),
            _ => Vec::new(),
        }
    }

    fn boot(&mut self, spec: RunSpec) -> Vec<GuestMessage> {
        self.spec = spec;
        let boot_id = self.spec.boot_id.clone();
        match self.spec.argv[0].as_str() {
            "mute" => Vec::new(),
            "fail" => {
                let failure =
                    BootFailure { step: "exec".into(), reason: "there is no such file".into(), exit_code: 127 };
                self.state = GuestState::Failed { boot_id, failure: failure.clone() };
                vec![GuestMessage::BootFailed(failure)]
            }
            program => {
                let code = (program == "exit").then(|| self.spec.argv[1].parse().unwrap());
                self.state = GuestState::Running { boot_id, pid: 7 };
                let mut told = vec![GuestMessage::Started { pid: 7, uptime_ms: 1, init_us: 1 }, self.say("it runs")];
                if let Some(code) = code {
                    told.extend(self.exit(Exit { code, ..Exit::default() }));
                }
                told
            }
        }
    }

    fn exit(&mut self, exit: Exit) -> Vec<GuestMessage> {
        if !matches!(self.state, GuestState::Running { .. }) {
            return Vec::new();
        }
        self.state = GuestState::Exited { boot_id: self.spec.boot_id.clone(), exit };
        vec![GuestMessage::Exited(exit)]
    }

    /// `env` prints the environment, `pid` the number of this process.
    fn exec(&mut self, stream: u32, argv: &[String]) -> Vec<GuestMessage> {
        let text = match argv[0].as_str() {
            "env" => self.spec.env.join("\n"),
            "hosts" => format!("{:?}", self.spec.network.hosts),
            "files" => self.spec.files.iter().map(|file| format!("{}={}", file.path, file.content)).collect(),
            _ => std::process::id().to_string(),
        };
        let out = GuestMessage::ExecOut { stream, bytes: Bytes::from(text) };
        vec![out, GuestMessage::ExecExit { stream, code: 0, signal: 0 }]
    }

    fn say(&mut self, text: &'static str) -> GuestMessage {
        self.logged += 1;
        GuestMessage::Log(LogRecord {
            seq: self.logged,
            timestamp_ns: 1,
            source: LogSource::Stdout,
            partial: false,
            bytes: Bytes::from_static(text.as_bytes()),
        })
    }
}
