//! What a large catalog costs the edge: per request, per change, per machine; beside an edge that knows a few apps. Each
//! edge is a process of its own, so that its CPU time and memory are its own.
//!
//! ```text
//! catalog_bench <apps> <machines per app> <empty work directory>
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use api::internal::LogSink;
use catalog::{MachineRoute, Publisher, RowChange, Standing};
use edge::{Bounds, Edge, EdgeOptions, Hostnames, Maintenance};
use kit::seal::SealingKey;
use model::{
    InstanceId, MachineId, NetworkId, Timestamp,
    log::LogRecord,
    machine::{Concurrency, ConcurrencyKind, Handler, MachineState, Port, Service},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Apps that the small edge knows, and that are asked for at both.
const ASKED: usize = 100;
/// Requests of one round at one edge.
const REQUESTS: usize = 40_000;
/// Connections of the client.
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 5;
const CHANGES: usize = 200;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["machine"] => runtime()?.block_on(machine()),
        ["client", edge, apps] => runtime()?.block_on(client(edge.parse()?, apps.parse()?)),
        ["edge", apps, machines, port, work] => {
            runtime()?.block_on(edge(apps.parse()?, machines.parse()?, port.parse()?, Path::new(work)))
        }
        [apps, machines, work] => compare(apps.parse()?, machines.parse()?, Path::new(work)),
        _ => Err("usage: catalog_bench <apps> <machines per app> <empty work directory>".into()),
    }
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Both edges, the same requests in turns.
fn compare(apps: usize, machines: usize, work: &Path) -> Outcome<()> {
    let mut program = Role::start(&["machine"])?;
    let port = program.told["port"].to_string();
    let start = |apps: usize, name: &str| {
        Role::start(&["edge", &apps.to_string(), &machines.to_string(), &port, &work.join(name).to_string_lossy()])
    };
    let mut small = start(ASKED, "small")?;
    let mut large = start(apps, "large")?;
    for count in [1, ASKED] {
        let (mut few, mut many) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let costs = [small.cost_of_requests(count)?, large.cost_of_requests(count)?];
            // The first round fills caches and pools.
            if round > 0 {
                few.push(costs[0]);
                many.push(costs[1]);
            }
        }
        let (few, many) = (median(few), median(many));
        println!("CPU of the edge per request, {count} apps asked for:");
        println!("  {few:.2} us amid {ASKED} apps, {many:.2} us amid {apps}: ratio {:.3}", many / few);
    }
    for (name, edge) in [("small", &mut small), ("large", &mut large)] {
        println!("{name}: {}", edge.told);
        println!("  changes: {}", edge.ask("change")?);
        println!("  disk: {}", edge.ask("save")?);
    }
    program.end();
    small.end();
    large.end();
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// A process of this program that plays one part: it tells a line at its start and one for each line it is told.
struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    told: Value,
}

impl Role {
    fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let mut role = Self { child, input, output: BufReader::new(output), told: Value::Null };
        role.told = role.read()?;
        Ok(role)
    }

    fn read(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, what: &str) -> Outcome<Value> {
        writeln!(self.input, "{what}")?;
        self.read()
    }

    /// CPU time of an edge per request, in microseconds, while a client asks for so many apps in turns.
    fn cost_of_requests(&mut self, apps: usize) -> Outcome<f64> {
        let address = self.told["http"].as_str().ok_or("no address")?.to_owned();
        let before = self.cpu_ns()?;
        Role::start(&["client", &address, &apps.to_string()])?.end();
        Ok((self.cpu_ns()? - before) as f64 / 1e3 / REQUESTS as f64)
    }

    /// What its threads have run.
    fn cpu_ns(&self) -> Outcome<u64> {
        let mut sum = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let told = fs::read_to_string(thread?.path().join("schedstat"))?;
            sum += told.split_whitespace().next().ok_or("no run time")?.parse::<u64>()?;
        }
        Ok(sum)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(what: &Value) {
    println!("{what}");
}

/// A program that answers every request with a kilobyte.
async fn machine() -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    tell(&json!({"port": listener.local_addr()?.port()}));
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n{}", "x".repeat(1024));
    let answer: Arc<[u8]> = answer.into_bytes().into();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer_all(stream, answer.clone()));
    }
}

async fn answer_all(mut stream: TcpStream, answer: Arc<[u8]>) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        // Requests come one by one, without bodies.
        if buffer[..length].ends_with(b"\r\n\r\n") {
            stream.write_all(&answer).await?;
        }
    }
}

/// Sends a round of requests.
async fn client(edge: SocketAddr, apps: usize) -> Outcome<()> {
    let connections = (0..CONNECTIONS).map(|number| tokio::spawn(requests(edge, apps, number)));
    for connection in connections.collect::<Vec<_>>() {
        connection.await??;
    }
    tell(&json!({"done": REQUESTS}));
    Ok(())
}

async fn requests(edge: SocketAddr, apps: usize, first: usize) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(edge).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    for number in 0..REQUESTS / CONNECTIONS {
        let app = app_name((number * CONNECTIONS + first) % apps);
        let request = format!("GET / HTTP/1.1\r\nhost: {app}.dunlin.localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut got = 0;
        let end = loop {
            got += stream.read(&mut buffer[got..]).await?;
            if let Some(head) = buffer[..got].windows(4).position(|four| four == b"\r\n\r\n") {
                break head + 4 + 1024;
            }
        };
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..got]));
        while got < end {
            got += stream.read(&mut buffer[got..]).await?;
        }
    }
    Ok(())
}

/// Keeps no logs.
struct NoLogs;

impl LogSink for NoLogs {
    fn append(&self, _: LogRecord) {}
}

/// An edge with so many apps, all of whose machines are one program.
async fn edge(apps: usize, machines: usize, port: u16, work: &Path) -> Outcome<()> {
    fs::create_dir_all(work)?;
    let path = work.join("catalog.jsonl");
    let publisher = Publisher::open(path.clone());
    let edge = Edge::start(options(&publisher, work)?).await?;
    let rss_before = rss_bytes()?;
    let rows = move || (0..apps * machines).map(move |number| row(number / machines, number, port));
    let start = Instant::now();
    publisher.change(1, rows().map(|row| RowChange::Put(Box::new(row))));
    let published_s = start.elapsed().as_secs_f64();
    let rss_catalog = rss_bytes()?;
    let mut generation = edge.generation();
    generation.wait_for(|generation| *generation == 1).await?;
    let all = (apps * machines) as u64;
    tell(&json!({
        "http": edge.http_addresses()[0].to_string(),
        "apps": apps,
        "machines": all,
        "published_s": published_s,
        "joined_s": start.elapsed().as_secs_f64() - published_s,
        "catalog_bytes_per_machine": (rss_catalog - rss_before) / all,
        "bytes_per_machine": (rss_bytes()? - rss_before) / all,
    }));
    let (mut asked, mut number) = (commands(), 1);
    while let Some(command) = asked.recv().await {
        let answer = match command.as_str() {
            "change" => changes(&publisher, &edge, &mut number, apps, machines, port).await?,
            _ => disk(&publisher, &path, port)?,
        };
        tell(&answer);
    }
    Ok(())
}

/// Lines from standard input, read beside the runtime.
fn commands() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Machines change one by one: from the change to the edge routing by it.
async fn changes(
    publisher: &Publisher,
    edge: &Edge,
    number: &mut u64,
    apps: usize,
    machines: usize,
    port: u16,
) -> Outcome<Value> {
    let mut took = Vec::new();
    let mut generation = edge.generation();
    for step in 0..CHANGES {
        *number += 1;
        let machine = step * 7_919 % (apps * machines);
        let standing = if step % 2 == 0 { Standing::Coming } else { Standing::Ready };
        let row = MachineRoute { standing, ..row(machine / machines, machine, port) };
        let start = Instant::now();
        publisher.change(*number, [RowChange::Put(Box::new(row))]);
        generation.wait_for(|generation| generation == number).await?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    Ok(json!({"median_ms": took[CHANGES / 2], "worst_ms": took[CHANGES - 1]}))
}

/// The picture goes to the disk whole, then one change of it; then it is read again.
fn disk(publisher: &Publisher, path: &PathBuf, port: u16) -> Outcome<Value> {
    let timed = |what: &mut dyn FnMut() -> Outcome<()>| -> Outcome<f64> {
        let start = Instant::now();
        what()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let whole_s = timed(&mut || Ok(publisher.save()?))?;
    let bytes = fs::metadata(path)?.len();
    publisher
        .change(9_999_999, [RowChange::Put(Box::new(MachineRoute { standing: Standing::Away, ..row(0, 0, port) }))]);
    let one_s = timed(&mut || Ok(publisher.save()?))?;
    let appended = fs::metadata(path)?.len() - bytes;
    let read_s = timed(&mut || {
        Publisher::open(path.clone());
        Ok(())
    })?;
    Ok(
        json!({"bytes": bytes, "whole_s": whole_s, "appended_bytes": appended, "append_ms": one_s * 1e3, "read_s": read_s}),
    )
}

fn options(publisher: &Publisher, work: &Path) -> Outcome<EdgeOptions> {
    Ok(EdgeOptions {
        http: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        https: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        domain: "dunlin.localhost".into(),
        region: "local".parse()?,
        keys: work.join("keys"),
        catalog: publisher.reader(),
        hostnames: Hostnames::open(work.join("hostnames"), SealingKey::load_or_create(&work.join("sealing.key"))?),
        maintenance: Maintenance::open(work.join("maintenance.json")),
        logs: Arc::new(NoLogs),
        platform: BTreeMap::new(),
        reserved_ports: BTreeSet::new(),
        public_https_port: None,
        trusted_proxies: Vec::new(),
        http3: false,
        backhaul: edge::Backhaul::default(),
        access_records: false,
        bounds: Bounds::default(),
    })
}

fn rss_bytes() -> Outcome<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("Linux tells the memory of processes")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn app_name(number: usize) -> String {
    format!("customer-app-{number}")
}

/// A machine as a deployment of a web app makes it.
fn row(app: usize, number: usize, port: u16) -> MachineRoute {
    let id = MachineId::from_random((number as u64 + 1).to_be_bytes()[1..].try_into().expect("seven of eight bytes"));
    let network = NetworkId(app as u32 + 1);
    let public = |port, handlers: &[Handler]| Port { port: Some(port), handlers: handlers.to_vec(), ..Port::default() };
    let service = Service {
        internal_port: port,
        ports: vec![public(80, &[Handler::Http]), public(443, &[Handler::Tls, Handler::Http])],
        concurrency: Concurrency {
            kind: ConcurrencyKind::Requests,
            soft_limit: Some(200),
            hard_limit: Some(250),
            ..Concurrency::default()
        },
        ..Service::default()
    };
    let labels = [("fly_process_group", "app"), ("fly_release_version", "7"), ("fly_platform_version", "v2")];
    MachineRoute {
        private: network.machine_address(&id),
        id,
        app: app_name(app).parse().expect("a name"),
        org: format!("customer-{}", app / 3).parse().expect("a name"),
        network,
        region: "local".parse().expect("a region"),
        version: InstanceId::new(1_700_000_000_000 + number as u64, [7; 10]),
        state: MachineState::Started,
        standing: Standing::Ready,
        host_local: Ipv4Addr::LOCALHOST,
        worker: None,
        metadata: Arc::new(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
        services: Arc::new(vec![service]),
        statics: Vec::new(),
        created_at: Timestamp(1_700_000_000_000 + number as u64),
    }
}
