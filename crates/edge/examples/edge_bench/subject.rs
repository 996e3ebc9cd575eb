//! Dunlin's edge as a process of its own, with a catalog of one app.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use api::internal::{LogSink, NodeView};
use catalog::Publisher;
use edge::{Bounds, Edge, EdgeOptions, Hostnames, Maintenance};
use kit::seal::SealingKey;
use model::{
    Addresses, ImageSpec, InstanceId, MachineId, NetworkId, Timestamp,
    log::LogRecord,
    machine::{
        Concurrency, ConcurrencyKind, Handler, HttpOptions, MachineConfig, MachineSpec, MachineState, Observed, Port,
        Protocol, SealedSecrets, Service,
    },
};

use crate::{origin, peers::Ports};

/// The host that the load asks for.
pub const HOST: &str = "bench.dunlin.localhost";

/// Runs the edge on one thread until the process is killed. `place` is `<directory> <ports>`.
pub fn serve(place: &str) -> Result<()> {
    let (directory, ports) = place.split_once(' ').context("serve wants a directory and ports")?;
    let ports: Ports = serde_json::from_str(ports)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).global_queue_interval(edge::GLOBAL_QUEUE_INTERVAL).enable_all().build()?;
    runtime.block_on(run(Path::new(directory), &ports))
}

async fn run(directory: &Path, ports: &Ports) -> Result<()> {
    let publisher = Publisher::open(directory.join("catalog.json"));
    let sealing_key = SealingKey::load_or_create(&directory.join("sealing.key"))?;
    let address = |port| vec![(Ipv4Addr::LOCALHOST, port).into()];
    let edge = Edge::start(EdgeOptions {
        http: address(ports.http),
        https: address(ports.https),
        domain: "dunlin.localhost".into(),
        region: "local".parse()?,
        keys: directory.join("keys"),
        catalog: publisher.reader(),
        hostnames: Hostnames::open(directory.join("hostnames"), sealing_key),
        maintenance: Maintenance::open(directory.join("maintenance.json")),
        logs: Arc::new(Nowhere),
        platform: BTreeMap::new(),
        reserved_ports: BTreeSet::new(),
        public_https_port: None,
        trusted_proxies: Vec::new(),
        // As `dunlin serve` has it.
        http3: true,
        backhaul: edge::Backhaul::default(),
        // As with the others: no log.
        access_records: false,
        bounds: Bounds::default(),
    })
    .await?;
    publisher.apply(&view(ports));
    edge.generation().wait_for(|generation| *generation == 1).await?;
    std::future::pending().await
}

/// Where an app's log would be: the peers write none either.
struct Nowhere;

impl LogSink for Nowhere {
    fn append(&self, _: LogRecord) {}
}

/// One machine that is the origin.
fn view(ports: &Ports) -> NodeView {
    let id = MachineId::from_random([7; 7]);
    let network = NetworkId(1);
    let digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
    let spec = MachineSpec {
        id: id.clone(),
        name: "origin".into(),
        org: "personal".parse().expect("a name"),
        app: "bench".parse().expect("a name"),
        network,
        region: "local".parse().expect("a region"),
        version: InstanceId::new(1, [0; 10]),
        image: ImageSpec { reference: "bench:1".into(), digest },
        config: MachineConfig { services: services(ports), ..MachineConfig::default() },
        secrets: SealedSecrets::default(),
    };
    let now = Timestamp(kit::clock::unix_ms());
    let machine = Observed {
        addresses: Addresses { private: network.machine_address(&id), host_local: origin::IP },
        spec,
        state: MachineState::Started,
        cordoned: false,
        checks: Vec::new(),
        events: Vec::new(),
        last_exit: None,
        reason: None,
        isolation: None,
        created_at: now,
        updated_at: now,
    };
    NodeView { generation: 1, machines: [(id, Arc::new(machine))].into_iter().collect() }
}

fn services(ports: &Ports) -> Vec<Service> {
    let concurrency =
        |kind| Concurrency { kind, soft_limit: Some(1_000_000), hard_limit: None, ..Concurrency::default() };
    let port = |port, handlers: &[Handler]| Port { port: Some(port), handlers: handlers.to_vec(), ..Port::default() };
    let plain = |port_: Port| Port {
        http_options: Some(HttpOptions { compress: Some(false), ..HttpOptions::default() }),
        ..port_
    };
    let web = Service {
        internal_port: origin::HTTP,
        ports: vec![plain(port(80, &[Handler::Http])), plain(port(443, &[Handler::Tls, Handler::Http]))],
        concurrency: concurrency(ConcurrencyKind::Requests),
        ..Service::default()
    };
    let raw = Service {
        internal_port: origin::BYTES,
        ports: vec![port(ports.tcp, &[])],
        concurrency: concurrency(ConcurrencyKind::Connections),
        ..Service::default()
    };
    let datagrams = Service {
        protocol: Protocol::Udp,
        internal_port: ports.udp,
        ports: vec![port(ports.udp, &[])],
        ..Service::default()
    };
    vec![web, raw, datagrams]
}
