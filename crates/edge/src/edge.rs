//! The edge as a whole: it starts, follows the catalog, drains, stops.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::HeaderValue;
use api::{
    internal::{Drain, EdgeView, Wake},
    public::edge::{EdgeConnections, EdgeRoutes},
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use model::{AppName, MachineId};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    EdgeError, EdgeOptions, Subnet,
    account::{self, Handshakes},
    context::Context,
    distance::{self, Distances},
    http, http3,
    journal::Journal,
    limits::Limits,
    listen::{Doors, Sockets, accept, allow_all_files, bind},
    routing::{Registry, Routing},
    signal::Signal,
    tls::Certificates,
    udp::Slots,
    upstream::{Dialer, KeepBounds},
    wake::{self, Alarms},
    worker::{self, Hops},
};

/// How long before a drain's deadline WebSockets are asked to close, at most.
const FAREWELL: Duration = Duration::from_secs(3);
/// When ports that could not be opened are tried again.
const RETRY_PORTS: Duration = Duration::from_secs(5);
/// How long what has been cut off gets to end.
const CUT_OFF: Duration = Duration::from_secs(2);

/// A running edge.
pub struct Edge {
    context: Arc<Context>,
    sockets: Arc<Sockets>,
    doors: Arc<Doors>,
    http: Vec<SocketAddr>,
    https: Vec<SocketAddr>,
    worker: Option<SocketAddr>,
}

impl Edge {
    /// Starts to listen and to carry.
    pub async fn start(options: EdgeOptions) -> Result<Arc<Self>, EdgeError> {
        let edge = Self::prepare(options, Sockets::default()).await?;
        edge.open();
        Ok(edge)
    }

    /// Prepares everything, by `sockets` where they fit. Routes by the catalog as it is now and follows it from there.
    /// Whoever connects waits until [`Self::open`].
    pub async fn prepare(options: EdgeOptions, sockets: Sockets) -> Result<Arc<Self>, EdgeError> {
        let sockets = Arc::new(sockets);
        allow_all_files();
        let domain = http::host_name(&options.domain).ok_or(EdgeError::Domain(options.domain.clone()))?;
        let certificates = Certificates::open(&options.keys, &domain, options.hostnames.clone())?;
        let takes_over = sockets.are_inherited();
        let http = bind_all(&sockets, &options.http, "http-port")?;
        let https = bind_all(&sockets, &options.https, "https-port")?;
        let (http_addresses, https_addresses) = (addresses(&http), addresses(&https));
        let context = context(&options, domain, certificates);
        let mut worker = None;
        if let Some(port) = options.public_https_port.or(https_addresses.first().map(SocketAddr::port)) {
            let _ = context.https_port.set(port);
        }
        if options.http3 {
            speak_http3(&context, &https_addresses, takes_over)?;
        }
        if let Some(door) = options.backhaul.door {
            let listener = bind(&sockets, door, "worker-listen")?;
            worker = listener.local_addr().ok();
            worker::open(&context, listener, options.backhaul.credentials.clone());
        }
        let ips: BTreeSet<IpAddr> = http_addresses.iter().chain(&https_addresses).map(SocketAddr::ip).collect();
        let doors = Arc::new(Doors::new(sockets.clone(), ips.into_iter().collect(), options.reserved_ports));
        follow(&context, &doors, options.catalog);
        context.tasks.spawn(distance::measure(context.clone()));
        listen(&context, http, catalog::HTTP_PORT);
        listen(&context, https, catalog::HTTPS_PORT);
        sockets.close_spare();
        Ok(Arc::new(Self { context, sockets, doors, http: http_addresses, https: https_addresses, worker }))
    }

    /// Lets in whoever connects.
    pub fn open(&self) {
        self.context.opened.cancel();
    }

    /// Copies of every socket that is listened on, for the process that comes next.
    pub fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.sockets.copies()
    }

    /// Where plain HTTP is listened for.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where TLS is listened for.
    pub fn https_addresses(&self) -> &[SocketAddr] {
        &self.https
    }

    /// Where other hosts knock for the machines of this one, if they may.
    pub fn worker_address(&self) -> Option<SocketAddr> {
        self.worker
    }

    /// The ports opened for apps, beside those for HTTP and TLS.
    pub fn app_ports(&self) -> Vec<u16> {
        self.doors.open_ports()
    }

    /// The UDP ports opened for apps.
    pub fn app_udp_ports(&self) -> Vec<u16> {
        self.doors.open_udp_ports()
    }

    /// From now on machines get datagrams under their client's own IPv4 address: the host brings their answers back to
    /// the socket. Clients whose address lies in `machines` do not exist.
    pub fn keep_sources(&self, machines: Subnet) {
        let _ = self.context.keeps_sources.set(machines);
    }

    /// From now on requests wake machines that sleep, and those that have nothing to do fall asleep.
    pub fn wake_by(&self, waker: Arc<dyn Wake>) {
        *self.context.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker);
    }

    /// The certificate of the local authority, in PEM, for whoever shall trust it.
    pub fn authority_path(&self) -> PathBuf {
        self.context.certificates.authority_path()
    }

    /// The generation of the catalog that requests are routed by, now and at every change.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.context.routed.subscribe()
    }

    /// Leaves whoever connects to another process that listens on the same sockets. Whoever is here stays until he goes
    /// by himself, or until `deadline` has passed; then the edge stops. HTTP connections go at a moment at which no
    /// request can be lost: after the next answer (HTTP/1), or when both sides have agreed on it (HTTP/2).
    pub async fn retire(&self, deadline: Duration, last: Duration) {
        self.context.leaving.store(true, Relaxed);
        self.context.retiring.give();
        let _ = tokio::time::timeout(deadline, self.context.limits.admission.empty()).await;
        self.shutdown(last).await;
    }

    /// Stops: takes nothing new, lets what is under way end until `deadline` has passed, cuts off the rest.
    pub async fn shutdown(&self, deadline: Duration) {
        self.context.leaving.store(true, Relaxed);
        self.context.stopping.give();
        self.context.opened.cancel();
        self.context.tasks.close();
        if tokio::time::timeout(deadline, self.context.tasks.wait()).await.is_err() {
            self.context.aborting.give();
            let _ = tokio::time::timeout(CUT_OFF, self.context.tasks.wait()).await;
        }
    }
}

#[async_trait]
impl Drain for Edge {
    async fn drained(&self, machine: &MachineId, generation: u64, deadline: Duration) -> usize {
        let end = Instant::now() + deadline;
        let mut routed = self.context.routed.subscribe();
        let caught_up = timeout_at(end, routed.wait_for(|routed| *routed >= generation)).await.is_ok();
        let Some(machine) = self.context.routing.load().machine(machine).cloned() else { return 0 };
        if !caught_up {
            return machine.under_way().max(1);
        }
        let farewell = end - FAREWELL.min(deadline / 4);
        if timeout_at(farewell, machine.settled()).await.is_err() {
            machine.ask_to_close();
            let _ = timeout_at(end, machine.settled()).await;
        }
        machine.under_way()
    }
}

impl EdgeView for Edge {
    fn metrics(&self, apps: Option<&BTreeSet<AppName>>) -> String {
        account::render(&self.context, apps)
    }

    fn routes(&self) -> EdgeRoutes {
        account::routes(&self.context)
    }

    fn connections(&self) -> EdgeConnections {
        let live = self.context.connections.all();
        EdgeConnections { connections: live.iter().map(|connection| connection.show()).collect() }
    }
}

fn bind_all(sockets: &Sockets, wanted: &[SocketAddr], flag: &'static str) -> Result<Vec<Arc<TcpListener>>, EdgeError> {
    wanted.iter().map(|address| bind(sockets, *address, flag)).collect()
}

fn addresses(listeners: &[Arc<TcpListener>]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
}

fn context(options: &EdgeOptions, domain: String, certificates: Certificates) -> Arc<Context> {
    let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
    Arc::new(Context {
        domain,
        region: options.region.clone(),
        region_field: HeaderValue::from_str(options.region.as_str()).expect("a region's name is a field's value"),
        platform: options.platform.clone(),
        routing: ArcSwap::from_pointee(Routing::default()),
        routed: watch::Sender::new(0),
        hostnames: options.hostnames.clone(),
        maintenance: options.maintenance.clone(),
        journal: Arc::new(Journal::new(options.logs.clone(), options.region.clone(), options.access_records)),
        connections: Arc::default(),
        handshakes: Handshakes::default(),
        dialer: Dialer::new(&options.bounds, tasks.clone(), stopping.clone()),
        compressor: http::Compressor::default(),
        kept: KeepBounds::new(options.bounds.kept_bytes, options.bounds.kept_bytes_overall),
        certificates,
        trusted_proxies: options.trusted_proxies.clone(),
        cancels: Arc::default(),
        keeps_sources: OnceLock::new(),
        distances: Arc::new(Distances::new(options.region.clone())),
        hops: Arc::new(Hops::new(&options.backhaul)),
        waker: Mutex::default(),
        alarms: Alarms::default(),
        flows: Slots::new(options.bounds.flows),
        limits: Limits::new(&options.bounds),
        https_port: OnceLock::new(),
        opened: CancellationToken::new(),
        retiring: Signal::new(stopping.child_token()),
        leaving: AtomicBool::new(false),
        alternative: OnceLock::new(),
        stopping: Signal::new(stopping),
        aborting: Signal::default(),
        tasks,
        bounds: options.bounds.clone(),
    })
}

fn listen(context: &Arc<Context>, listeners: Vec<Arc<TcpListener>>, port: u16) {
    for listener in listeners {
        context.tasks.spawn(accept(context.clone(), listener, port, context.retiring.token().clone()));
    }
}

/// Speaks HTTP/3 at the addresses for TLS, and announces it. The edge that ran before keeps its sockets as long as it has
/// clients there, so one that takes over speaks it when they are free.
fn speak_http3(context: &Arc<Context>, addresses: &[SocketAddr], takes_over: bool) -> Result<(), EdgeError> {
    if takes_over {
        context.tasks.spawn(http3::open_in_time(context.clone(), addresses.to_vec()));
        return Ok(());
    }
    http3::open(context, addresses)
}

/// Routes by the catalog of this moment, then by every later one, until the edge stops.
fn follow(context: &Arc<Context>, doors: &Arc<Doors>, catalog: catalog::Reader) {
    let mut changes = catalog.changed();
    changes.mark_unchanged();
    let mut registry = Registry::new(context.distances.clone(), context.hops.clone());
    let mut complete = swap(context, doors, &catalog, &mut registry);
    let (context, doors) = (context.clone(), doors.clone());
    let tasks = context.tasks.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = context.stopping.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return context.stopping.cancelled().await;
                    }
                    complete = swap(&context, &doors, &catalog, &mut registry);
                }
                () = tokio::time::sleep(RETRY_PORTS), if !complete => {
                    complete = doors.follow(&context, &context.routing.load_full());
                }
            }
        }
    });
}

/// Swaps a new picture in. Whoever hears of its generation finds closed machines closed. Tells whether every port is
/// open.
fn swap(context: &Arc<Context>, doors: &Doors, catalog: &catalog::Reader, registry: &mut Registry) -> bool {
    let routing = Arc::new(registry.join(catalog.load()));
    context.routing.store(routing.clone());
    registry.opened().iter().for_each(|machine| wake::watch(context, machine));
    let complete = doors.follow(context, &routing);
    context.routed.send_replace(routing.snapshot.generation);
    complete
}
