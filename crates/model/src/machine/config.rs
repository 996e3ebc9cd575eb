//! The configuration of a machine, in the Machines API's shape.
//!
//! Each object keeps the keys it does not know in `other`, so that a key the platform does not support is
//! reported by [`MachineConfig::unsupported`] instead of being dropped without a word.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::GoDuration;

/// Keys that this version does not know, with their values.
pub type Other = BTreeMap<String, Value>;

/// A default that the wire may also spell as `null`.
fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a machine runs and with what. Version by version immutable: a change makes a new version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct MachineConfig {
    /// The image: `repository:tag`, `registry/repository@sha256:…`.
    pub image: String,
    /// Environment variables. Names that begin with `FLY_` belong to the platform.
    #[serde(deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    /// What to run instead of what the image says.
    #[serde(deserialize_with = "null_as_default")]
    pub init: Init,
    /// The size of the virtual machine.
    #[serde(deserialize_with = "null_as_default")]
    pub guest: Guest,
    /// Free labels. Those that begin with `fly_` have a meaning to clients.
    #[serde(deserialize_with = "null_as_default")]
    pub metadata: BTreeMap<String, String>,
    /// What the edge offers of this machine to the outside.
    #[serde(deserialize_with = "null_as_default")]
    pub services: Vec<Service>,
    /// Health checks that do not take part in routing, by name.
    #[serde(deserialize_with = "null_as_default")]
    pub checks: BTreeMap<String, Check>,
    /// Files written into the guest before the program starts.
    #[serde(deserialize_with = "null_as_default")]
    pub files: Vec<FileSpec>,
    /// Directories of the guest that are served without the program.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub statics: Vec<Static>,
    /// Volumes; one at most.
    #[serde(deserialize_with = "null_as_default")]
    pub mounts: Vec<Mount>,
    /// What to do when the program ends by itself.
    #[serde(deserialize_with = "null_as_default")]
    pub restart: Restart,
    /// How to ask the program to end.
    #[serde(deserialize_with = "null_as_default")]
    pub stop_config: StopConfig,
    /// Destroy the machine once its program has ended for good.
    #[serde(deserialize_with = "null_as_default")]
    pub auto_destroy: bool,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// What to run instead of what the image says (OCI: ENTRYPOINT and CMD).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Init {
    /// Replaces entrypoint and command both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Replaces the image's entrypoint; the image's command then no longer applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Give the program a terminal.
    #[serde(deserialize_with = "null_as_default")]
    pub tty: bool,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// How CPU time is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpuKind {
    /// A share of a core that others use too.
    #[default]
    Shared,
    /// Whole cores' worth of time.
    Performance,
}

/// The size of the virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Guest {
    /// How CPU time is given.
    pub cpu_kind: CpuKind,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

impl Default for Guest {
    fn default() -> Self {
        Self { cpu_kind: CpuKind::Shared, cpus: 1, memory_mb: 256, other: Other::new() }
    }
}

/// The transport of a service.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A byte stream.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// What the edge does when a machine has nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AutoStop {
    /// Leave it running. On the wire `false` or `"off"`.
    #[default]
    Off,
    /// Stop it. On the wire `true` or `"stop"`.
    Stop,
    /// Suspend it. On the wire `"suspend"`.
    Suspend,
}

impl Serialize for AutoStop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_bool(false),
            Self::Stop => serializer.serialize_bool(true),
            Self::Suspend => serializer.serialize_str("suspend"),
        }
    }
}

impl<'de> Deserialize<'de> for AutoStop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null | Value::Bool(false) => Ok(Self::Off),
            Value::Bool(true) => Ok(Self::Stop),
            Value::String(text) if text == "off" || text.is_empty() => Ok(Self::Off),
            Value::String(text) if text == "stop" => Ok(Self::Stop),
            Value::String(text) if text == "suspend" => Ok(Self::Suspend),
            other => Err(serde::de::Error::custom(format!("{other} is not one of off, stop, suspend, true, false"))),
        }
    }
}

/// One thing that listens in the guest, and the public ports by which it is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Service {
    /// The transport.
    pub protocol: Protocol,
    /// The port inside the guest.
    pub internal_port: u16,
    /// The public ports.
    #[serde(deserialize_with = "null_as_default")]
    pub ports: Vec<Port>,
    /// What to do when it is idle.
    #[schema(value_type = String)]
    pub autostop: AutoStop,
    /// How long it must have been idle for that; the platform's own time unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostop_after: Option<GoDuration>,
    /// Start a machine that is stopped or suspended when a request comes for which no other has room; not unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    /// How many of its process group to keep running in each region all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_machines_running: Option<u32>,
    /// Health checks that take part in routing.
    #[serde(deserialize_with = "null_as_default")]
    pub checks: Vec<Check>,
    /// How much one machine takes at a time.
    #[serde(deserialize_with = "null_as_default")]
    pub concurrency: Concurrency,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// What the edge does to a connection, in order. No handler: the bytes pass as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Handler {
    /// Parse HTTP, route by request.
    Http,
    /// End TLS.
    Tls,
    /// Answer PostgreSQL's SSL request, then end TLS.
    PgTls,
    /// Put a PROXY protocol header in front.
    ProxyProto,
}

/// A public port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Port {
    /// The port, unless a range is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The first port of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_port: Option<u16>,
    /// The last port of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// What the edge does to a connection, in order.
    #[serde(deserialize_with = "null_as_default")]
    pub handlers: Vec<Handler>,
    /// Answer plain HTTP with a redirect to HTTPS.
    #[serde(deserialize_with = "null_as_default")]
    pub force_https: bool,
    /// TLS options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_options: Option<TlsOptions>,
    /// HTTP options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_options: Option<HttpOptions>,
    /// PROXY protocol options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_proto_options: Option<ProxyProtoOptions>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// TLS options of a public port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct TlsOptions {
    /// Application protocols to offer (RFC 7301); empty means the handler's own.
    #[serde(deserialize_with = "null_as_default")]
    pub alpn: Vec<String>,
    /// Versions to allow: `TLSv1.2`, `TLSv1.3`; empty means both.
    #[serde(deserialize_with = "null_as_default")]
    pub versions: Vec<String>,
    /// Show a certificate that nobody vouches for where there is no other; else the handshake is refused.
    #[serde(deserialize_with = "null_as_default")]
    pub default_self_signed: bool,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// HTTP options of a public port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct HttpOptions {
    /// Compress answers that the app did not; the edge's own default unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// What is changed in the app's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseOptions>,
    /// Speak HTTP/2 with prior knowledge to the app.
    #[serde(deserialize_with = "null_as_default")]
    pub h2_backend: bool,
    /// Close a client's connection over which nothing has passed for so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<u32>,
    /// How many seconds the header of a request may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers_read_timeout: Option<u32>,
    /// Where a `fly-replay` is remembered for a session.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub replay_cache: Vec<ReplayCache>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// What is changed in the answers of an app.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ResponseOptions {
    /// Header fields to set or to take away, by name.
    #[serde(deserialize_with = "null_as_default")]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub headers: BTreeMap<String, HeaderEdit>,
    /// Leave `Server`, `Via` and the platform's own fields as the app sent them.
    #[serde(deserialize_with = "null_as_default")]
    pub pristine: bool,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// What happens to a header field of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderEdit {
    /// It gets these values, one field line each, whatever the app sent. On the wire a text or a list of texts.
    Set(Vec<String>),
    /// It is taken away. On the wire `false`.
    Remove,
}

impl Serialize for HeaderEdit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Remove => serializer.serialize_bool(false),
            Self::Set(values) if values.len() == 1 => serializer.serialize_str(&values[0]),
            Self::Set(values) => values.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HeaderEdit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong =
            |value: &Value| serde::de::Error::custom(format!("{value} is not a text, a list of texts or false"));
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(Self::Remove),
            Value::String(value) => Ok(Self::Set(vec![value])),
            Value::Array(values) => {
                let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| wrong(value));
                values.iter().map(text).collect::<Result<_, _>>().map(Self::Set)
            }
            other => Err(wrong(&other)),
        }
    }
}

/// What tells one session from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// The value of a cookie.
    #[default]
    Cookie,
    /// The value of a header field.
    Header,
}

/// A place in which a `fly-replay` answer is remembered for a session, so that its later requests go straight there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ReplayCache {
    /// Requests whose path begins so; the longest prefix counts.
    pub path_prefix: String,
    /// For how many seconds; 10 at least.
    pub ttl_seconds: u32,
    /// What tells one session from another.
    #[serde(rename = "type")]
    pub kind: SessionKind,
    /// The name of the cookie or of the field.
    pub name: String,
    /// A client may ask to be routed anew, with `fly-replay-cache-control: skip`.
    #[serde(deserialize_with = "null_as_default")]
    pub allow_bypass: bool,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// How a PROXY protocol header is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtoVersion {
    /// As a line of text.
    #[default]
    V1,
    /// In binary.
    V2,
}

/// PROXY protocol options of a public port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct ProxyProtoOptions {
    /// How the header is written.
    #[serde(deserialize_with = "null_as_default")]
    pub version: ProxyProtoVersion,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// How a health check looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A connection is accepted.
    #[default]
    Tcp,
    /// A request is answered with a status from 200 to 299.
    Http,
}

/// A health check. It runs from the host against the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Check {
    /// How it looks.
    #[serde(rename = "type")]
    pub kind: CheckKind,
    /// The port inside the guest; a service's check may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Time between two looks; 15 s unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    /// Longest wait for one look; 2 s unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Time after the start during which a failure does not count; 1 s unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<GoDuration>,
    /// HTTP: the method; GET unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP: the path; `/` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP: header fields to send.
    #[serde(deserialize_with = "null_as_default")]
    pub headers: Vec<CheckHeader>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// A header field that a health check sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct CheckHeader {
    /// The field's name.
    pub name: String,
    /// Its values, one field line each.
    pub values: Vec<String>,
}

/// What counts towards a machine's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConcurrencyKind {
    /// Open connections.
    #[default]
    Connections,
    /// Requests under way.
    Requests,
}

/// How much one machine takes at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Concurrency {
    /// What counts.
    #[serde(rename = "type")]
    pub kind: ConcurrencyKind,
    /// Above it, others are preferred; 20 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u32>,
    /// Never more than this at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u32>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// A file written into the guest before the program starts. Exactly one source is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct FileSpec {
    /// Where: an absolute path.
    pub guest_path: String,
    /// The content, in base 64 (RFC 4648).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_value: Option<String>,
    /// The secret whose value is the content, itself in base 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Permission bits; 0644 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// Where a guest's file server listens, at the machine's host-local address.
pub const STATICS_PORT: u16 = 10_875;
/// How many directories a machine may have served.
pub const MAX_STATICS: usize = 10;

/// A directory of the guest whose files are served without the program; what it does not hold, the program answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Static {
    /// The directory: an absolute path.
    pub guest_path: String,
    /// What the paths of its URLs begin with.
    pub url_prefix: String,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

impl Static {
    /// Whether every path below `inner` is also below `outer`: a prefix ends where a part of a path does.
    pub fn holds(outer: &str, inner: &str) -> bool {
        let rest = inner.strip_prefix(outer.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A volume in the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Mount {
    /// The volume's name, unique in the app; it is made when it is first used.
    pub name: String,
    /// Where: an absolute path, never `/`.
    pub path: String,
    /// Size in GiB when it is made; 1 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_gb: Option<u32>,
    /// The volume's identifier, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// When a program that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[serde(alias = "never")]
    No,
    /// When it ended with another status than 0.
    #[default]
    #[serde(alias = "on-fail")]
    OnFailure,
    /// Always.
    Always,
}

/// What to do when the program ends by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Restart {
    /// When it is started again.
    pub policy: RestartPolicy,
    /// How often within five minutes; 10 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

/// How to ask the program to end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct StopConfig {
    /// The signal, such as `SIGTERM`; the image's own, else `SIGINT`, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// How long to wait before it is killed: 5 s unless given, 300 s at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// Keys not known to this version.
    #[serde(flatten)]
    #[schema(ignore)]
    pub other: Other,
}

impl MachineConfig {
    /// The paths of the keys that were given but have no effect in this version, such as
    /// `services[0].ports[1].http_options.cache`. Keys that say nothing (`null`, `false`, `0`, empty) are left out.
    pub fn unsupported(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |path: String, other: &Other| {
            let telling = other.iter().filter(|(_, value)| says_something(value));
            found.extend(telling.map(|(key, _)| if path.is_empty() { key.clone() } else { format!("{path}.{key}") }));
        };
        note(String::new(), &self.other);
        note("init".into(), &self.init.other);
        note("guest".into(), &self.guest.other);
        note("restart".into(), &self.restart.other);
        note("stop_config".into(), &self.stop_config.other);
        for (name, check) in &self.checks {
            note(format!("checks.{name}"), &check.other);
        }
        for (index, file) in self.files.iter().enumerate() {
            note(format!("files[{index}]"), &file.other);
        }
        for (index, mount) in self.mounts.iter().enumerate() {
            note(format!("mounts[{index}]"), &mount.other);
        }
        for (index, files) in self.statics.iter().enumerate() {
            note(format!("statics[{index}]"), &files.other);
        }
        for (index, service) in self.services.iter().enumerate() {
            let at = format!("services[{index}]");
            note(at.clone(), &service.other);
            note(format!("{at}.concurrency"), &service.concurrency.other);
            for (index, check) in service.checks.iter().enumerate() {
                note(format!("{at}.checks[{index}]"), &check.other);
            }
            for (index, port) in service.ports.iter().enumerate() {
                let at = format!("{at}.ports[{index}]");
                note(at.clone(), &port.other);
                for (key, other) in port.others() {
                    note(format!("{at}.{key}"), other);
                }
            }
        }
        found
    }
}

impl Port {
    /// The unknown keys of its tables, each with the table's path.
    fn others(&self) -> Vec<(&'static str, &Other)> {
        let http = self.http_options.as_ref();
        let mut others = Vec::new();
        others.extend(self.tls_options.as_ref().map(|options| ("tls_options", &options.other)));
        others.extend(self.proxy_proto_options.as_ref().map(|options| ("proxy_proto_options", &options.other)));
        others.extend(http.map(|options| ("http_options", &options.other)));
        let response = http.and_then(|options| options.response.as_ref());
        others.extend(response.map(|response| ("http_options.response", &response.other)));
        let caches = http.map(|options| options.replay_cache.as_slice()).unwrap_or_default();
        others.extend(caches.iter().map(|cache| ("http_options.replay_cache", &cache.other)));
        others
    }
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => entries.values().any(says_something),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_absent_keys_are_defaults() {
        let config: MachineConfig =
            serde_json::from_str(r#"{"image":"a","env":null,"guest":null,"services":null,"restart":{}}"#).unwrap();
        assert_eq!(config.guest, Guest::default());
        assert_eq!(config.restart.policy, RestartPolicy::OnFailure);
        assert!(config.unsupported().is_empty());
    }

    #[test]
    fn keys_without_effect_are_named_by_their_path() {
        let config: MachineConfig = serde_json::from_value(serde_json::json!({
            "image": "a",
            "schedule": "daily",
            "standbys": [],
            "guest": {"cpus": 1, "memory_mb": 256, "gpu_kind": "a10", "gpus": 0},
            "services": [{"internal_port": 80, "force_instance_key": null,
                          "ports": [{"port": 80, "proxy_proto_options": {"version": "v2", "tlvs": [5]},
                                     "http_options": {"response": {"pristine": true, "body": "b"}}}]}],
        }))
        .unwrap();
        let port = "services[0].ports[0]";
        let unknown = [
            "schedule".to_owned(),
            "guest.gpu_kind".to_owned(),
            format!("{port}.proxy_proto_options.tlvs"),
            format!("{port}.http_options.response.body"),
        ];
        assert_eq!(config.unsupported(), unknown);
    }

    #[test]
    fn an_edit_of_a_field_is_a_text_a_list_or_false() {
        let edits: BTreeMap<String, HeaderEdit> =
            serde_json::from_str(r#"{"a": "1", "b": ["1", "2"], "c": false}"#).unwrap();
        let set = |values: &[&str]| HeaderEdit::Set(values.iter().map(|value| (*value).to_owned()).collect());
        assert_eq!(edits["a"], set(&["1"]));
        assert_eq!(edits["b"], set(&["1", "2"]));
        assert_eq!(edits["c"], HeaderEdit::Remove);
        assert_eq!(serde_json::to_string(&edits).unwrap(), r#"{"a":"1","b":["1","2"],"c":false}"#);
        for wrong in ["true", "1", "[1]", "{}"] {
            assert!(serde_json::from_str::<HeaderEdit>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn autostop_is_written_as_clients_read_it() {
        for (value, text) in [(AutoStop::Off, "false"), (AutoStop::Stop, "true"), (AutoStop::Suspend, "\"suspend\"")] {
            assert_eq!(serde_json::to_string(&value).unwrap(), text);
            assert_eq!(serde_json::from_str::<AutoStop>(text).unwrap(), value);
        }
        assert_eq!(serde_json::from_str::<AutoStop>("\"stop\"").unwrap(), AutoStop::Stop);
    }
}
