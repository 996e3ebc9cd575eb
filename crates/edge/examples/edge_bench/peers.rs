//! The proxies that are compared, each started with the same work to do.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

use crate::{load, origin, subject::HOST};

/// Where every proxy listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ports {
    /// Plain HTTP.
    pub http: u16,
    /// HTTP/1.1 and HTTP/2 over TLS; HTTP/3.
    pub https: u16,
    /// Bytes.
    pub tcp: u16,
    /// Datagrams; they keep their port.
    pub udp: u16,
}

/// A kind of proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The edge of this repository.
    Dunlin,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
    /// Caddy.
    Caddy,
}

impl Kind {
    /// Those of these ports at which it takes connections.
    fn listens(self, ports: &Ports) -> Vec<u16> {
        match self {
            Self::Caddy => vec![ports.https],
            Self::Dunlin | Self::Haproxy | Self::Nginx => vec![ports.http, ports.https, ports.tcp],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dunlin => "dunlin",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
        })
    }
}

/// The proxies of this machine.
pub struct Fleet {
    /// Those that can be started, Dunlin first.
    pub peers: Vec<Peer>,
    /// Where each listens.
    pub ports: Ports,
}

impl Fleet {
    /// Writes each proxy's configuration below `scratch`.
    pub fn new(scratch: &Path) -> Result<Self> {
        let ports = Ports { http: 18000, https: 18001, tcp: 18002, udp: origin::UDP };
        let certificate = certificate(scratch)?;
        let haproxy = write(scratch, "haproxy.cfg", &haproxy(&ports, &certificate))?;
        let nginx = write(scratch, "nginx.conf", &nginx(&ports, &certificate, scratch))?;
        let caddy = write(scratch, "Caddyfile", &caddy(&ports, &certificate, scratch))?;
        let own = std::env::current_exe()?;
        let place = format!("{} {}", scratch.display(), serde_json::to_string(&ports)?);
        let peers = vec![
            Peer::new(Kind::Dunlin, own, ["serve".into(), place].into()),
            Peer::new(Kind::Haproxy, "haproxy".into(), ["-db".into(), "-f".into(), haproxy].into()),
            Peer::new(Kind::Nginx, "nginx".into(), ["-e".into(), "stderr".into(), "-c".into(), nginx].into()),
            Peer::new(
                Kind::Caddy,
                "caddy".into(),
                ["run".into(), "--adapter".into(), "caddyfile".into(), "--config".into(), caddy].into(),
            ),
        ];
        Ok(Self { peers: peers.into_iter().filter(Peer::is_here).collect(), ports })
    }

    /// The proxies that are not on this machine.
    pub fn missing(&self) -> impl Iterator<Item = Kind> {
        let here = |kind: &Kind| self.peers.iter().any(|peer| peer.kind == *kind);
        [Kind::Haproxy, Kind::Nginx, Kind::Caddy].into_iter().filter(move |kind| !here(kind))
    }
}

/// A proxy that can be started.
pub struct Peer {
    /// Which.
    pub kind: Kind,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Peer {
    fn new(kind: Kind, program: PathBuf, arguments: Vec<String>) -> Self {
        Self { kind, program, arguments }
    }

    fn is_here(&self) -> bool {
        self.program.is_absolute() || {
            let paths = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&paths).any(|directory| directory.join(&self.program).is_file())
        }
    }

    /// Starts it on the first processor and waits until it answers.
    pub fn start(&self, ports: &Ports) -> Result<Running> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&self.program).args(&self.arguments).stdout(Stdio::null());
        // One thread for Go's code, as for everybody's; and what Caddy says of itself nobody reads.
        command.env("GOMAXPROCS", "1").stderr(if self.kind == Kind::Caddy { Stdio::null() } else { Stdio::inherit() });
        let running = Running(command.spawn().with_context(|| format!("{:?}", self.program))?);
        for port in self.kind.listens(ports) {
            load::wait_for((Ipv4Addr::LOCALHOST, port).into())?;
        }
        Ok(running)
    }
}

/// A running proxy. Dropping it ends it.
pub struct Running(Child);

impl Running {
    /// CPU time of its processes so far.
    pub fn cpu(&self) -> Duration {
        self.processes().filter_map(cpu_of).sum()
    }

    /// Bytes that its processes keep in memory for themselves.
    pub fn memory(&self) -> u64 {
        self.processes().filter_map(memory).sum()
    }

    fn processes(&self) -> impl Iterator<Item = u32> {
        let own = self.0.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        std::iter::once(own).chain(children)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        load::end(&mut self.0);
    }
}

/// By the process's own clock (clock_getcpuclockid(3)): the figures of proc(5) are in hundredths of a second, which is one
/// or two in a hundred of what a round takes.
fn cpu_of(pid: u32) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    nix::time::clock_gettime(clock).ok().map(Duration::from)
}

fn memory(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A certificate for an ECDSA P-256 key, and the key, in one file.
fn certificate(scratch: &Path) -> Result<String> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
    write(scratch, "certificate.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()))
}

fn write(scratch: &Path, name: &str, text: &str) -> Result<String> {
    let path = scratch.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// HAProxy with one thread, adding the fields that the edge adds.
fn haproxy(ports: &Ports, certificate: &str) -> String {
    let (ip, origin, bytes) = (origin::IP, origin::HTTP, origin::BYTES);
    let Ports { http, https, tcp, .. } = ports;
    let fields = |scheme: &str, port: u16, ssl: &str| {
        format!(
            "  option forwardfor
  unique-id-format %{{+X}}o\\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header X-Request-Id
  http-request del-header X-Forwarded- -m beg
  http-request set-header X-Forwarded-Proto {scheme}
  http-request set-header X-Forwarded-Port {port}
  http-request set-header X-Forwarded-Ssl {ssl}
  http-request set-header X-Client-Ip %[src]
  http-request add-header Via \"1.1 haproxy\"
  http-response set-header Server haproxy
  http-response add-header Via \"1.1 haproxy\"
  http-response set-header X-Request-Id %[unique-id]
  default_backend origin\n"
        )
    };
    format!(
        "global
  nbthread 1
  maxconn 12000
  no strict-limits
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  http-reuse always
  option splice-auto
frontend plain
  bind 127.0.0.1:{http}
{}frontend tls
  bind 127.0.0.1:{https} ssl crt {certificate} alpn h2,http/1.1
{}backend origin
  server one {ip}:{origin} pool-max-conn -1
listen bytes
  mode tcp
  bind 127.0.0.1:{tcp}
  server one {ip}:{bytes}\n",
        fields("http", *http, "off"),
        fields("https", *https, "on"),
    )
}

/// nginx with one worker, adding the fields that the edge adds.
fn nginx(ports: &Ports, certificate: &str, scratch: &Path) -> String {
    let (ip, origin, bytes) = (origin::IP, origin::HTTP, origin::BYTES);
    let Ports { http, https, tcp, udp } = ports;
    format!(
        "include /etc/nginx/modules-enabled/*.conf;
daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {d}/nginx.pid; error_log /dev/null;
events {{ worker_connections 40000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600; client_body_temp_path {d};
  proxy_temp_path {d}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off;
  proxy_buffers 16 64k; http2_max_concurrent_streams 200;
  upstream origin {{ server {ip}:{origin}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{http} backlog=4096;
    listen 127.0.0.1:{https} ssl http2 backlog=4096;
    ssl_certificate {certificate}; ssl_certificate_key {certificate};
    add_header Via \"1.1 nginx\"; add_header X-Request-Id $request_id;
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header Host $http_host; proxy_set_header X-Client-Ip $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Forwarded-Ssl $https;
      proxy_set_header X-Request-Id $request_id; proxy_set_header Via \"1.1 nginx\";
    }}
  }}
}}
stream {{
  server {{ listen 127.0.0.1:{tcp}; proxy_pass {ip}:{bytes}; }}
  server {{ listen 127.0.0.1:{udp} udp; proxy_pass {ip}:{udp}; proxy_timeout 60s; }}
}}\n",
        d = scratch.display()
    )
}

/// Caddy, adding the fields that the edge adds. It keeps as many connections to the origin as requests are under way.
fn caddy(ports: &Ports, certificate: &str, scratch: &Path) -> String {
    let (ip, origin, https, d) = (origin::IP, origin::HTTP, ports.https, scratch.display());
    format!(
        "{{
  admin off
  auto_https off
  storage file_system {d}/caddy
  servers {{
    protocols h1 h2 h3
  }}
}}
https://{HOST}:{https} {{
  bind 127.0.0.1
  tls {certificate} {certificate}
  header Via \"1.1 caddy\"
  header X-Request-Id {{http.request.uuid}}
  reverse_proxy http://{ip}:{origin} {{
    header_up X-Client-Ip {{remote_host}}
    header_up X-Forwarded-Port {https}
    header_up X-Forwarded-Ssl on
    header_up X-Request-Id {{http.request.uuid}}
    header_up Via \"3 caddy\"
    transport http {{
      compression off
      keepalive_idle_conns 1024
      keepalive_idle_conns_per_host 1024
    }}
  }}
}}\n"
    )
}
