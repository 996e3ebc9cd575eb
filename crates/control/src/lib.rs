//! The control plane: what users want, stored and carried out.
//!
//! ```text
//!  client ──HTTP──▶ http (doors: convert, call) ──▶ domain: apps, machines, secrets, deploy ──▶ store (SQLite)
//!                                                          │                    ▲
//!                          intent, stored before it is told│                    │ deployments, one worker per app
//!                                                          ▼                    │
//!                                                     Node (port) ── views ──▶ run
//! ```
//!
//! Who asks is found out once, at the door ([`auth`]); from there on every row is reached through what the caller may
//! see. Doing takes place in the background, owned by [`Control::run`]: whoever asked may go away.
//!
//! The store opens first, because the image room asks it who may use a repository, while the control plane asks the
//! image room for images:
//!
//! ```text
//! let store = Store::open(data_dir).await?;                 // implements RegistryAccess and ImagesInUse
//! let images = …(Arc::new(store.clone()));
//! let control = Control::open(options, store, ports).await?;
//! ```

mod apps;
mod auth;
mod deploy;
mod error;
mod hostnames;
mod http;
mod image;
mod machines;
mod maintenance;
mod platform;
mod registry;
mod run;
mod secrets;
mod store;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use api::internal::{
    CatalogFeed, Certifier, Drain, EdgeView, HostCertifier, HostnameView, ImageResolver, LogQuery, LogSink,
    MaintenanceView, Node,
};
use kit::seal::SealingKey;
use model::Region;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use deploy::Tempo;
pub use error::{ControlError, Error};
pub use hostnames::proofs::{Listener, Proofs};
pub use http::openapi;
pub use store::Store;

/// What the control plane tells about the platform it stands in.
#[derive(Debug, Clone)]
pub struct ControlOptions {
    /// This host's region.
    pub region: Region,
    /// Apps are reached as `<app>.<domain>`.
    pub domain: String,
    /// The public HTTP port.
    pub http_port: u16,
    /// The public HTTPS port.
    pub https_port: u16,
    /// Where the platform is reached from everywhere: what host names of apps have to lead to.
    pub public_addresses: Vec<IpAddr>,
    /// Hosts, each with its port, by which clients name the platform's own registry; the first is the one shown.
    pub registry_hosts: Vec<String>,
    /// The version of `dunlin`.
    pub version: String,
    /// How long deployments look at machines.
    pub tempo: Tempo,
}

/// The other rooms.
#[derive(Clone)]
pub struct Ports {
    /// Runs machines.
    pub node: Arc<dyn Node>,
    /// Finds images.
    pub images: Arc<dyn ImageResolver>,
    /// Knows when a machine has nothing under way.
    pub drain: Arc<dyn Drain>,
    /// Shows what the edge does.
    pub edge: Arc<dyn EdgeView>,
    /// Tells edges on other hosts who runs where.
    pub catalog: Arc<dyn CatalogFeed>,
    /// Reads app logs.
    pub logs: Arc<dyn LogQuery>,
    /// Takes what the control plane has to say about apps.
    pub log_sink: Arc<dyn LogSink>,
    /// Seals secrets.
    pub sealing_key: SealingKey,
    /// Vouches for the platform's hosts.
    pub hosts: Arc<dyn HostCertifier>,
    /// Knows DNS and orders certificates.
    pub certifier: Arc<dyn Certifier>,
    /// The proofs for that which are pending.
    pub proofs: Arc<Proofs>,
}

/// The control plane.
pub struct Control {
    options: ControlOptions,
    ports: Ports,
    store: Store,
    /// Taken while an intent is stored and told to the node.
    intents: tokio::sync::Mutex<()>,
    first_token: Mutex<Option<String>>,
    /// What the edge is told of apps in maintenance mode, and by whom at a time.
    maintenance: watch::Sender<Arc<MaintenanceView>>,
    telling: tokio::sync::Mutex<()>,
    /// What it is told of host names; and whoever looks after those is told when there is something new.
    hostnames: watch::Sender<Arc<HostnameView>>,
    hostname_news: Notify,
    /// Held while [`Control::run`] runs.
    at_work: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

impl Control {
    /// Opens the control plane on its store. Nothing is done before [`Control::run`].
    ///
    /// # Errors
    /// If the store fails.
    pub async fn open(options: ControlOptions, store: Store, ports: Ports) -> Result<Arc<Self>, ControlError> {
        let first_token = Mutex::new(auth::first_token(&store).await?);
        let (intents, at_work) = (tokio::sync::Mutex::new(()), tokio::sync::Mutex::new(()));
        let (stop, telling) = (CancellationToken::new(), tokio::sync::Mutex::new(()));
        let maintenance = watch::Sender::new(Arc::new(store::maintenance::all(store.reader()).await?));
        let rows = hostnames::keeper::view(store.reader()).await?;
        let hostnames = watch::Sender::new(Arc::new(HostnameView { generation: 1, rows, incomplete: false }));
        let hostname_news = Notify::new();
        Ok(Arc::new(Self {
            options,
            ports,
            store,
            intents,
            first_token,
            maintenance,
            telling,
            hostnames,
            hostname_news,
            at_work,
            stop,
        }))
    }

    /// The administrator's token, if nobody has been shown one yet. Once it has been shown, say so with
    /// [`Control::first_token_shown`]; until then every start makes a new one in its place, so that a crash between
    /// making and showing locks nobody out.
    pub fn first_token(&self) -> Option<String> {
        self.first_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The administrator's first token has been shown: from now on it is the one, and it is not told again.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn first_token_shown(&self) -> Result<(), ControlError> {
        store::tokens::set_shown(&self.store).await?;
        self.first_token.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}
