//! A platform: `dunlin serve` with a data directory of its own, and the command line that talks to it.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;

use crate::{PATIENCE, eventually, http, target};

/// What may differ between platforms.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of `dunlin serve`.
    pub serve: Vec<String>,
    /// Where a service manager would listen for what it says.
    pub service_manager: Option<PathBuf>,
    /// The API is for other hosts, too.
    pub open_api: bool,
}

/// A running platform. Dropping it stops it, its machines included.
#[derive(Debug)]
pub struct Platform {
    child: Option<Child>,
    /// The process that took over from it, and those that it took over from.
    successor: Option<Pid>,
    elders: Vec<Child>,
    directory: tempfile::TempDir,
    ports: [u16; 3],
    options: Options,
    token: String,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; 128 and the number of the signal that ended it.
    pub code: i32,
    /// Its data.
    pub stdout: String,
    /// Its talk.
    pub stderr: String,
}

impl Platform {
    /// Starts a platform.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(options: Options) -> Self {
        let directory = tempfile::tempdir_in(target()).expect("a directory can be made");
        link_kernel(&directory.path().join("data/kernel"));
        let ports = [free_port(), free_port(), free_port()];
        let mut platform =
            Self { child: None, successor: None, elders: Vec::new(), directory, ports, options, token: String::new() };
        platform.launch();
        platform
    }

    /// Starts `dunlin serve` on the same data again.
    pub fn launch(&mut self) {
        let [http, https, api] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(dunlin());
        command.args(["serve", "--http-port", &http, "--https-port", &https]);
        let api_host = if self.options.open_api { "0.0.0.0" } else { "127.0.0.1" };
        command.args(["--api-listen", &format!("{api_host}:{api}"), "--data-dir"]).arg(self.data());
        command.args(&self.options.serve).stdout(Stdio::piped());
        command.envs(self.options.service_manager.iter().map(|socket| ("NOTIFY_SOCKET", socket)));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("serve.log"));
        let mut child = command.stderr(log.expect("a log can be written")).spawn().expect("dunlin serve starts");
        let lines = lines_of(child.stdout.take().expect("its output is piped"));
        self.child = Some(child);
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                panic!("dunlin serve did not come up:\n{}", self.log())
            };
            if let Some((_, token)) = line.split_once("admin token: ") {
                self.token = token.trim().to_owned();
            }
            if line.contains("ready") {
                return;
            }
        }
    }

    /// Lets the platform be succeeded by its own program, as after an upgrade. Returns the new process.
    ///
    /// # Panics
    /// If that fails.
    pub fn upgrade(&mut self) -> u32 {
        let data = self.data();
        let upgraded = self.json([OsStr::new("upgrade"), "--json".as_ref(), "--data-dir".as_ref(), data.as_os_str()]);
        let pid = upgraded["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("the process is told");
        self.elders.extend(self.child.take());
        self.successor = Some(Pid::from_raw(pid as i32));
        pid
    }

    /// Whether the processes that were started here and have been succeeded have all ended.
    pub fn elders_have_ended(&mut self) -> bool {
        self.elders.iter_mut().all(|elder| matches!(elder.try_wait(), Ok(Some(status)) if status.success()))
    }

    /// Kills `dunlin serve` without a chance to clean up. Virtual machines keep running.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks `dunlin serve` to end and returns its exit status. Virtual machines keep running.
    pub fn terminate(&mut self) -> i32 {
        if let Some(successor) = self.successor.take() {
            let _ = signal::kill(successor, Signal::SIGTERM);
            eventually("the successor ends", || signal::kill(successor, None).is_err());
        }
        let Some(mut child) = self.child.take() else { return 0 };
        let _ = signal::kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        child.wait().map(exit_code).unwrap_or(-1)
    }

    /// The process that is the platform.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for the scenario's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The admin token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The address of the API and the registry.
    pub fn registry(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2])
    }

    /// The API's port.
    pub fn api_port(&self) -> u16 {
        self.ports[2]
    }

    /// The edge's HTTP port.
    pub fn http_port(&self) -> u16 {
        self.ports[0]
    }

    /// The edge's HTTPS port.
    pub fn https_port(&self) -> u16 {
        self.ports[1]
    }

    /// A client command that is signed in.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(dunlin());
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("DUNLIN_API_URL", format!("http://{}", self.registry())).env("DUNLIN_API_TOKEN", &self.token);
        command.env("HOME", self.directory.path());
        command
    }

    /// Runs a client command to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        finish(&mut self.command(arguments))
    }

    /// Runs a client command that must succeed and returns its data.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(arguments);
        let outcome = finish(&mut command);
        assert_eq!(outcome.code, 0, "{command:?}:\n{}{}\nserve:\n{}", outcome.stdout, outcome.stderr, self.log());
        outcome.stdout
    }

    /// Runs a client command that must succeed and reads its data as one JSON document.
    ///
    /// # Panics
    /// If it fails or prints something else.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Writes a `fly.toml` and deploys an image layout with it. Returns the URL.
    pub fn deploy(&self, app: &str, config: &str, image: &Path) -> String {
        self.ok(self.deploy_arguments(app, config, image)).trim().to_owned()
    }

    /// The arguments of a deployment, whose configuration is written first.
    pub fn deploy_arguments(&self, app: &str, config: &str, image: &Path) -> Vec<String> {
        let path = self.directory.path().join(format!("{app}.toml"));
        fs::write(&path, format!("app = {app:?}\n{config}")).expect("a configuration can be written");
        let image = format!("oci:{}", image.display());
        ["deploy", "--config", &path.to_string_lossy(), "--image", &image].map(str::to_owned).to_vec()
    }

    /// The body of a page of an app, if it answers with 200.
    pub fn get(&self, app: &str, path: &str) -> Option<String> {
        let answer = http::get(self.http_port(), &format!("{app}.dunlin.localhost:{}", self.http_port()), path).ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    /// The machines of an app, as `machine list` tells them.
    pub fn machines(&self, app: &str) -> Vec<Value> {
        self.json(["machine", "list", "--json", "-a", app]).as_array().cloned().unwrap_or_default()
    }

    /// The virtual machine monitors that run for this platform, whoever started them: process and directory.
    pub fn monitors(&self) -> Vec<(u32, PathBuf)> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let directory = |pid: u32| Some((pid, fs::read_link(format!("/proc/{pid}/cwd")).ok()?));
        let machines = self.data().join("machines");
        pids.filter_map(directory).filter(|(_, directory)| directory.starts_with(&machines)).collect()
    }

    /// What `dunlin serve` said.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("serve.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("dunlin serve said:\n{}", self.log());
        }
        if self.child.is_none() && self.successor.is_none() {
            self.launch();
        }
        let apps = self.run(["apps", "list", "--json"]).stdout;
        for app in
            serde_json::from_str::<Value>(&apps).ok().iter().flat_map(|apps| apps.as_array().into_iter().flatten())
        {
            if let Some(name) = app["name"].as_str() {
                self.run(["apps", "destroy", name, "--yes"]);
            }
        }
        self.terminate();
    }
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Outcome {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Outcome {
        code: exit_code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The program under test.
pub fn dunlin() -> PathBuf {
    target().join("debug/dunlin")
}

/// Gives a new data directory the guest kernel that is ready already.
fn link_kernel(to: &Path) {
    fs::create_dir_all(to.parent().expect("it lies in a directory")).expect("a directory can be made");
    let copied = Command::new("cp").arg("-al").arg(target().join("e2e-data/kernel")).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the guest kernel cannot be linked");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

fn lines_of(output: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// How long one request may take before it counts as lost.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
