//! What the proxies have to do, and what is measured of it.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use http::Version;

use crate::{
    load::{self, Requests},
    origin,
    peers::{Kind, Ports, Running},
};

/// Something that every proxy does in turn.
pub struct Work {
    /// What it is.
    pub name: &'static str,
    /// What is compared.
    pub unit: &'static str,
    /// Has it done by a running proxy.
    pub run: fn(&Running, &Ports) -> Result<Figures>,
}

/// What one proxy needed in one round.
#[derive(Clone)]
pub struct Figures {
    /// What is compared.
    pub cost: f64,
    /// The unit of `cost`, and what else was seen: name, figure.
    pub seen: Vec<(&'static str, f64)>,
}

impl Work {
    /// Whether a kind of proxy can do it: HAProxy of Debian carries no datagrams, and neither it nor nginx speaks
    /// HTTP/3, for which alone Caddy is here.
    pub fn is_for(&self, kind: Kind) -> bool {
        let is_http3 = self.name.starts_with("http3");
        match kind {
            Kind::Dunlin => true,
            Kind::Haproxy => !is_http3 && !self.name.starts_with("udp"),
            Kind::Nginx => !is_http3,
            Kind::Caddy => is_http3,
        }
    }
}

/// Each line of the specification's table.
pub fn all() -> Vec<Work> {
    let work = |name, unit, run| Work { name, unit, run };
    vec![
        work("http1: keep-alive, 1 KiB answers, 64 connections", "CPU per request", http1),
        work("tls: the same over TLS 1.3", "CPU per request", tls),
        work("http2: HTTP/2 in, HTTP/1.1 out, 100 streams on 8 connections", "CPU per request", http2),
        work("http3: HTTP/3 in, HTTP/1.1 out, 100 streams on 8 connections", "CPU per request", http3),
        work("handshake: full TLS 1.3 handshakes, ECDSA P-256", "CPU per handshake", handshake),
        work("big: 1 MiB answers over HTTP/1.1", "CPU per byte", big),
        work("tcp: raw bytes", "CPU per byte", tcp),
        work("udp: echo of 64-byte datagrams", "CPU per datagram", udp),
        work("idle: memory of a keep-alive TLS connection, 10,000 of them", "bytes per connection", idle),
        work("latency: added p99 at half of saturation", "added p99", latency),
    ]
}

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SMALL: Requests = Requests {
    to: (LOCALHOST, 0),
    tls: false,
    version: Version::HTTP_11,
    path: "/small",
    connections: 64,
    streams: 1,
    count: 40_000,
    pace: None,
};

fn http1(proxy: &Running, ports: &Ports) -> Result<Figures> {
    requests(proxy, Requests { to: (LOCALHOST, ports.http), ..SMALL })
}

fn tls(proxy: &Running, ports: &Ports) -> Result<Figures> {
    requests(proxy, Requests { to: (LOCALHOST, ports.https), tls: true, ..SMALL })
}

fn http2(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let to = (LOCALHOST, ports.https);
    requests(proxy, Requests { to, tls: true, version: Version::HTTP_2, connections: 8, streams: 100, ..SMALL })
}

fn http3(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let to = (LOCALHOST, ports.https);
    requests(proxy, Requests { to, tls: true, version: Version::HTTP_3, connections: 8, streams: 100, ..SMALL })
}

/// CPU time for each request, after some that warm up.
fn requests(proxy: &Running, requests: Requests) -> Result<Figures> {
    Requests { count: requests.count / 20, ..requests }.send()?;
    let before = proxy.cpu();
    let answers = requests.send()?;
    let cost = micros(proxy.cpu() - before) / answers.count as f64;
    let seen = vec![
        ("µs CPU per request", cost),
        ("requests/s", answers.rate()),
        ("p50 µs", micros(answers.quantile(500))),
        ("p99 µs", micros(answers.quantile(990))),
    ];
    Ok(Figures { cost, seen })
}

fn handshake(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let count = 4_000;
    load::handshakes(ports.https, count / 10)?;
    let before = proxy.cpu();
    load::handshakes(ports.https, count)?;
    let cost = micros(proxy.cpu() - before) / count as f64;
    Ok(Figures { cost, seen: vec![("µs CPU per handshake", cost)] })
}

fn big(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let count = 4_000;
    let requests = Requests { to: (LOCALHOST, ports.http), path: "/big", connections: 8, count, ..SMALL };
    Requests { count: count / 20, ..requests }.send()?;
    let before = proxy.cpu();
    let answers = requests.send()?;
    let cost = micros(proxy.cpu() - before) / count as f64;
    Ok(Figures { cost, seen: vec![("µs CPU per MiB", cost), ("MiB/s", answers.rate())] })
}

fn tcp(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let (mib, connections) = (128, 32);
    load::bytes(ports.tcp, mib, 1)?;
    let before = proxy.cpu();
    load::bytes(ports.tcp, mib, connections)?;
    let cost = micros(proxy.cpu() - before) / f64::from(connections * u32::from(mib));
    Ok(Figures { cost, seen: vec![("µs CPU per MiB", cost)] })
}

fn udp(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let count = 200_000;
    load::datagrams(ports.udp, count / 20)?;
    let before = proxy.cpu();
    load::datagrams(ports.udp, count)?;
    let cost = micros(proxy.cpu() - before) / (2 * count) as f64;
    Ok(Figures { cost, seen: vec![("µs CPU per datagram", cost)] })
}

fn idle(proxy: &Running, ports: &Ports) -> Result<Figures> {
    let count = 10_000;
    let before = proxy.memory();
    let after = load::idle(ports.https, count, || proxy.memory())?;
    let cost = after.saturating_sub(before) as f64 / count as f64;
    Ok(Figures { cost, seen: vec![("bytes per connection", cost)] })
}

/// At half of what the proxy can do at the most, beside the origin alone at the same pace.
fn latency(_: &Running, ports: &Ports) -> Result<Figures> {
    let through = Requests { to: (LOCALHOST, ports.http), ..SMALL };
    let most = Requests { count: 50_000, ..through }.send()?.rate();
    let pace = Some(((most / 2.0 / f64::from(through.connections)) as u32).max(1));
    let paced = Requests { pace, count: (most * 2.0) as u64, ..through };
    let answers = paced.send()?;
    let alone = Requests { to: (origin::IP, origin::HTTP), ..paced }.send()?;
    let added = |per_mille| micros(answers.quantile(per_mille)) - micros(alone.quantile(per_mille));
    let seen = vec![("µs added p99", added(990)), ("µs added p50", added(500)), ("requests/s", answers.rate())];
    Ok(Figures { cost: added(990).max(1.0), seen })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The median of each figure over the rounds.
pub fn summary(rounds: &[Figures]) -> String {
    let names = rounds.first().map(|first| first.seen.iter().map(|(name, _)| *name)).into_iter().flatten();
    let each = names.enumerate().map(|(at, name)| {
        let figure = median(rounds.iter().map(|round| round.seen[at].1).collect()).unwrap_or_default();
        if figure >= 100.0 { format!("{figure:.0} {name}") } else { format!("{figure:.2} {name}") }
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
