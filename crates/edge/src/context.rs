//! What every connection shares.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::AtomicBool},
};

use api::internal::{MaintenanceNotice, Wake};
use arc_swap::ArcSwap;
use http::HeaderValue;
use model::{AppName, Region};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Bounds, Hostnames, Maintenance, PlatformHost, Subnet,
    account::{Connections, Handshakes},
    distance::Distances,
    http::Compressor,
    journal::Journal,
    limits::Limits,
    proxy_protocol::TrustedProxy,
    refusal::Refusal,
    routing::{App, Routing},
    signal::Signal,
    stream::postgres::Cancels,
    tls::Certificates,
    udp::Slots,
    upstream::{Dialer, KeepBounds},
    wake::Alarms,
    worker::Hops,
};

/// What every connection shares.
pub struct Context {
    /// `<app>.<domain>` is an app's host.
    pub domain: String,
    /// Where this edge runs.
    pub region: Region,
    /// The same as the value of a field.
    pub region_field: HeaderValue,
    /// How much, how long.
    pub bounds: Bounds,
    /// The platform's own hosts, by their first label.
    pub platform: BTreeMap<String, PlatformHost>,
    /// What requests are routed by.
    pub routing: ArcSwap<Routing>,
    /// The generation of `routing`, told after it has been swapped in.
    pub routed: watch::Sender<u64>,
    /// The host names that apps bring along.
    pub hostnames: Arc<Hostnames>,
    /// The apps in maintenance mode.
    pub maintenance: Arc<Maintenance>,
    /// Writes to the logs of apps.
    pub journal: Arc<Journal>,
    /// The connections of clients.
    pub connections: Arc<Connections>,
    /// What is counted of TLS handshakes.
    pub handshakes: Handshakes,
    /// Opens connections to machines.
    pub dialer: Dialer,
    /// How much of the bodies of requests is kept.
    pub kept: Arc<KeepBounds>,
    /// Compresses answers.
    pub compressor: Compressor,
    /// Proves who we are to clients.
    pub certificates: Certificates,
    /// Peers that say whom their connections come from.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The PostgreSQL sessions that can be cancelled.
    pub cancels: Arc<Cancels>,
    /// Machines may be sent datagrams under their client's own address, but for addresses from here; set once that is
    /// known.
    pub keeps_sources: OnceLock<Subnet>,
    /// How far regions are.
    pub distances: Arc<Distances>,
    /// The ways to other hosts.
    pub hops: Arc<Hops>,
    /// Wakes machines and puts them to sleep, once there is somebody who does.
    pub waker: Mutex<Option<Arc<dyn Wake>>>,
    /// Which machines are being woken.
    pub alarms: Alarms,
    /// Counts the flows of datagrams.
    pub flows: Arc<Slots>,
    /// Who gets how much.
    pub limits: Limits,
    /// The port to send clients to for HTTPS; set once it is bound.
    pub https_port: OnceLock<u16>,
    /// Whoever connects is let in from when this is cancelled.
    pub opened: CancellationToken,
    /// Whoever connects is left to another process; whoever is here may stay.
    pub retiring: Signal,
    /// The same, for whoever asks at each request.
    pub leaving: AtomicBool,
    /// What is said of HTTP/3 in answers (RFC 7838); set if it is spoken.
    pub alternative: std::sync::OnceLock<HeaderValue>,
    /// Nothing new is taken any more, and what is here shall end.
    pub stopping: Signal,
    /// What is left is cut off.
    pub aborting: Signal,
    /// Everything that runs.
    pub tasks: TaskTracker,
}

/// Whom a host name stands for.
#[derive(Clone)]
pub enum Destination {
    /// A service of the platform itself.
    Platform(PlatformHost),
    /// An app, with what the catalog knows of it; nothing if it has no machine.
    App(AppName, Option<Arc<App>>),
    /// Nobody, though it is a name of the platform's domain.
    Nobody,
    /// It is no name of the platform's domain, and no app's own.
    Elsewhere,
}

impl Context {
    /// Who wakes machines and puts them to sleep.
    pub fn waker(&self) -> Option<Arc<dyn Wake>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What visitors of an app are told if it is in maintenance mode, whether it has machines or not.
    pub fn maintenance_of(&self, app: &str) -> Option<Refusal> {
        let (app, MaintenanceNotice { message, retry_after_s, .. }) = self.maintenance.notice(app)?;
        Some(Refusal::Maintenance { app, message, retry_after_s })
    }

    /// What stands before the platform's domain.
    pub fn label<'a>(&self, host: &'a str) -> Option<&'a str> {
        host.strip_suffix(self.domain.as_str())?.strip_suffix('.')
    }

    /// Whom a host name in lower case stands for.
    pub fn destination(&self, host: &str) -> Destination {
        if host == self.domain {
            return Destination::Nobody;
        }
        let Some(label) = self.label(host) else {
            return self.hostnames.app(host).map_or(Destination::Elsewhere, |app| {
                let known = self.routing.load().app(app.as_str()).cloned();
                Destination::App(app, known)
            });
        };
        if let Some(platform) = self.platform.get(label) {
            return Destination::Platform(platform.clone());
        }
        let routing = self.routing.load();
        let known = routing.app(label).cloned();
        known.map_or(Destination::Nobody, |app| Destination::App(app.route.name.clone(), Some(app)))
    }
}
