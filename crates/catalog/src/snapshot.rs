//! The picture of one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{
    AppName, MachineId, NetworkId, OrgSlug,
    machine::{ConcurrencyKind, Handler, Port, ProxyProtoVersion},
};

use crate::{MachineRoute, Named, Table};

/// The public port that every app shares for plain HTTP, routed by host name.
pub const HTTP_PORT: u16 = 80;
/// The public port that every app shares for TLS, routed by server name.
pub const HTTPS_PORT: u16 = 443;

/// Who runs where, at one moment. Immutable, and cheap to keep beside the next: what they have in common is shared.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The generation of the node's view that it was made from.
    pub generation: u64,
    /// The apps that have machines.
    pub apps: Table<AppRoute>,
    /// What is listened for on each public port but [`HTTP_PORT`] and [`HTTPS_PORT`], which are always open.
    pub doors: Arc<BTreeMap<u16, Door>>,
    /// Whose datagrams come to each public UDP port.
    pub datagrams: Arc<BTreeMap<u16, AppName>>,
    /// Some app ends TLS on [`HTTPS_PORT`] by itself, so that handshakes there are looked at before they are answered.
    pub passthrough: bool,
    /// What was left out, by app.
    pub(crate) left_out: Table<LeftOut>,
}

/// What was left out of one app, or what does not say of which.
#[derive(Debug)]
pub(crate) struct LeftOut {
    /// The app's name, or nothing.
    pub key: String,
    /// What.
    pub what: BTreeSet<Quarantined>,
}

impl Named for LeftOut {
    fn name(&self) -> &str {
        &self.key
    }
}

/// How connections to a public port begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// With a plain HTTP request, whose host names the app.
    Http,
    /// With a TLS handshake, whose server name names the app.
    Tls,
    /// With PostgreSQL's wish for TLS, then as [`Door::Tls`].
    PgTls,
    /// With bytes for this one app.
    Raw(AppName),
}

/// One app.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRoute {
    /// Its name.
    pub name: AppName,
    /// Its organization.
    pub org: OrgSlug,
    /// Its private network.
    pub network: NetworkId,
    /// Its machines, oldest first, whatever they are doing.
    pub machines: Vec<Arc<MachineRoute>>,
    /// What it offers on which public port.
    pub ports: BTreeMap<u16, Arc<PortRoute>>,
    /// On which public port it takes datagrams.
    pub datagrams: BTreeMap<u16, Arc<PortRoute>>,
}

impl Named for AppRoute {
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// What the edge does to a connection to a public port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handling {
    /// Parse HTTP.
    Http,
    /// End TLS, parse HTTP.
    TlsHttp,
    /// End TLS, pass the bytes.
    Tls,
    /// End TLS in PostgreSQL's way, pass the bytes.
    PgTls,
    /// Pass the handshake and all that follows to the app that the server name names.
    Passthrough,
    /// Pass the bytes.
    Raw,
    /// Pass the datagrams.
    Datagrams,
}

impl std::fmt::Display for Handling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::TlsHttp => "tls, http",
            Self::Tls => "tls",
            Self::PgTls => "pg_tls",
            Self::Passthrough => "tls, ended by the app",
            Self::Raw => "as it is",
            Self::Datagrams => "udp",
        })
    }
}

/// A public port of an app. How it is handled follows the newest version of the configuration that has it.
#[derive(Debug, Clone, PartialEq)]
pub struct PortRoute {
    /// What is done to a connection.
    pub handling: Handling,
    /// The options of the port.
    pub options: Arc<Port>,
    /// The machines that have this port, oldest first.
    pub backends: Vec<Backend>,
}

impl PortRoute {
    /// How the machine is told whom a connection comes from, if it wants to be.
    pub fn proxy_header(&self) -> Option<ProxyProtoVersion> {
        let wanted = self.options.handlers.contains(&Handler::ProxyProto);
        let version = self.options.proxy_proto_options.as_ref().map(|options| options.version);
        wanted.then(|| version.unwrap_or_default())
    }
}

/// A machine as the target of a public port.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// The machine.
    pub machine: Arc<MachineRoute>,
    /// The port inside the guest. Datagrams keep the public port, whatever this is.
    pub internal_port: u16,
    /// Speak HTTP/2 with prior knowledge to it.
    pub h2: bool,
    /// What counts towards its limits.
    pub counts: ConcurrencyKind,
    /// Above it, others are preferred.
    pub soft_limit: u32,
    /// Never more than this at a time.
    pub hard_limit: Option<u32>,
    /// A request may wake the machine.
    pub autostart: bool,
}

/// Something that was left out of the picture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quarantined {
    /// The app, where that can be told.
    pub app: Option<AppName>,
    /// The machine, where that can be told.
    pub machine: Option<MachineId>,
    /// What was left out, why, and what to do.
    pub reason: String,
}

impl Snapshot {
    /// An app by name.
    pub fn app(&self, name: &str) -> Option<&Arc<AppRoute>> {
        self.apps.get(name)
    }

    /// Every machine, in no order.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<MachineRoute>> {
        self.apps.iter().flat_map(|app| &app.machines)
    }

    /// What was left out, in a fixed order.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        let all: BTreeSet<&Quarantined> = self.left_out.iter().flat_map(|app| &app.what).collect();
        all.into_iter().cloned().collect()
    }
}
