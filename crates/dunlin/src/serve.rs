//! `dunlin serve`: every role in one process. This is the only place where rooms meet.
//!
//! ```text
//! lock ─▶ front: catalog ─▶ edge ─▶ rooms: logs ─▶ store ─▶ images ─▶ node ─▶ control ─▶ names ─▶ API ─▶ ready
//!   ▲                                                                                                     │
//!   └── another process takes over ([`takeover`]): the rooms close, the front stays until clients have gone
//! ```
//!
//! They open in the order in which they need each other and close in the reverse. Virtual machines keep running when
//! this process ends, unless `--stop-machines-on-exit` says otherwise.

mod edge_alone;
mod front;
mod limits;
mod lock;
mod membership;
mod network;
mod rooms;
mod service;
mod takeover;
mod trace;

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use certs::AcmeOptions;
use clap::{Args, ValueEnum};
use edge::{Bounds, Sockets, proxy_protocol::TrustedProxy};
use kit::seal::SealingKey;
use model::{GoDuration, Region, log::LogRecord};
use node::{Ipv4Pool, kernel::KernelSource, vmm::Driver};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

pub use edge_alone::{EdgeServeOptions, run as run_edge};

use crate::host;
use front::Front;
use limits::EdgeLimits;
use rooms::Rooms;
use takeover::{Succession, Successor};

/// How the platform is started.
#[derive(Debug, Args)]
pub struct ServeOptions {
    /// Where everything is kept
    #[arg(long, env = "DUNLIN_DATA_DIR", default_value = host::DATA_DIRECTORY)]
    data_dir: PathBuf,
    /// The region this host stands in
    #[arg(long, env = "DUNLIN_REGION", default_value = "local")]
    region: Region,
    /// Apps are reached as <app>.<domain>; names below `localhost` need no DNS
    #[arg(long, env = "DUNLIN_DOMAIN", default_value = "dunlin.localhost")]
    domain: String,
    /// The addresses on which apps are served; all of this host unless given
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<IpAddr>,
    /// The port for HTTP
    #[arg(long, default_value_t = 80)]
    http_port: u16,
    /// The port for HTTPS
    #[arg(long, default_value_t = 443)]
    https_port: u16,
    /// Speak no HTTP/3, which is otherwise offered on the same port of UDP as HTTPS
    #[arg(long)]
    no_http3: bool,
    /// Peers whose connections to apps begin with a PROXY protocol header, such as a load balancer in front of this
    /// host: 10.0.0.0/8, or 10.0.0.0/8=optional where some connections have none. Nobody else's header is believed
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    trusted_proxies: Vec<TrustedProxy>,
    /// Where the REST API and the container registry listen
    #[arg(long, default_value = "127.0.0.1:4280")]
    api_listen: SocketAddr,
    /// Where edges on other hosts (`dunlin edge serve`) reach the machines of this one, over TLS with certificates of this
    /// platform's own on both sides; nowhere unless given
    #[arg(long, value_name = "ADDRESS:PORT")]
    worker_listen: Option<SocketAddr>,
    /// The address that those edges are told, where it is another one
    #[arg(long, value_name = "ADDRESS:PORT", requires = "worker_listen")]
    worker_address: Option<SocketAddr>,
    /// Order certificates for host names that apps bring along (ACME, RFC 8555), as this person, whom the issuer may write
    /// to. To give it is to agree to the issuer's terms
    #[arg(long, value_name = "ADDRESS", env = "DUNLIN_ACME_EMAIL")]
    acme_email: Option<String>,
    /// Whose certificates: the directory of an ACME server
    #[arg(long, value_name = "URL", default_value = certs::LETS_ENCRYPT, requires = "acme_email")]
    acme_directory: String,
    /// The authorities (PEM) by which that server's own certificate is checked, in place of the web's
    #[arg(long, value_name = "FILE", requires = "acme_email")]
    acme_ca: Option<PathBuf>,
    /// A program that sets DNS records for certificates: HOOK present|cleanup RECORD TEXT HOSTNAME. Wildcards need it
    #[arg(long, value_name = "PROGRAM", requires = "acme_email")]
    acme_dns_hook: Option<PathBuf>,
    /// Where this platform is reached from everywhere, for the DNS of host names; this host's own addresses unless given
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    public_address: Vec<IpAddr>,
    /// Whom to ask what DNS says of host names; the name servers of this host unless given
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    dns_server: Vec<SocketAddr>,
    /// What runs virtual machines; `auto` takes the strongest that truly works here
    #[arg(long, env = "DUNLIN_DRIVER", value_enum, default_value = "auto")]
    driver: DriverName,
    /// A guest kernel (bzImage or ELF) instead of the one that `dunlin setup` fetched
    #[arg(long, requires = "kernel_modules")]
    kernel: Option<PathBuf>,
    /// The modules of that kernel
    #[arg(long, requires = "kernel")]
    kernel_modules: Option<PathBuf>,
    /// Host-local addresses of machines; no other network of this host may use them
    #[arg(long, default_value = "10.201.0.0/16")]
    machine_pool: Ipv4Pool,
    /// How long a machine with auto_stop_machines has nothing to do before it is stopped or suspended, unless its app says
    /// something else
    #[arg(long, value_name = "TIME", default_value = "5m")]
    sleep_after: GoDuration,
    /// Write no access records into the logs of apps
    #[arg(long)]
    no_access_records: bool,
    /// Take over from the `dunlin serve` that uses the data directory: its sockets, its machines, its place. No request is
    /// lost; connections that are open end where they began. `dunlin upgrade` does this with the options of the running one
    #[arg(long, conflicts_with = "stop_machines_on_exit")]
    takeover: bool,
    /// How long connections may last, in seconds, once another process has taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_timeout: u64,
    /// Stop all machines and remove their network when this process ends
    #[arg(long)]
    stop_machines_on_exit: bool,
    /// What to tell on standard error, as tracing's filter: `warn`, `info`, `edge=debug`
    #[arg(long, env = "DUNLIN_LOG", default_value = "info")]
    log: String,
    #[command(flatten)]
    limits: EdgeLimits,
}

/// Whom to upgrade.
#[derive(Debug, Args)]
pub struct UpgradeOptions {
    /// The data directory of the running platform
    #[arg(long, env = "DUNLIN_DATA_DIR", default_value = host::DATA_DIRECTORY)]
    data_dir: PathBuf,
}

/// The drivers, by the names of the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum DriverName {
    Auto,
    Firecracker,
    Qemu,
}

/// How long requests that are under way may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the platform until it is told to end, or another process has taken over.
pub async fn run(options: ServeOptions) -> Result<ExitCode> {
    trace::start(&options.log)?;
    ensure!(host::is_root(), "virtual machines with their own network need root: run `sudo dunlin serve`");
    // From here on a signal ends the platform in an orderly way, even while it starts.
    let mut end = End::by_signals()?;
    let mut platform = Platform::start(&options).await?;
    loop {
        let successor = tokio::select! {
            () = end.asked() => break,
            successor = platform.succession.next() => successor,
        };
        platform = match platform.hand_over(successor, &options).await? {
            Handed::Kept(platform) => *platform,
            Handed::Over(retired) => {
                retired.retire(&options, end).await;
                return Ok(ExitCode::SUCCESS);
            }
        };
    }
    service::stopping();
    tracing::info!("ending: requests under way have {} s", DRAIN.as_secs());
    platform.rooms.close(options.stop_machines_on_exit, DRAIN).await?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the running platform to be succeeded by the program that lies on the disk now.
pub async fn upgrade(options: &UpgradeOptions, json: bool) -> Result<ExitCode> {
    let (version, pid) = takeover::ask(&options.data_dir).await?;
    if json {
        println!("{}", serde_json::json!({"version": version, "pid": pid}));
    } else {
        println!("Dunlin {version} has taken over (process {pid})");
    }
    Ok(ExitCode::SUCCESS)
}

/// Signals that end this process in an orderly way.
struct End {
    interrupt: Signal,
    terminate: Signal,
}

impl End {
    fn by_signals() -> Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A running platform, and its place: the data directory.
struct Platform {
    rooms: Rooms,
    succession: Succession,
    lock: File,
    program: PathBuf,
}

/// What became of a takeover.
enum Handed {
    /// Nothing: everything is as it was.
    Kept(Box<Platform>),
    /// Another process is the platform now.
    Over(Box<Retired>),
}

/// A platform that has been succeeded.
struct Retired {
    front: Front,
    successor: Successor,
    records: mpsc::Receiver<LogRecord>,
}

impl Platform {
    async fn start(options: &ServeOptions) -> Result<Self> {
        // Where this program lies is known before another one is put in its place.
        let program = std::env::current_exe().context("this program cannot be found")?;
        let (sockets, predecessor) = if options.takeover {
            let (sockets, predecessor) = takeover::succeed(&options.data_dir).await?;
            (sockets, Some(predecessor))
        } else {
            (service::sockets(), None)
        };
        let lock = lock::take(&options.data_dir)?;
        let front = Front::open(options, Sockets::inherited(sockets)).await?;
        if predecessor.is_none() {
            front.edge.open();
        }
        let rooms = Rooms::open(front, options).await?;
        let succession = Succession::open(&options.data_dir, program.clone())?;
        if let Some(predecessor) = predecessor {
            rooms.front.edge.open();
            match predecessor.ready().await {
                Ok(channel) => rooms.front.elders.add(channel, rooms.front.logs.clone()),
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
        rooms.announce(options).await?;
        service::ready();
        Ok(Self { rooms, succession, lock, program })
    }

    /// Hands over to a successor. If it does not become ready, everything is opened again.
    async fn hand_over(mut self, successor: Successor, options: &ServeOptions) -> Result<Handed> {
        tracing::info!("process {} takes over", successor.pid());
        if let Err(error) = successor.hand(&self.rooms.front.sockets()?).await {
            self.succession.failed(&format!("{error:#}")).await;
            return Ok(Handed::Kept(Box::new(self)));
        }
        let records = self.rooms.front.logs.forward();
        let front = self.rooms.let_go().await?;
        drop(self.lock);
        let Err(error) = successor.give_way().await else {
            service::succeeded_by(successor.pid());
            self.succession.succeeded(&successor).await;
            return Ok(Handed::Over(Box::new(Retired { front, successor, records })));
        };
        self.succession.failed(&format!("{error:#}")).await;
        let lock = lock::take_back(&options.data_dir).await;
        let rooms = Rooms::open(front, options).await?;
        let succession = Succession::open(&options.data_dir, self.program.clone())?;
        Ok(Handed::Kept(Box::new(Self { rooms, succession, lock, program: self.program })))
    }
}

impl Retired {
    /// Carries what is under way until the last client has gone, the time is up, or this process is told to end.
    async fn retire(self, options: &ServeOptions, mut end: End) {
        tracing::info!("another process has taken over; connections here have {} s", options.drain_timeout);
        let (edge, channel) = (self.front.edge.clone(), self.successor.channel());
        let catalog = (self.front.catalog, front::catalog_path(options));
        let deadline = Duration::from_secs(options.drain_timeout);
        tokio::select! {
            () = takeover::retire(edge.clone(), catalog, channel, self.records, deadline) => {}
            () = end.asked() => edge.shutdown(DRAIN).await,
        }
    }
}

impl ServeOptions {
    fn driver(&self) -> Driver {
        match self.driver {
            DriverName::Auto => Driver::Auto,
            DriverName::Firecracker => Driver::Firecracker,
            DriverName::Qemu => Driver::Qemu,
        }
    }

    fn kernel(&self) -> KernelSource {
        match (&self.kernel, &self.kernel_modules) {
            (Some(image), Some(modules)) => KernelSource::Path { image: image.clone(), modules: modules.clone() },
            _ => KernelSource::Auto,
        }
    }

    /// Where apps are served under this port. IPv6 is left out on a host that has none.
    fn sockets(&self, port: u16) -> Vec<SocketAddr> {
        let has_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty());
        let all = [Some(Ipv4Addr::UNSPECIFIED.into()), has_ipv6.then_some(Ipv6Addr::UNSPECIFIED.into())];
        let addresses = if self.listen.is_empty() { all.into_iter().flatten().collect() } else { self.listen.clone() };
        addresses.into_iter().map(|address: IpAddr| SocketAddr::new(address, port)).collect()
    }

    /// Where edges on other hosts reach this one, by the port that was opened for them.
    fn worker_door(&self, opened: SocketAddr) -> Result<SocketAddr> {
        let told = self.worker_address.unwrap_or(opened);
        ensure!(
            !told.ip().is_unspecified(),
            "other hosts cannot be told to dial {told}: name this host's own address, with --worker-listen or --worker-address"
        );
        Ok(told)
    }

    /// Where this platform is reached from everywhere.
    fn public_addresses(&self) -> Vec<IpAddr> {
        if self.public_address.is_empty() { network::own_addresses() } else { self.public_address.clone() }
    }

    /// How certificates are ordered, if they are.
    fn acme(&self, sealing_key: &SealingKey) -> Result<Option<AcmeOptions>> {
        let Some(email) = self.acme_email.clone() else { return Ok(None) };
        Ok(Some(AcmeOptions {
            directory: self.acme_directory.clone(),
            email,
            ca: self.acme_ca.clone(),
            dns_hook: self.acme_dns_hook.clone(),
            accounts: self.directory("acme")?,
            sealing_key: sealing_key.clone(),
        }))
    }

    /// How much of everything the edge allows.
    fn bounds(&self) -> Bounds {
        Bounds { sleep_after: self.sleep_after.0, ..self.limits.bounds() }
    }

    /// A directory below the data directory, made if it is missing.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.data_dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(path)
    }
}
