//! A control plane among fakes: a host whose machines do what their image's name says, that can freeze at any call.

mod client;
mod host;
mod issuer;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::internal::{ImageError, ImageResolver, LogFilter, LogQuery, LogSink, PullCredentials, ResolvedImage};
use async_trait::async_trait;
use control::{Control, ControlOptions, Ports, Proofs, Store, Tempo};
use model::{AppName, Digest, ImageConfig, ImageSpec, OrgSlug, log::LogRecord};
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

pub use client::PATIENCE;
pub use client::{Answer, Client};
pub use host::{Host, Side};
pub use issuer::Issuer;

/// What outlives a control plane: its directory, its host, its logs.
pub struct World {
    pub directory: tempfile::TempDir,
    pub host: Arc<Host>,
    pub logs: Arc<Logs>,
    pub images: Arc<Images>,
    pub issuer: Arc<Issuer>,
}

/// A control plane at work.
pub struct Running {
    pub control: Arc<Control>,
    pub store: Store,
    task: JoinHandle<()>,
}

impl World {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            host: Host::new(),
            logs: Arc::default(),
            images: Arc::default(),
            issuer: Arc::default(),
        }
    }

    pub async fn open(&self) -> (Arc<Control>, Store) {
        let store = Store::open(self.directory.path()).await.unwrap();
        let key = kit::seal::SealingKey::load_or_create(&self.directory.path().join("sealing.key")).unwrap();
        let ports = Ports {
            node: self.host.clone(),
            images: self.images.clone(),
            drain: self.host.clone(),
            edge: self.host.clone(),
            catalog: self.host.clone(),
            logs: self.logs.clone(),
            log_sink: self.logs.clone(),
            sealing_key: key,
            hosts: self.host.clone(),
            certifier: self.issuer.clone(),
            proofs: Proofs::new(self.issuer.clone()),
        };
        (Control::open(options(), store.clone(), ports).await.unwrap(), store)
    }

    /// Starts a control plane on what there is.
    pub async fn start(&self) -> Running {
        let (control, store) = self.open().await;
        let task = tokio::spawn(Arc::clone(&control).run());
        Running { control, store, task }
    }

    /// Starts the first control plane and returns the administrator's client too.
    pub async fn start_first(&self) -> (Running, Client) {
        let running = self.start().await;
        let token = running.control.first_token().expect("the first start makes a token");
        running.control.first_token_shown().await.unwrap();
        let client = running.client(&token);
        (running, client)
    }

    pub fn database(&self) -> Vec<u8> {
        let read = |name: &str| std::fs::read(self.directory.path().join(name)).unwrap_or_default();
        [read("control.db"), read("control.db-wal")].concat()
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Running {
    pub fn client(&self, token: &str) -> Client {
        Client::new(self.control.router(), token)
    }

    /// Ends it as `kill -9` does: nothing is finished, nothing is said.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn options() -> ControlOptions {
    ControlOptions {
        region: "local".parse().unwrap(),
        domain: "dunlin.localhost".into(),
        public_addresses: vec!["203.0.113.7".parse().unwrap()],
        http_port: 8080,
        https_port: 8443,
        registry_hosts: vec!["localhost:4280".into()],
        version: "0.0.0-test".into(),
        tempo: Tempo {
            smoke: Duration::from_millis(20),
            loopback_grace: Duration::from_millis(20),
            poll: Duration::from_millis(5),
            drain: Duration::from_secs(30),
        },
    }
}

/// Finds every image but those called `missing`.
#[derive(Default)]
pub struct Images {
    pub forgotten: Mutex<Vec<AppName>>,
}

#[async_trait]
impl ImageResolver for Images {
    async fn resolve(&self, _: &OrgSlug, reference: &str, _: PullCredentials) -> Result<ResolvedImage, ImageError> {
        if reference.starts_with("missing") {
            return Err(ImageError::NotFound { reference: reference.into(), reason: "push it first".into() });
        }
        let digest = Digest::sha256(Sha256::digest(reference.as_bytes()).into());
        let image = ImageSpec { reference: reference.into(), digest };
        Ok(ResolvedImage { image, config: ImageConfig::default(), size_bytes: 1 })
    }

    async fn forget(&self, app: &AppName) -> Result<(), ImageError> {
        self.forgotten.lock().unwrap().push(app.clone());
        Ok(())
    }
}

/// Keeps everything it is told.
#[derive(Default)]
pub struct Logs(pub Mutex<Vec<LogRecord>>);

impl LogSink for Logs {
    fn append(&self, record: LogRecord) {
        self.0.lock().unwrap().push(record);
    }
}

#[async_trait]
impl LogQuery for Logs {
    async fn query(&self, filter: LogFilter) -> Vec<LogRecord> {
        let machine = |record: &LogRecord| filter.machine.is_none() || record.machine == filter.machine;
        let all = self.0.lock().unwrap();
        let found: Vec<_> = all.iter().filter(|record| record.app == filter.app && machine(record)).cloned().collect();
        found[found.len().saturating_sub(filter.limit)..].to_vec()
    }

    fn follow(&self, filter: LogFilter) -> mpsc::Receiver<LogRecord> {
        let records = self.0.lock().unwrap().clone();
        let (sender, receiver) = mpsc::channel(records.len().max(1));
        for record in records.into_iter().filter(|record| record.app == filter.app) {
            sender.try_send(record).unwrap();
        }
        receiver
    }

    async fn forget(&self, app: &AppName) {
        self.0.lock().unwrap().retain(|record| record.app != *app);
    }
}
