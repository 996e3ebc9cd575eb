//! A world to test in: an edge with its catalog, machines whose programs are real servers on loopback addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use api::internal::{LogSink, NodeView};
use axum::Router;
use bytes::Bytes;
use catalog::Publisher;
use edge::{Bounds, Edge, EdgeOptions, Hostnames, Maintenance, PlatformHost, Sockets};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Body;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use kit::seal::SealingKey;
use model::{
    Addresses, ImageSpec, InstanceId, MachineId, NetworkId, Timestamp,
    log::{LogRecord, LogSource},
    machine::{
        CheckState, CheckStatus, Concurrency, ConcurrencyKind, Handler, HttpOptions, MachineConfig, MachineSpec,
        MachineState, Observed, Port, SealedSecrets, Service,
    },
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::host::Host;

/// Longer than anything here takes, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Where every program listens in its machine.
pub const INTERNAL_PORT: u16 = 8080;

/// A loopback address that nothing else uses.
pub fn fresh_ip() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, SeqCst);
    Ipv4Addr::new(127, 20 + (std::process::id() % 200) as u8, 1 + (number / 250) as u8, 1 + (number % 250) as u8)
}

/// Waits for something that takes a moment, but not for ever.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// The head of the next message, in lower case.
pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Asks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let asked = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// What the edge wrote into the logs of apps.
#[derive(Default)]
pub struct Logs(Mutex<Vec<LogRecord>>);

impl Logs {
    /// What apps were told about their traffic, access records left out.
    pub fn lines(&self) -> Vec<String> {
        self.of(LogSource::Platform).into_iter().map(|record| record.message).collect()
    }

    pub fn of(&self, source: LogSource) -> Vec<LogRecord> {
        self.0.lock().unwrap().iter().filter(|record| record.source == source).cloned().collect()
    }

    pub fn has(&self, code: &str) -> bool {
        self.lines().iter().any(|line| line.starts_with(&format!("[{code}]")))
    }
}

impl LogSink for Logs {
    fn append(&self, record: LogRecord) {
        self.0.lock().unwrap().push(record);
    }
}

/// The custom host names that lie below a directory.
pub fn hostnames(directory: &Path) -> Arc<Hostnames> {
    Hostnames::open(directory.join("hostnames"), sealing_key(directory))
}

/// The key that the certificates below a directory are sealed with.
pub fn sealing_key(directory: &Path) -> SealingKey {
    SealingKey::load_or_create(&directory.join("sealing.key")).unwrap()
}

/// An edge and what it knows.
pub struct World {
    pub edge: Arc<Edge>,
    pub logs: Arc<Logs>,
    pub maintenance: Arc<Maintenance>,
    pub directory: TempDir,
    pub ip: Ipv4Addr,
    publisher: Arc<Publisher>,
    catalog: catalog::Reader,
    view: Arc<Mutex<NodeView>>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// Patience for machines that are just up is off, unless a test wants it: refusals then come at once.
    pub async fn with(change: impl FnOnce(&mut EdgeOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let publisher = Arc::new(Publisher::open(directory.path().join("catalog.jsonl")));
        let (logs, ip) = (Arc::new(Logs::default()), fresh_ip());
        let maintenance = Maintenance::open(directory.path().join("maintenance.json"));
        let mut options = EdgeOptions {
            http: vec![(ip, 0).into()],
            https: vec![(ip, 0).into()],
            domain: "dunlin.localhost".into(),
            region: "local".parse().unwrap(),
            keys: directory.path().join("keys"),
            catalog: publisher.reader(),
            hostnames: hostnames(directory.path()),
            maintenance: maintenance.clone(),
            logs: logs.clone(),
            platform: BTreeMap::new(),
            reserved_ports: BTreeSet::new(),
            public_https_port: None,
            trusted_proxies: Vec::new(),
            http3: true,
            backhaul: edge::Backhaul::default(),
            access_records: true,
            bounds: Bounds { startup_grace: Duration::ZERO, ..Bounds::default() },
        };
        change(&mut options);
        let catalog = options.catalog.clone();
        let edge = Edge::start(options).await.unwrap();
        Self { edge, logs, maintenance, directory, ip, publisher, catalog, view: Arc::default() }
    }

    /// Another edge takes over the sockets. Returns the one that was there before, which is to retire.
    pub async fn take_over(&mut self) -> Arc<Edge> {
        self.take_over_by(edge::Backhaul::default()).await
    }

    /// The same where other hosts are reached, or reach this one.
    pub async fn take_over_by(&mut self, backhaul: edge::Backhaul) -> Arc<Edge> {
        let options = EdgeOptions {
            http: self.edge.http_addresses().to_vec(),
            https: self.edge.https_addresses().to_vec(),
            domain: "dunlin.localhost".into(),
            region: "local".parse().unwrap(),
            keys: self.directory.path().join("keys"),
            catalog: self.catalog.clone(),
            hostnames: hostnames(self.directory.path()),
            maintenance: self.maintenance.clone(),
            logs: self.logs.clone(),
            platform: BTreeMap::new(),
            reserved_ports: BTreeSet::new(),
            public_https_port: None,
            trusted_proxies: Vec::new(),
            http3: true,
            backhaul,
            access_records: true,
            bounds: Bounds { startup_grace: Duration::ZERO, ..Bounds::default() },
        };
        let sockets = Sockets::inherited(self.edge.sockets().unwrap());
        let next = Edge::prepare(options, sockets).await.unwrap();
        next.open();
        std::mem::replace(&mut self.edge, next)
    }

    pub fn http(&self) -> SocketAddr {
        self.edge.http_addresses()[0]
    }

    pub fn https(&self) -> SocketAddr {
        self.edge.https_addresses()[0]
    }

    /// Reads the catalog of this world.
    pub fn reader(&self) -> catalog::Reader {
        self.publisher.reader()
    }

    /// Adds or replaces a machine in the view that will be told next.
    pub fn put(&mut self, machine: &Machine) {
        let mut view = self.view.lock().unwrap();
        view.machines.insert(machine.0.spec.id.clone(), Arc::new(machine.0.clone()));
    }

    pub fn remove(&mut self, machine: &Machine) {
        self.view.lock().unwrap().machines.remove(&machine.0.spec.id);
    }

    /// Tells the view; the edge need not have seen it when this returns.
    pub fn tell(&mut self) -> u64 {
        let mut view = self.view.lock().unwrap();
        view.generation += 1;
        self.publisher.apply(&view);
        view.generation
    }

    /// Tells the view and waits until the edge routes by it.
    pub async fn know(&mut self, machines: &[&Machine]) -> u64 {
        machines.iter().for_each(|machine| self.put(machine));
        let told = self.tell();
        let mut generation = self.edge.generation();
        within(generation.wait_for(|generation| *generation == told)).await.unwrap();
        told
    }

    /// A node for these machines, which the edge asks from now on to wake them and to put them to sleep.
    pub fn host(&self, program: Router) -> Arc<Host> {
        let (publisher, view) = (self.publisher.clone(), self.view.clone());
        let host = Arc::new(Host::new(publisher, view, self.edge.clone(), program));
        self.edge.wake_by(host.clone());
        host
    }

    pub fn platform(router: Router) -> PlatformHost {
        PlatformHost::new(router)
    }

    /// Fetches a path of an app by plain HTTP/1.1 over a connection of its own.
    pub async fn get(&self, app: &str, path: &str) -> Answer {
        self.send(Request::get(path).header("host", host(app)).body(Empty::<Bytes>::new()).unwrap()).await
    }

    pub async fn send<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        within(send(self.http(), request)).await.expect("the edge answers")
    }
}

/// The host of an app.
pub fn host(app: &str) -> String {
    format!("{app}.dunlin.localhost")
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: Option<HeaderMap>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub async fn read(response: Response<hyper::body::Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Self { status: parts.status, headers: parts.headers, trailers, body })
    }
}

/// Sends one request over a new HTTP/1.1 connection.
pub async fn send<B>(address: SocketAddr, request: Request<B>) -> Result<Answer, hyper::Error>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut sender = connect_h1(address).await;
    let response = sender.send_request(request).await?;
    Answer::read(response).await
}

pub async fn connect_h1<B>(address: SocketAddr) -> hyper::client::conn::http1::SendRequest<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

pub async fn connect_h2<B>(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(address).await.unwrap();
    let executor = TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn full(text: &str) -> Full<Bytes> {
    Full::new(Bytes::copy_from_slice(text.as_bytes()))
}

/// A machine as its node sees it.
#[derive(Clone)]
pub struct Machine(pub Observed);

impl Machine {
    /// A started machine of an app, at an address of its own, that offers HTTP on both shared ports.
    pub fn of(app: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, SeqCst) as u64;
        let id = MachineId::from_random(number.to_be_bytes()[1..].try_into().unwrap());
        let network = NetworkId(1);
        let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let machine = Self(Observed {
            addresses: Addresses { private: network.machine_address(&id), host_local: fresh_ip() },
            spec: MachineSpec {
                id,
                name: "one".into(),
                org: "personal".parse().unwrap(),
                app: app.parse().unwrap(),
                network,
                region: "local".parse().unwrap(),
                version: InstanceId::new(number, [0; 10]),
                image: ImageSpec { reference: "app:1".into(), digest },
                config: MachineConfig::default(),
                secrets: SealedSecrets::default(),
            },
            state: MachineState::Started,
            cordoned: false,
            checks: Vec::new(),
            events: Vec::new(),
            last_exit: None,
            reason: None,
            isolation: None,
            created_at: Timestamp(number),
            updated_at: Timestamp(kit::clock::unix_ms()),
        });
        machine.port(80, &[Handler::Http]).port(443, &[Handler::Tls, Handler::Http])
    }

    /// Offers another public port of the same service.
    pub fn port(mut self, port: u16, handlers: &[Handler]) -> Self {
        let services = &mut self.0.spec.config.services;
        if services.is_empty() {
            services.push(Service { internal_port: INTERNAL_PORT, ..Service::default() });
        }
        services[0].ports.push(Port { port: Some(port), handlers: handlers.to_vec(), ..Port::default() });
        self
    }

    pub fn service(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.0.spec.config.services[0]);
        self
    }

    pub fn each_port(self, change: impl Fn(&mut Port)) -> Self {
        self.service(|service| service.ports.iter_mut().for_each(change))
    }

    pub fn h2_backend(self) -> Self {
        self.each_port(|port| {
            port.http_options = Some(HttpOptions { h2_backend: true, ..HttpOptions::default() });
        })
    }

    pub fn limits(self, kind: ConcurrencyKind, soft: u32, hard: Option<u32>) -> Self {
        self.service(|service| {
            service.concurrency =
                Concurrency { kind, soft_limit: Some(soft), hard_limit: hard, ..Concurrency::default() };
        })
    }

    /// In another private network, of another organization if one is given.
    pub fn belongs(mut self, org: &str, network: u32) -> Self {
        let network = NetworkId(network);
        self.0.spec.org = org.parse().unwrap();
        self.0.spec.network = network;
        self.0.addresses.private = network.machine_address(&self.0.spec.id);
        self
    }

    pub fn region(mut self, region: &str) -> Self {
        self.0.spec.region = region.parse().unwrap();
        self
    }

    pub fn state(mut self, state: MachineState) -> Self {
        self.0.state = state;
        self.0.updated_at = Timestamp(kit::clock::unix_ms());
        self
    }

    pub fn cordoned(mut self, cordoned: bool) -> Self {
        self.0.cordoned = cordoned;
        self.0.updated_at = Timestamp(kit::clock::unix_ms());
        self
    }

    pub fn check(mut self, status: CheckState, updated_at: u64) -> Self {
        let (name, output) = ("servicecheck-00-http-8080".into(), String::new());
        self.0.checks = vec![CheckStatus { name, status, output, updated_at: Timestamp(updated_at) }];
        self
    }

    pub fn id(&self) -> &MachineId {
        &self.0.spec.id
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.0.addresses.host_local), INTERNAL_PORT)
    }

    /// Runs a program in it.
    pub async fn run(&self, program: Router) -> Program {
        Program::start(self.address(), program).await
    }
}

/// A running server. Dropping it kills it with all its connections, as a machine that dies would.
pub struct Program {
    stop: CancellationToken,
    /// Ends once nothing listens any more.
    listening: watch::Receiver<()>,
    pub accepted: Arc<AtomicUsize>,
}

impl Program {
    pub async fn start(address: SocketAddr, router: Router) -> Self {
        let listener = listen(address).await;
        let (listening, receiver) = watch::channel(());
        let program = Self { stop: CancellationToken::new(), listening: receiver, accepted: Arc::default() };
        let (stop, accepted) = (program.stop.clone(), program.accepted.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let listening = Listening(listener, listening);
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listening.0.accept().await.unwrap();
                accepted.fetch_add(1, SeqCst);
                let service = TowerToHyperService::new(router.clone());
                connections.spawn(async move {
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    server.http2().enable_connect_protocol();
                    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        }));
        program
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    /// Kills it and waits until its address is free again.
    pub async fn kill(mut self) {
        self.stop.cancel();
        let _ = within(self.listening.changed()).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A listener that is closed for good when it is dropped, though a curl that is being started holds a copy of every
/// socket of this process for a moment and would keep it accepting.
struct Listening(TcpListener, #[expect(dead_code, reason = "its end is what is told")] watch::Sender<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }
}

/// Listens as soon as the address is free.
async fn listen(address: SocketAddr) -> TcpListener {
    let freed = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                Err(error) => panic!("{address}: {error}"),
            }
        }
    };
    within(freed).await
}

/// A program that answers everything with one text.
pub fn says(text: &'static str) -> Router {
    Router::new().fallback(move || async move { text })
}

/// A program that answers with the request's own header fields, a line each.
pub fn mirror() -> Router {
    Router::new().fallback(|request: Request<axum::body::Body>| async move {
        let mut lines: Vec<String> = vec![format!("target: {}", request.uri())];
        for (name, value) in request.headers() {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        Ok::<_, Infallible>(lines.join("\n"))
    })
}

/// A program that tells of each request and answers once it is let.
pub fn gated() -> (Router, mpsc::Receiver<()>, Arc<Semaphore>) {
    let (arrived, arrivals) = mpsc::channel(1000);
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let program = Router::new().fallback(move || async move {
        arrived.send(()).await.unwrap();
        opened.acquire().await.unwrap().forget();
        "done"
    });
    (program, arrivals, gate)
}
