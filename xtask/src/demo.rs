//! The demo: from nothing to a URL that answers, on this machine.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::{
    sys::signal::{self, SigSet, Signal},
    unistd::Pid,
};

use crate::{hello, run};

#[derive(Args)]
pub struct Options {
    /// End after the URL has answered and leave nothing behind
    #[arg(long)]
    once: bool,
}

/// How long the platform may take to come up.
const START: Duration = Duration::from_secs(120);

/// Runs the demo.
pub fn run(options: &Options) -> Result<()> {
    println!("This starts Dunlin on this machine, with its data below {}:", data().display());
    println!("  1. build `dunlin` and the example app with cargo");
    println!("  2. install what virtual machines need (`dunlin setup` says what, and asks Debian's archive for it)");
    println!("  3. start `dunlin serve`, deploy examples/hello, fetch its URL\n");

    step("building (the first time takes some minutes)");
    run::succeed(&mut run::cargo(&["build", "--quiet", "--package", "dunlin"]))?;
    let image = hello::pack()?;

    step("setting up");
    run::succeed(dunlin(&["setup", "--yes", "--data-dir"]).arg(data()))?;

    step("starting the platform");
    let mut platform = Platform::start()?;
    // Held back from here on, and waited for at the end: an interrupt must not leave virtual machines behind. The
    // platform itself hears it, so it is started before.
    let interrupts = interrupts();
    interrupts.thread_block()?;
    let shown = show(&platform, &image);
    if shown.is_ok() && !options.once {
        println!("\nThe platform keeps running. Press Ctrl-C to stop it and remove what it made.");
        interrupts.wait()?;
    }
    step("stopping");
    platform.stop()?;
    shown
}

fn step(text: &str) {
    println!("==> {text}");
}

fn interrupts() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals
}

/// Deploys the example, fetches it, and shows its status.
fn show(platform: &Platform, image: &Path) -> Result<()> {
    step("deploying examples/hello");
    let mut deploy = platform.dunlin(&["deploy", "--image"]);
    deploy.arg(format!("oci:{}", image.display())).current_dir(run::root().join("examples/hello"));
    let deployed = deploy.stderr(Stdio::inherit()).output()?;
    ensure!(deployed.status.success(), "`dunlin deploy` ended with {}", deployed.status);
    let url = String::from_utf8(deployed.stdout)?.trim().to_owned();

    step(&format!("fetching {url}"));
    println!("{}", fetch(&url)?);

    step("dunlin status");
    run::succeed(platform.dunlin(&["status"]).current_dir(run::root().join("examples/hello")))?;
    println!("\n{url} answers.");
    Ok(())
}

/// Where the demo keeps its data. The guest kernel below it stays, so that the next run starts in seconds.
fn data() -> PathBuf {
    run::target().join("demo")
}

fn dunlin(arguments: &[&str]) -> Command {
    let mut command = privileged(&run::target().join("debug/dunlin"));
    command.args(arguments);
    command
}

/// Virtual machines with their own network need root: ask `sudo` for it where it is not there.
fn privileged(program: &Path) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(program);
    command
}

/// `dunlin serve` as a child.
struct Platform {
    child: Child,
    api: String,
    token: String,
}

impl Platform {
    fn start() -> Result<Self> {
        reset()?;
        let ports = [free_port(8080)?, free_port(8443)?, free_port(4280)?].map(|port| port.to_string());
        let [http, https, api] = &ports;
        let mut command = dunlin(&["serve", "--stop-machines-on-exit", "--http-port", http, "--https-port", https]);
        command.args(["--api-listen", &format!("127.0.0.1:{api}"), "--data-dir"]).arg(data());
        let mut child = command.stdout(Stdio::piped()).spawn().context("`dunlin serve` could not be started")?;
        let stdout = child.stdout.take().context("`dunlin serve` has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("    {line}");
                let _ = sender.send(line);
            }
        });
        let token = loop {
            match lines.recv_timeout(START) {
                Ok(line) => match line.split_once("admin token: ") {
                    Some((_, token)) => break token.trim().to_owned(),
                    None => continue,
                },
                Err(_) => {
                    let _ = child.kill();
                    bail!("`dunlin serve` did not come up; what it said is above");
                }
            }
        };
        Ok(Self { child, api: format!("http://127.0.0.1:{api}"), token })
    }

    /// A client command that is signed in.
    fn dunlin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(run::target().join("debug/dunlin"));
        command.args(arguments).env("DUNLIN_API_URL", &self.api).env("DUNLIN_API_TOKEN", &self.token);
        command
    }

    /// Stops the platform and its machines, and removes what they left.
    fn stop(&mut self) -> Result<()> {
        signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "`dunlin serve` ended with {status}");
        reset()
    }
}

/// Removes everything of an earlier run but the guest kernel.
fn reset() -> Result<()> {
    let Ok(entries) = fs::read_dir(data()) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != "kernel") {
            run::succeed(privileged(Path::new("rm")).arg("-rf").arg(&path))?;
        }
    }
    Ok(())
}

/// The wanted port, or another one if it is taken.
fn free_port(wanted: u16) -> Result<u16> {
    let listener = TcpListener::bind(("0.0.0.0", wanted)).or_else(|_| TcpListener::bind(("0.0.0.0", 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Fetches a plain HTTP URL. Names below `localhost` are this machine (RFC 6761), whatever the resolver thinks.
fn fetch(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url:?} is not a plain HTTP URL"))?;
    let host = rest.split('/').next().unwrap_or(rest);
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80);
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(connection, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{url} answered:\n{answer}");
    Ok(answer)
}
