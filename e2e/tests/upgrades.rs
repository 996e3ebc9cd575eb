//! A new process takes over from the running one: nothing is lost, neither a request nor a machine.

use std::{
    cell::RefCell,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixDatagram,
    thread,
};

use e2e::{Options, Platform, eventually, http, image, load::Load, obstacle, platform::finish, skip};
use serde_json::Value;

const CONFIG: &str = r#"
[http_service]
internal_port = 8080
[[http_service.checks]]
path = "/healthz"
interval = "5s"
[[services]]
internal_port = 8080
protocol = "tcp"
[[services.ports]]
port = 9100
"#;

/// A connection that stays, and is asked again and again.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(e2e::PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks for a page. Tells whether the connection may be used again.
    fn get(&mut self, path: &str) -> std::io::Result<bool> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nhost: hello.dunlin.localhost\r\n\r\n")?;
        let (mut line, mut length, mut stays, mut good) = (String::new(), 0, true, false);
        loop {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let field = line.trim_end().to_ascii_lowercase();
            good |= field.starts_with("http/1.1 200");
            stays &= field != "connection: close";
            if let Some(value) = field.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            if field.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        if good { Ok(stays) } else { Err(std::io::Error::other(String::from_utf8_lossy(&body).into_owned())) }
    }
}

/// What a service manager hears.
struct Manager {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
    heard: RefCell<Vec<String>>,
}

impl Manager {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("it can be listened on");
        socket.set_read_timeout(Some(e2e::PATIENCE)).expect("it can time out");
        Self { directory, socket, heard: RefCell::default() }
    }

    /// Waits until this has been said, once more than it was asked for.
    fn heard(&self, wanted: &str) -> bool {
        let mut heard = self.heard.borrow_mut();
        loop {
            if let Some(place) = heard.iter().position(|said| said == wanted) {
                heard.remove(place);
                return true;
            }
            let mut said = [0; 256];
            let Ok(length) = self.socket.recv(&mut said) else { return false };
            heard.push(String::from_utf8_lossy(&said[..length]).into_owned());
        }
    }
}

/// Whether a request has been waiting for its answer for a while.
fn is_one_unanswered(platform: &Platform) -> bool {
    let live = platform.json(["edge", "connections", "--json"]);
    let live = live["connections"].as_array().cloned().unwrap_or_default();
    let waits = |it: &Value| it["requests"] == 1 && it["bytes_out"] == 0 && it["age_ms"].as_u64() > Some(1_000);
    live.iter().any(waits)
}

#[test]
fn upgrades_under_load_lose_no_request_and_no_machine() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("upgrades under load", &obstacle);
    }
    let manager = Manager::start();
    let options = Options { service_manager: Some(manager.directory.path().join("notify")), ..Options::default() };
    let mut platform = Platform::start(options);
    assert!(manager.heard("READY=1"));
    platform.deploy("hello", CONFIG, &image("hello"));
    let monitors = platform.monitors();
    let (port, host) = (platform.http_port(), "hello.dunlin.localhost");
    let connecting = Load::start(2, move || match http::get(port, host, "/healthz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{}\n{}", answer.head, answer.body)),
        Err(error) => Err(error.to_string()),
    });
    let keeping = Load::start(2, move || {
        let kept = Kept::open(port).and_then(|mut kept| {
            for _ in 0..200 {
                if !kept.get("/healthz")? {
                    break;
                }
            }
            Ok(())
        });
        kept.map_err(|error| error.to_string())
    });
    let mut raw = Kept::open(9100).expect("the port is open");
    assert!(raw.get("/").expect("the app answers"));

    for round in 0..3 {
        // It begins before the takeover and ends after it.
        let slow = thread::spawn(move || Kept::open(port).and_then(|mut kept| kept.get("/sleep?ms=8000")));
        eventually("the slow request is under way", || is_one_unanswered(&platform));
        let before = platform.pid();
        let pid = platform.upgrade();
        assert_ne!(Some(pid), before);
        assert!(manager.heard(&format!("MAINPID={pid}")) && manager.heard("READY=1"));
        assert!(raw.get("/").unwrap_or_else(|error| panic!("round {round}: the raw connection broke: {error}")));
        slow.join().expect("it does not panic").expect("the slow request is answered");
        assert_eq!(platform.monitors(), monitors, "the machine was started again");
        // The one that took over deploys as well as any.
        platform.ok(["secrets", "set", "-a", "hello", "--stage", &format!("ROUND={round}")]);
    }
    connecting.stop_without_loss("upgrading, a connection for each request");
    keeping.stop_without_loss("upgrading, connections that are kept");
    drop(raw);
    eventually("the first process has ended", || platform.elders_have_ended());
    assert_eq!(platform.terminate(), 0);
    platform.launch();
    eventually("the app answers after all that", || platform.get("hello", "/healthz").is_some());
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("a failing successor", &obstacle);
    }
    let mut platform = Platform::start(Options::default());
    platform.deploy("hello", CONFIG, &image("hello"));
    let (port, host) = (platform.http_port(), "hello.dunlin.localhost");
    let load = Load::start(2, move || match http::get(port, host, "/healthz") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // It gets as far as the place, and finds that it cannot live there.
    let data = platform.data();
    let key = data.join("keys/sealing.key");
    let kept = fs::read(&key).expect("there is a sealing key");
    fs::write(&key, b"nonsense").expect("it can be spoilt");
    let mut upgrade = platform.command(["upgrade", "--data-dir"]);
    let failed = finish(upgrade.arg(&data));
    fs::write(&key, kept).expect("it can be mended");
    assert_eq!(failed.code, 1, "{}{}", failed.stdout, failed.stderr);
    assert!(failed.stderr.contains("did not become ready") || failed.stderr.contains("ended"), "{}", failed.stderr);
    eventually("the API answers", || platform.run(["apps", "list"]).code == 0);
    load.stop_without_loss("a failing upgrade");
    platform.upgrade();
    assert!(platform.get("hello", "/healthz").is_some());
}
