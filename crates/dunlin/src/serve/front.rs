//! What clients reach: the edge and the API's socket. It opens before the rooms behind it, and stays when they close
//! because another process takes over.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, Result};
use api::internal::LogSink;
use axum::{
    Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use catalog::{Publisher, Worker};
use certs::HostAuthority;
use edge::{Edge, EdgeOptions, Hostnames, InboundBody, Maintenance, Sockets};
use hyper::Request;
use kit::seal::SealingKey;
use model::log::LogRecord;
use tokio::sync::mpsc;
use tower::ServiceExt;

use super::{
    ServeOptions,
    membership::{Authority, Membership},
    rooms,
    takeover::Elders,
};

/// Log records that wait for the process that has the logs now. More are lost, which is told once.
const RECORDS: usize = 4096;

/// What clients reach.
pub struct Front {
    /// Carries their traffic.
    pub edge: Arc<Edge>,
    /// What it routes by.
    pub catalog: Arc<Publisher>,
    /// The host names that apps bring along.
    pub hostnames: Arc<Hostnames>,
    /// The apps that it keeps closed.
    pub maintenance: Arc<Maintenance>,
    /// Where it writes.
    pub logs: Arc<LogSwitch>,
    /// Its picture of the control plane.
    pub api_host: SharedRouter,
    /// Where the API listens.
    pub api: SocketAddr,
    /// What secrets are sealed with. Whoever opens the rooms again needs nothing but what is here.
    pub sealing_key: SealingKey,
    /// The processes that were here before and still carry something.
    pub elders: Arc<Elders>,
    /// Vouches for the platform's hosts.
    pub hosts: Arc<HostAuthority>,
    /// Which of them this one is.
    pub membership: Arc<Membership>,
    /// Where edges on other hosts are told to come.
    pub door: Option<SocketAddr>,
    listener: TcpListener,
}

impl Front {
    /// Opens it, by `sockets` where they fit. Nobody is let in yet.
    pub async fn open(options: &ServeOptions, sockets: Sockets) -> Result<Self> {
        // The doors first: a port that is taken is the commonest mistake, and nothing has been touched yet.
        let listener = listen(options.api_listen, &sockets).await?;
        let api = listener.local_addr()?;
        let catalog = Arc::new(Publisher::open(catalog_path(options)));
        let sealing_key = rooms::sealing_key(options)?;
        let hosts = Arc::new(HostAuthority::load_or_create(&options.directory("keys")?, &sealing_key)?);
        let membership = Arc::new(Membership::open(&options.data_dir, sealing_key.clone())?);
        membership.renew(&Authority::Own(Arc::clone(&hosts))).await?;
        let hostnames = Hostnames::open(options.data_dir.join("hostnames"), sealing_key.clone());
        let (logs, api_host) = (Arc::<LogSwitch>::default(), SharedRouter::default());
        let maintenance = Maintenance::open(options.data_dir.join("maintenance.json"));
        let edge = rooms::edge_options(options, api, &catalog, &hostnames, &maintenance, logs.clone(), &api_host)?;
        let backhaul = membership.backhaul(options.worker_listen);
        let edge = Edge::prepare(EdgeOptions { backhaul, ..edge }, sockets).await?;
        let door = edge.worker_address().map(|opened| options.worker_door(opened)).transpose()?;
        if let Some(door) = door {
            catalog.reached_by(Worker { host: membership.host.clone(), door });
        }
        let elders = Elders::new(Arc::clone(&edge));
        Ok(Self {
            edge,
            catalog,
            hostnames,
            maintenance,
            logs,
            api_host,
            api,
            sealing_key,
            elders,
            hosts,
            membership,
            door,
            listener,
        })
    }

    /// The API's socket, for whoever serves it.
    pub fn api_listener(&self) -> Result<tokio::net::TcpListener> {
        Ok(tokio::net::TcpListener::from_std(self.listener.try_clone()?)?)
    }

    /// Copies of every socket, for the process that comes next.
    pub fn sockets(&self) -> Result<Vec<OwnedFd>> {
        let mut sockets = self.edge.sockets()?;
        sockets.push(self.listener.try_clone()?.into());
        Ok(sockets)
    }
}

/// Where the last good catalog lies.
pub fn catalog_path(options: &ServeOptions) -> PathBuf {
    options.data_dir.join("catalog.jsonl")
}

async fn listen(address: SocketAddr, sockets: &Sockets) -> Result<TcpListener> {
    let listener = match sockets.take_tcp(address) {
        Some(inherited) => inherited,
        None => tokio::net::TcpListener::bind(address).await,
    };
    let listener = listener.and_then(tokio::net::TcpListener::into_std);
    listener.with_context(|| format!("the API cannot listen on {address}; choose another place with --api-listen"))
}

/// Where the edge's log records go: into the logs, or to the process that has them now.
#[derive(Default)]
pub struct LogSwitch(RwLock<Option<Arc<dyn LogSink>>>);

impl LogSwitch {
    /// Into these logs.
    pub fn write_to(&self, logs: Arc<dyn LogSink>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(logs);
    }

    /// To whoever receives them.
    pub fn forward(&self) -> mpsc::Receiver<LogRecord> {
        let (sender, receiver) = mpsc::channel(RECORDS);
        self.write_to(Arc::new(Forwarded(sender)));
        receiver
    }
}

impl LogSink for LogSwitch {
    fn append(&self, record: LogRecord) {
        let logs = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(logs) = logs {
            logs.append(record);
        }
    }
}

/// Records for another process.
struct Forwarded(mpsc::Sender<LogRecord>);

impl LogSink for Forwarded {
    fn append(&self, record: LogRecord) {
        if let Err(error) = self.0.try_send(record) {
            tracing::debug!("a log record is lost: {error}");
        }
    }
}

/// The API as the edge offers it under `api.<domain>`. The edge is there before the control plane is, and after it; then
/// it answers that the platform starts.
#[derive(Clone, Default)]
pub struct SharedRouter(Arc<RwLock<Option<Router>>>);

impl SharedRouter {
    /// From now on, or no more.
    pub fn set(&self, router: Option<Router>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    /// The answer to a request.
    pub async fn answer(self, request: Request<InboundBody>) -> Result<Response, Infallible> {
        let router = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        match router {
            Some(router) => router.oneshot(request).await,
            None => Ok((StatusCode::SERVICE_UNAVAILABLE, "the platform is starting; try again\n").into_response()),
        }
    }
}
