//! Shapes of the Machines API: apps, machines, leases, exec, secrets.

use std::collections::BTreeMap;

use model::{
    AppName, ImageRef, InstanceId, MachineId, OrgSlug, Region,
    machine::{CheckStatus, Event, Isolation, MachineConfig, MachineState},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An organization, as an app shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Organization {
    /// Its name, for people.
    pub name: String,
    /// Its short name.
    pub slug: OrgSlug,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct App {
    /// Its identifier; equal to its name.
    pub id: String,
    /// Its name.
    pub name: AppName,
    /// The private network it lives in.
    pub network: String,
    /// `pending` before the first release, `deployed` after, `suspended` when no machine runs.
    pub status: String,
    /// How many machines it has.
    pub machine_count: u32,
    /// How many volumes it has.
    pub volume_count: u32,
    /// Its organization.
    pub organization: Organization,
    /// The public address of its first HTTP service, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The host name under the platform's domain.
    pub hostname: String,
}

/// All apps of an organization.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AppList {
    /// The apps, by name.
    pub apps: Vec<App>,
    /// How many there are.
    pub total_apps: u32,
}

/// Asks for a new app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreateApp {
    /// Its name.
    #[serde(alias = "app_name")]
    pub name: String,
    /// Its organization; `personal` if empty or absent.
    #[serde(default)]
    pub org_slug: String,
    /// Its private network; the organization's `default` if empty or absent.
    #[serde(default)]
    pub network: String,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Its identifier.
    pub id: MachineId,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: MachineState,
    /// Where it runs.
    pub region: Region,
    /// The image it runs.
    pub image_ref: ImageRef,
    /// The version of its configuration.
    pub instance_id: InstanceId,
    /// The same, by its newer name.
    pub version: InstanceId,
    /// Its private address.
    pub private_ip: String,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// When it last changed (RFC 3339).
    pub updated_at: String,
    /// Its configuration.
    pub config: MachineConfig,
    /// What happened, newest first.
    pub events: Vec<Event>,
    /// Its health checks.
    pub checks: Vec<CheckStatus>,
    /// It gets no traffic from the edge.
    pub cordoned: bool,
    /// Whether its host answers: `ok`, `unknown` or `unreachable`.
    pub host_status: String,
    /// Why it is in its state, where that needs words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The wall around it, once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// The lease's nonce, in the answer to a creation with `lease_ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// Asks for a new machine, or gives one another configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LaunchMachine {
    /// The whole configuration.
    pub config: MachineConfig,
    /// Where; this host's region if empty.
    pub region: String,
    /// Its name; made up if empty.
    pub name: String,
    /// Make it without starting it.
    pub skip_launch: bool,
    /// Make it cordoned.
    pub skip_service_registration: bool,
    /// Run it without the app's secrets.
    pub skip_secrets: bool,
    /// Refuse unless the app's secrets have at least this version.
    pub min_secrets_version: Option<u64>,
    /// Take a lease of so many seconds on it.
    pub lease_ttl: u64,
    /// Update only: refuse unless this is the version it has now.
    pub current_version: Option<String>,
}

/// The answer to a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StartReply {
    /// The state before.
    pub previous_state: MachineState,
    /// `ok`.
    pub status: String,
    /// In words.
    pub message: String,
}

/// Asks a machine to stop.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StopMachine {
    /// The signal, such as `SIGTERM`; the machine's own if absent or empty.
    pub signal: Option<String>,
    /// How long to wait before it is killed (`10s`, or nanoseconds); the machine's own if absent or 0.
    pub timeout: Option<model::GoDuration>,
}

/// Sends a machine's program a signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignalMachine {
    /// A number, or a name such as `SIGHUP`.
    #[schema(value_type = String)]
    pub signal: serde_json::Value,
}

/// The answer to a wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WaitReply {
    /// Always true; a wait in vain is answered with 408.
    pub ok: bool,
    /// The state it is in.
    pub state: MachineState,
    /// The version of its configuration.
    pub version: InstanceId,
}

/// A lease: while one is held, only its holder may change the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// `success`.
    pub status: String,
    /// The lease itself.
    pub data: LeaseData,
}

/// The lease itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LeaseData {
    /// The secret that its holder sends in `fly-machine-lease-nonce`; told to the holder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// When it ends: seconds since 1970.
    pub expires_at: i64,
    /// Who holds it.
    pub owner: String,
    /// What for.
    #[serde(default)]
    pub description: String,
    /// The version of the machine's configuration when it was taken.
    pub version: String,
}

/// Runs a command in a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ExecMachine {
    /// The command line, split into words as a shell would (no shell runs).
    pub cmd: String,
    /// The program and its arguments; goes before `cmd`.
    pub command: Vec<String>,
    /// Bytes for its standard input.
    pub stdin: String,
    /// Seconds before it is killed; 30 if 0.
    pub timeout: u64,
}

/// What a command said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExecReply {
    /// Its exit code.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub exit_signal: i32,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error; likewise.
    pub stderr: String,
}

/// A process in a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Resident memory in bytes.
    pub rss: u64,
    /// CPU time used, in milliseconds.
    pub cpu: u64,
    /// How long it has run, in milliseconds.
    pub rtime: u64,
    /// Sockets of the guest that listen (told with its first process).
    pub listen_sockets: Vec<Listening>,
}

/// A socket that listens.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub proto: String,
    /// Address and port.
    pub address: String,
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name: the environment variable it becomes.
    pub name: String,
    /// A digest that changes with the value and does not reveal it.
    pub digest: String,
    /// When it was first set (RFC 3339).
    pub created_at: String,
    /// When it was last set (RFC 3339).
    pub updated_at: String,
}

/// An app's secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// The secrets, by name.
    pub secrets: Vec<Secret>,
    /// The version of them all; grows with each change.
    pub version: u64,
    /// The version that the current release was made with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployed_version: Option<u64>,
}

/// Sets and removes secrets, all or none.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SetSecrets {
    /// Name and value; `null` removes.
    pub values: BTreeMap<String, Option<String>>,
}

impl std::fmt::Debug for SetSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.values.keys()).finish()
    }
}

/// Sets one secret.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SecretValue {
    /// Its value.
    pub value: String,
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue { .. }")
    }
}

/// Asks for a machine's lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AcquireLease {
    /// How long, in seconds; the query parameter `ttl` goes before it.
    pub ttl: u64,
    /// What for.
    pub description: String,
}

/// A value of a machine's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetadataValue {
    /// The value.
    pub value: String,
}

/// A version of a machine's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineVersion {
    /// The version.
    pub version: String,
    /// The configuration it had.
    pub user_config: MachineConfig,
}

/// Regions of the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionList {
    /// The regions.
    #[serde(rename = "Regions")]
    pub regions: Vec<RegionInfo>,
    /// The nearest to the caller.
    #[serde(rename = "Nearest")]
    pub nearest: Region,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionInfo {
    /// Its code.
    pub code: Region,
    /// Its name, for people.
    pub name: String,
    /// Whether users' own machines can join its private networks.
    pub gateway_available: bool,
    /// Always false.
    pub requires_paid_plan: bool,
}
