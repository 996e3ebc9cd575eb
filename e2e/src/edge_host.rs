//! Another host: a network namespace with a cable to this one and an edge by itself, which has no way to the machines
//! but by this host's worker.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

use crate::{Platform, eventually, platform::dunlin};

/// The host. Dropping it takes it away.
#[derive(Debug)]
pub struct EdgeHost {
    number: u8,
    region: String,
    holder: Child,
    edge: Option<Child>,
    directory: PathBuf,
    api: String,
    token: String,
}

impl EdgeHost {
    /// Whether hosts can be had here; why not.
    pub fn obstacle() -> Option<String> {
        let missing = ["ip", "nsenter", "unshare"].into_iter().find(|program| !crate::has(program))?;
        Some(format!("{missing} is not installed"))
    }

    /// The address of this host on the cable to another one.
    pub fn near(number: u8) -> String {
        format!("10.99.{number}.1")
    }

    /// The address of the other host, at the far end of the cable.
    pub fn at_far_end(number: u8) -> String {
        format!("10.99.{number}.2")
    }

    /// The same.
    pub fn far(&self) -> String {
        Self::at_far_end(self.number)
    }

    /// Lays the cable to a host that is to come; the platform can listen on its near end then.
    ///
    /// # Panics
    /// If that fails.
    pub fn lay_cable(number: u8) -> Child {
        let holder = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn().expect("unshare runs");
        let (own, its) = ("/proc/self/ns/net".to_owned(), format!("/proc/{}/ns/net", holder.id()));
        eventually("the namespace is there", || {
            fs::read_link(&its).is_ok_and(|its| Some(its) != fs::read_link(&own).ok())
        });
        let (near, pid) = (format!("cable{number}"), holder.id().to_string());
        run(&["ip", "link", "add", &near, "type", "veth", "peer", "name", "cable", "netns", &pid]);
        run(&["ip", "address", "add", &format!("{}/24", Self::near(number)), "dev", &near]);
        run(&["ip", "link", "set", &near, "up"]);
        let inside = |arguments: &[&str]| run(&[&["nsenter", "--net", "--target", &pid], arguments].concat());
        inside(&["ip", "link", "set", "lo", "up"]);
        inside(&["ip", "address", "add", &format!("{}/24", Self::at_far_end(number)), "dev", "cable"]);
        inside(&["ip", "link", "set", "cable", "up"]);
        holder
    }

    /// Starts the edge of a host to which a cable was laid.
    pub fn start(number: u8, region: &str, holder: Child, platform: &Platform) -> Self {
        let mut host = Self {
            number,
            region: region.into(),
            holder,
            edge: None,
            directory: platform.scratch().join(format!("edge-{number}")),
            api: format!("http://{}:{}", Self::near(number), platform.api_port()),
            token: platform.token().into(),
        };
        fs::create_dir_all(&host.directory).expect("a directory can be made");
        host.launch();
        host
    }

    /// Gives the other host a way to an address of this one that is on another cable.
    pub fn route_to(&self, address: &str) {
        let (pid, near) = (self.holder.id().to_string(), Self::near(self.number));
        run(&["nsenter", "--net", "--target", &pid, "ip", "route", "add", address, "via", &near]);
    }

    /// Starts the edge again, on what it kept.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn launch(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("edge.log"));
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.id().to_string()]).arg(dunlin());
        command.args(["edge", "serve", "--region", &self.region, "--data-dir"]).arg(self.directory.join("data"));
        command.env("DUNLIN_API_URL", &self.api).env("DUNLIN_API_TOKEN", &self.token).env("HOME", &self.directory);
        command.stdout(Stdio::piped()).stderr(log.expect("a log can be written"));
        let mut edge = command.spawn().expect("dunlin edge serve starts");
        let mut lines = BufReader::new(edge.stdout.take().expect("its output is piped")).lines().map_while(Result::ok);
        let is_ready = lines.any(|line| line == "ready");
        self.edge = Some(edge);
        assert!(is_ready, "dunlin edge serve did not come up:\n{}", self.log());
    }

    /// Asks the edge to end.
    pub fn terminate(&mut self) {
        if let Some(mut edge) = self.edge.take() {
            let _ = signal::kill(Pid::from_raw(edge.id() as i32), Signal::SIGTERM);
            let _ = edge.wait();
        }
    }

    /// What curl gets from the edge, whatever the status: the status and the body, with a line between them.
    pub fn curl(&self, arguments: &[&str], port: u16, path: &str) -> String {
        let url = format!("http://{}:{port}{path}", self.far());
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "60", "--write-out", "\n%{http_code} %header{dunlin-error}"]);
        let output = curl.args(arguments).arg(url).output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What curl gets over HTTPS under a host name, if it trusts the certificate and the status is 200.
    pub fn https(&self, name: &str, authority: &Path) -> Option<String> {
        let output = self.curl_https(name, authority).arg("--fail").output().expect("curl runs");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether the edge shows a certificate that is trusted, whatever it answers then.
    pub fn handshake(&self, name: &str, authority: &Path) -> bool {
        self.curl_https(name, authority).output().is_ok_and(|output| output.status.success())
    }

    fn curl_https(&self, name: &str, authority: &Path) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "30", "--resolve", &format!("{name}:443:{}", self.far()), "--cacert"]);
        curl.arg(authority).arg(format!("https://{name}/"));
        curl
    }

    /// A page of an app, if the edge answers with 200.
    pub fn get(&self, app: &str, path: &str) -> Option<String> {
        let answer = self.curl(&["--header", &format!("Host: {app}.dunlin.localhost")], 80, path);
        answer.strip_suffix("\n200").map(str::to_owned)
    }

    /// What the edge said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("edge.log")).unwrap_or_default()
    }
}

impl Drop for EdgeHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the edge of host {} said:\n{}", self.number, self.log());
        }
        self.terminate();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &[&str]) {
    let status = Command::new(command[0]).args(&command[1..]).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?} failed");
}
