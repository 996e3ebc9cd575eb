//! The rooms of a running platform: opened in the order in which they need each other, closed in the reverse.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use api::internal::{
    CatalogFeed, ChallengeDoor, Drain, EdgeView, HostCertifier, ImageResolver, LogQuery, LogSink, Node, RootfsSource,
    Wake,
};
use axum::Router;
use catalog::Publisher;
use certs::{Certs, CertsOptions};
use control::{Control, ControlOptions, Ports, Proofs, Store, Tempo};
use edge::{Backhaul, Edge, EdgeOptions, Hostnames, Maintenance, PlatformHost};
use images::{Images, ImagesOptions};
use kit::{report::Report, seal::SealingKey};
use logs::{Logs, Retention};
use names::{Names, NamesOptions};
use node::{LocalNode, Machinery, NodeOptions};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    ServeOptions,
    front::{Front, SharedRouter},
    membership::Authority,
    network,
};

/// Time between two collections of images that nothing uses.
const COLLECT: Duration = Duration::from_secs(600);

/// A running platform.
pub struct Rooms {
    /// What clients reach.
    pub front: Front,
    images: Arc<Images>,
    node: Arc<LocalNode>,
    control: Arc<Control>,
    _names: Option<Names>,
    /// Ends the tasks below, which belong to no room but join two.
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Rooms {
    /// Opens everything behind the front. What cannot be opened says why; what was opened before it is left to the
    /// process's end.
    pub async fn open(front: Front, options: &ServeOptions) -> Result<Self> {
        let (edge, catalog) = (&front.edge, &front.catalog);
        let sealing_key = front.sealing_key.clone();
        let logs = Logs::open(&options.directory("logs")?, Retention::default()).context("the app logs")?;
        front.logs.write_to(Arc::clone(&logs) as Arc<dyn LogSink>);
        let store = Store::open(&options.data_dir).await.context("the database of the control plane")?;
        let images = open_images(options, front.api, &store)?;
        let node = node_options(options, &images, &logs, &sealing_key)?;
        let node = NodeOptions { drain: Arc::clone(&front.elders) as Arc<dyn Drain>, ..node };
        let node = LocalNode::open(node).await?;
        edge.wake_by(Arc::clone(&node) as Arc<dyn Wake>);
        if node.keeps_sources() {
            edge.keep_sources(options.machine_pool.to_string().parse()?);
        }

        let stop = CancellationToken::new();
        let mut tasks = vec![tokio::spawn(Arc::clone(catalog).follow(node.observe(), stop.clone()))];

        let proofs = Proofs::new(Arc::clone(&front.hostnames) as Arc<dyn ChallengeDoor>);
        let certifier = Certs::open(CertsOptions {
            name_servers: if options.dns_server.is_empty() { network::resolvers() } else { options.dns_server.clone() },
            acme: options.acme(&sealing_key)?,
            door: Arc::clone(&proofs) as Arc<dyn ChallengeDoor>,
        })?;
        let ports = Ports {
            node: Arc::clone(&node) as Arc<dyn Node>,
            images: Arc::clone(&images) as Arc<dyn ImageResolver>,
            drain: Arc::clone(&front.elders) as Arc<dyn Drain>,
            edge: Arc::clone(edge) as Arc<dyn EdgeView>,
            catalog: Arc::new(catalog.reader()) as Arc<dyn CatalogFeed>,
            logs: Arc::clone(&logs) as Arc<dyn LogQuery>,
            log_sink: logs as Arc<dyn LogSink>,
            sealing_key,
            hosts: Arc::clone(&front.hosts) as Arc<dyn HostCertifier>,
            certifier,
            proofs,
        };
        let control = Control::open(control_options(options, front.api, edge), store.clone(), ports).await?;
        tasks.push(tokio::spawn(Arc::clone(&front.hostnames).follow(control.hostnames(), stop.clone())));
        let told = Arc::clone(&front.maintenance).follow(control.maintenance(), stop.clone());
        tasks.push(tokio::spawn(told));
        let names = open_names(&node).await;

        let router = control.router().merge(images.router());
        front.api_host.set(Some(router.clone()));
        tasks.push(tokio::spawn(Arc::clone(&control).run()));
        let authority = Authority::Own(Arc::clone(&front.hosts));
        tasks.push(tokio::spawn(Arc::clone(&front.membership).keep(authority, stop.clone())));
        tasks.push(tokio::spawn(collect(Arc::clone(&images), store, stop.clone())));
        tasks.push(tokio::spawn(serve_api(front.api_listener()?, router, stop.clone())));
        Ok(Self { front, images, node, control, _names: names, stop, tasks })
    }

    /// Says on standard output what a person needs to go on. `ready` is the last line.
    pub async fn announce(&self, options: &ServeOptions) -> Result<()> {
        let (isolation, why) = self.node.isolation();
        println!("Dunlin {} in region {}", env!("CARGO_PKG_VERSION"), options.region);
        println!("isolation: {isolation}: {why}");
        let port = |addresses: &[SocketAddr], usual: u16| match addresses.first().map(SocketAddr::port) {
            Some(port) if port != usual => format!(":{port}"),
            _ => String::new(),
        };
        println!("apps: http://<app>.{}{}", options.domain, port(self.front.edge.http_addresses(), 80));
        println!("      https://<app>.{}{}", options.domain, port(self.front.edge.https_addresses(), 443));
        println!("      (certificate authority: {})", self.front.edge.authority_path().display());
        println!("API and registry: http://{}", self.front.api);
        if let Some(door) = self.front.door {
            println!("machines, for edges on other hosts: {door} (this host is {})", self.front.membership.host);
        }
        if let Some(token) = self.control.first_token() {
            println!("admin token: {token}");
            println!("             (shown once; sign in with `dunlin auth login`)");
            self.control.first_token_shown().await?;
        }
        println!("ready");
        Ok(())
    }

    /// Ends everything: traffic first, then whoever asks for machines, then the node.
    pub async fn close(self, stop_machines: bool, drain: Duration) -> Result<()> {
        // The API takes nothing new; what is under way there ends with the control plane.
        self.stop.cancel();
        self.control.shutdown().await;
        self.front.edge.shutdown(drain).await;
        let closed = if stop_machines { self.node.shutdown_and_stop_all().await } else { Ok(()) };
        self.let_go().await?;
        closed.context("the machines could not all be stopped")
    }

    /// Closes everything but the front, which goes on by the last good catalog. Machines keep running.
    pub async fn let_go(self) -> Result<Front> {
        self.stop.cancel();
        self.front.api_host.set(None);
        self.control.shutdown().await;
        self.images.stop().await;
        self.node.shutdown().await;
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the platform died");
            }
        }
        self.front.catalog.save().context("the catalog could not be saved")?;
        Ok(self.front)
    }
}

/// What secrets are sealed with.
pub fn sealing_key(options: &ServeOptions) -> Result<SealingKey> {
    let path = options.directory("keys")?.join("sealing.key");
    SealingKey::load_or_create(&path).with_context(|| format!("the sealing key {}", path.display()))
}

fn open_images(options: &ServeOptions, api: SocketAddr, store: &Store) -> Result<Arc<Images>> {
    let mut images = ImagesOptions::new(&options.data_dir, Arc::new(store.clone()));
    images.own_hosts = registry_hosts(options, api);
    Ok(Images::open(images)?)
}

/// The names by which clients call the platform's own registry; the first is the one that is shown.
fn registry_hosts(options: &ServeOptions, api: SocketAddr) -> Vec<String> {
    let shown = if api.ip().is_unspecified() { format!("127.0.0.1:{}", api.port()) } else { api.to_string() };
    let mut hosts = vec![shown];
    hosts.extend(["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{}", api.port())));
    hosts.push(format!("registry.{}", options.domain));
    hosts.push(format!("registry.{}:{}", options.domain, options.https_port));
    hosts
}

fn node_options(
    options: &ServeOptions,
    images: &Arc<Images>,
    logs: &Arc<Logs>,
    sealing_key: &SealingKey,
) -> Result<NodeOptions> {
    let machinery = Machinery::Choose { driver: options.driver(), kernel: options.kernel() };
    let rootfs = Arc::clone(images) as Arc<dyn RootfsSource>;
    let logs = Arc::clone(logs) as Arc<dyn LogSink>;
    let (data, region) = (options.data_dir.clone(), options.region.clone());
    let mut node = NodeOptions::new(data, region, machinery, sealing_key.clone(), rootfs, logs);
    node.tag = instance_tag(&options.data_dir)?.parse()?;
    node.machine_pool = options.machine_pool;
    Ok(node)
}

/// Tells this platform's taps and tables from those of another one on the same host: the data directory's own name.
fn instance_tag(data: &Path) -> Result<String> {
    let path = data.canonicalize().with_context(|| format!("the data directory {}", data.display()))?;
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    Ok(hex::encode(&digest[..3]))
}

/// How the edge is set up, but for its way to other hosts.
pub fn edge_options(
    options: &ServeOptions,
    api: SocketAddr,
    catalog: &Publisher,
    hostnames: &Arc<Hostnames>,
    maintenance: &Arc<Maintenance>,
    logs: Arc<dyn LogSink>,
    api_host: &SharedRouter,
) -> Result<EdgeOptions> {
    let api_host = api_host.clone();
    let platform = PlatformHost::new(tower::service_fn(move |request| api_host.clone().answer(request)));
    Ok(EdgeOptions {
        http: options.sockets(options.http_port),
        https: options.sockets(options.https_port),
        domain: options.domain.clone(),
        region: options.region.clone(),
        keys: options.directory("keys")?,
        catalog: catalog.reader(),
        hostnames: Arc::clone(hostnames),
        maintenance: Arc::clone(maintenance),
        logs,
        platform: ["api", "registry"]
            .map(|name| (name.to_owned(), platform.clone()))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        reserved_ports: BTreeSet::from([api.port(), 22, 53]),
        public_https_port: None,
        trusted_proxies: options.trusted_proxies.clone(),
        http3: !options.no_http3,
        backhaul: Backhaul::default(),
        access_records: !options.no_access_records,
        bounds: options.bounds(),
    })
}

fn control_options(options: &ServeOptions, api: SocketAddr, edge: &Edge) -> ControlOptions {
    let port = |addresses: &[SocketAddr], else_port| addresses.first().map_or(else_port, SocketAddr::port);
    ControlOptions {
        region: options.region.clone(),
        domain: options.domain.clone(),
        http_port: port(edge.http_addresses(), options.http_port),
        https_port: port(edge.https_addresses(), options.https_port),
        registry_hosts: registry_hosts(options, api),
        public_addresses: options.public_addresses(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tempo: Tempo::default(),
    }
}

/// Names are a convenience to apps: a host on which they cannot be served runs apps all the same, and says so.
async fn open_names(node: &LocalNode) -> Option<Names> {
    let listen = SocketAddr::new(IpAddr::V6(model::address::NAME_SERVER), 53);
    let names = NamesOptions { listen, upstream: network::resolvers() };
    match Names::start(names, node.observe()).await {
        Ok(names) => Some(names),
        Err(error) => {
            tracing::error!("machines have no name server: {}", Report(&error));
            None
        }
    }
}

/// Removes images that no release and no machine uses, now and then.
async fn collect(images: Arc<Images>, store: Store, stop: CancellationToken) {
    let mut tick = tokio::time::interval(COLLECT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        match images.collect(&store).await {
            Ok(collected) => tracing::debug!(?collected, "images that nothing uses were removed"),
            Err(error) => tracing::warn!("images were not collected: {}", Report(&error)),
        }
    }
}

async fn serve_api(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the API ended");
    }
}
