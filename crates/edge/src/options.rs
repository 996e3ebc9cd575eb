//! What the edge is told at its start.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::internal::LogSink;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use model::Region;
use tower::{Service, ServiceExt};

use crate::{Backhaul, Hostnames, Maintenance, Pace, Rate, Subnet, http::InboundBody, proxy_protocol::TrustedProxy};

/// How the runtime that an edge runs in is best built (`global_queue_interval` of tokio's builder): after so many tasks
/// a worker looks at the queue that all share. What no longer fits into its own queue of 256 waits
/// there: with hundreds of HTTP/2 streams under way and the default of some sixty, a twentieth of the requests waited for
/// ten times as long as the others.
pub const GLOBAL_QUEUE_INTERVAL: u32 = 4;

/// An error of any kind, as bodies carry it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the edge is told at its start.
pub struct EdgeOptions {
    /// Where plain HTTP is listened for. These stand for the public port 80.
    pub http: Vec<SocketAddr>,
    /// Where TLS is listened for. These stand for the public port 443.
    pub https: Vec<SocketAddr>,
    /// The platform's domain: an app is reached as `<app>.<domain>`.
    pub domain: String,
    /// Where this edge runs.
    pub region: Region,
    /// The directory of the local certificate authority; made if it is missing.
    pub keys: PathBuf,
    /// Who runs where.
    pub catalog: catalog::Reader,
    /// The host names that apps bring along.
    pub hostnames: Arc<Hostnames>,
    /// The apps whose visitors are told to come back later.
    pub maintenance: Arc<Maintenance>,
    /// Where an app is told what went wrong with its traffic.
    pub logs: Arc<dyn LogSink>,
    /// The platform's own services by the first label of their host name: `registry` is `registry.<domain>`. They come
    /// before apps of the same name.
    pub platform: BTreeMap<String, PlatformHost>,
    /// Ports that are never opened for apps.
    pub reserved_ports: BTreeSet<u16>,
    /// The port that clients use for HTTPS, if it is not the one listened on.
    pub public_https_port: Option<u16>,
    /// Peers that say whom their connections come from, by the PROXY protocol.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Speak HTTP/3 beside every address for TLS, on the same port of UDP, and announce it.
    pub http3: bool,
    /// Write an access record for each request into its app's log.
    pub access_records: bool,
    /// How machines of other hosts are reached, and those of this one from there.
    pub backhaul: Backhaul,
    /// How much, how long.
    pub bounds: Bounds,
}

/// How much of everything, and how long.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Connections of clients at a time.
    pub connections: usize,
    /// Connections of one source (an IPv4 address, an IPv6 /64) at a time; never more than are free.
    pub connections_per_source: usize,
    /// Connections to one app at a time; never more than are free.
    pub connections_per_app: usize,
    /// New connections of one range (an IPv4 /24, an IPv6 /48).
    pub connection_rate_per_range: Rate,
    /// TLS handshakes of one range.
    pub handshake_rate_per_range: Rate,
    /// TLS handshakes for one server name.
    pub handshake_rate_per_name: Rate,
    /// How slowly the body of a request may come before it is answered.
    pub body_pace: Pace,
    /// How slowly a client may take its answers.
    pub answer_pace: Pace,
    /// How long an answer may wait for its client while others share its connection. A video that is paused waits, too.
    pub stalled_answer: Duration,
    /// Sources that stand for many, such as a load balancer in front: the bounds on sources and ranges are not for them.
    pub unlimited_sources: Vec<Subnet>,
    /// Requests under way.
    pub requests: usize,
    /// Requests of one app under way; never more than are free.
    pub requests_per_app: usize,
    /// Flows of datagrams at a time.
    pub flows: usize,
    /// Those of one UDP port at a time.
    pub flows_per_port: usize,
    /// Those of one source at one UDP port at a time.
    pub flows_per_source: usize,
    /// How long a flow lasts in silence while its client has not gone on after an answer.
    pub flow_one_way: Duration,
    /// How long any other flow lasts in silence.
    pub flow_both_ways: Duration,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// From the first byte of a TLS handshake to its end.
    pub handshake: Duration,
    /// From the start of waiting for a request (HTTP/1) to the end of its header.
    pub header: Duration,
    /// A connection without a request under way.
    pub idle: Duration,
    /// How long a request waits for a machine that is on its way up.
    pub hold: Duration,
    /// How long a machine has to have nothing to do before it falls asleep, where its app says nothing else.
    pub sleep_after: Duration,
    /// How many requests of one app wait at a time.
    pub held_per_app: usize,
    /// How long a request waits while all machines are at their hard limit.
    pub queue: Duration,
    /// How long after its start a machine may refuse connections before that counts as the app's fault.
    pub startup_grace: Duration,
    /// Bytes of a request's body that are kept while it passes, so that it can be sent again: replayed, or retried on
    /// another machine. A longer one passes all the same, but only once.
    pub kept_bytes: usize,
    /// The same for all requests that are under way.
    pub kept_bytes_overall: usize,
    /// How long between two measurements of the way to another host.
    pub measure: Duration,
    /// From dialing a machine to the connection.
    pub connect: Duration,
    /// From the end of a request to the header of its answer.
    pub answer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 32_768,
            connections_per_source: 8_192,
            connections_per_app: 16_384,
            connection_rate_per_range: Rate::new(2_000, 8_000),
            handshake_rate_per_range: Rate::new(500, 2_000),
            handshake_rate_per_name: handshake_rate_per_name(),
            body_pace: Pace { bytes_per_second: 500, grace: Duration::from_secs(30) },
            answer_pace: Pace { bytes_per_second: 500, grace: Duration::from_secs(60) },
            stalled_answer: Duration::from_secs(300),
            unlimited_sources: ["127.0.0.0/8", "::1"].iter().filter_map(|loopback| loopback.parse().ok()).collect(),
            requests: 65_536,
            requests_per_app: 32_768,
            flows: 65_536,
            flows_per_port: 16_384,
            flows_per_source: 512,
            flow_one_way: Duration::from_secs(10),
            flow_both_ways: Duration::from_secs(120),
            header_bytes: 64 * 1024,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(60),
            idle: Duration::from_secs(75),
            hold: Duration::from_secs(60),
            sleep_after: Duration::from_secs(300),
            held_per_app: 1_000,
            queue: Duration::from_secs(30),
            startup_grace: Duration::from_secs(30),
            kept_bytes: 1 << 20,
            kept_bytes_overall: 256 << 20,
            measure: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(600),
        }
    }
}

/// A part of what the processors can do, so that handshakes for one name leave most of it for others: one takes about
/// 150 µs.
fn handshake_rate_per_name() -> Rate {
    let processors = std::thread::available_parallelism().map_or(1, |it| u32::try_from(it.get()).unwrap_or(u32::MAX));
    let per_second = processors.saturating_mul(2_000);
    Rate::new(per_second, per_second.saturating_mul(2))
}

type PlatformAnswer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A service of the platform itself, answered inside this process.
#[derive(Clone)]
pub struct PlatformHost(Arc<dyn Fn(Request<InboundBody>) -> BoxFuture<'static, PlatformAnswer> + Send + Sync>);

impl PlatformHost {
    /// Answers with a tower service, such as an `axum::Router`.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<InboundBody>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Arc::new(move |request| {
            let answer = service.clone().oneshot(request);
            answer.map(|Ok(answer)| answer.map(|body| body.map_err(Into::into).boxed_unsync())).boxed()
        }))
    }

    pub(crate) fn answer(&self, request: Request<InboundBody>) -> BoxFuture<'static, PlatformAnswer> {
        self.0(request)
    }
}
