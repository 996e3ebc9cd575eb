//! `dunlin serve`: every role in one process. This is the only place where rooms meet.
//!
//! ```text
//! lock ─▶ keys ─▶ logs ─▶ store ─▶ images ─▶ node ─▶ catalog ─▶ edge ─▶ control ─▶ names ─▶ API ─▶ ready
//! ```
//!
//! They open in the order in which they need each other and close in the reverse. Virtual machines keep running when
//! this process ends, unless `--stop-machines-on-exit` says otherwise.

mod lock;
mod resolvers;
mod rooms;
mod trace;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use edge::proxy_protocol::TrustedProxy;
use model::Region;
use node::{Ipv4Pool, kernel::KernelSource, vmm::Driver};
use tokio::signal::unix::{SignalKind, signal};

use crate::host;
use rooms::Rooms;

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
    /// Peers whose connections to apps begin with a PROXY protocol header, such as a load balancer in front of this
    /// host: 10.0.0.0/8, or 10.0.0.0/8=optional where some connections have none. Nobody else's header is believed
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    trusted_proxies: Vec<TrustedProxy>,
    /// Where the REST API and the container registry listen
    #[arg(long, default_value = "127.0.0.1:4280")]
    api_listen: SocketAddr,
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
    /// Write no access records into the logs of apps
    #[arg(long)]
    no_access_records: bool,
    /// Stop all machines and remove their network when this process ends
    #[arg(long)]
    stop_machines_on_exit: bool,
    /// What to tell on standard error, as tracing's filter: `warn`, `info`, `edge=debug`
    #[arg(long, env = "DUNLIN_LOG", default_value = "info")]
    log: String,
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

/// Runs the platform until it is told to end.
pub async fn run(options: ServeOptions) -> Result<ExitCode> {
    trace::start(&options.log)?;
    ensure!(host::is_root(), "virtual machines with their own network need root: run `sudo dunlin serve`");
    // From here on a signal ends the platform in an orderly way, even while it starts.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _lock = lock::take(&options.data_dir)?;

    let rooms = Rooms::open(&options).await?;
    rooms.announce(&options).await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("ending: requests under way have {} s", DRAIN.as_secs());
    rooms.close(options.stop_machines_on_exit, DRAIN).await?;
    Ok(ExitCode::SUCCESS)
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

    /// A directory below the data directory, made if it is missing.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.data_dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(path)
    }
}
