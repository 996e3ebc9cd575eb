//! The edge as it is at this moment.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/edge/routes?app=` | [`EdgeRoutes`]: what leads where, and why a machine is not chosen |
//! | `GET /v1/edge/connections?app=` | [`EdgeConnections`] |
//! | `GET /metrics` | Prometheus text (version 0.0.4) |
//!
//! A caller sees what belongs to the organizations that the token is good for.

use std::net::SocketAddr;

use model::{AppName, MachineId, OrgSlug, Region};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the edge routes by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeRoutes {
    /// The generation of the picture that requests are routed by.
    pub generation: u64,
    /// The apps, by name.
    pub apps: Vec<EdgeApp>,
    /// What the picture leaves out, and why.
    pub left_out: Vec<EdgeLeftOut>,
}

/// An app as the edge knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeApp {
    /// Its name.
    pub name: AppName,
    /// Its organization.
    pub organization: OrgSlug,
    /// The host that leads to it.
    pub host: String,
    /// How many requests wait for one of its machines.
    pub waiting: usize,
    /// What it offers.
    pub ports: Vec<EdgePort>,
}

/// A public port of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgePort {
    /// The port.
    pub port: u16,
    /// What is done to a connection, in words: `tls, http`.
    pub handling: String,
    /// The machines behind it.
    pub machines: Vec<EdgeMachine>,
}

/// A machine behind a public port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeMachine {
    /// The machine.
    pub id: MachineId,
    /// Where it runs.
    pub region: Region,
    /// How far its host is, as measured by the edge; nothing for a machine of the edge's own host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
    /// The port inside the guest.
    pub internal_port: u16,
    /// Whether requests may go there now.
    pub takes_traffic: bool,
    /// How many requests or connections are under way to it.
    pub load: u32,
    /// Above it, others are preferred.
    pub soft_limit: u32,
    /// Never more than this at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u32>,
    /// Why it is chosen or not, in words.
    pub why: String,
}

/// Something that the picture leaves out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeLeftOut {
    /// The app, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// The machine, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// What was left out, why, and what to do.
    pub reason: String,
}

/// The live connections of clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeConnections {
    /// The connections, oldest first.
    pub connections: Vec<EdgeConnection>,
}

/// A client's connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EdgeConnection {
    /// Its number, in the life of the edge's process.
    pub number: u64,
    /// The client.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// The public port.
    pub port: u16,
    /// Whether it is secured.
    pub tls: bool,
    /// The server name of its handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The app that the first thing over it was for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<AppName>,
    /// How long it has lasted, in milliseconds.
    pub age_ms: u64,
    /// How many requests came over it; 0 where bytes pass as they are.
    pub requests: u64,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}
