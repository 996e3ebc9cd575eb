//! Load: h2load for requests by HTTP/1.1 and HTTP/2; handshakes, bytes, datagrams and idle connections by clients of ours.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use http::Version;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{quic, subject::HOST};

/// How long a program may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(20);

/// What h2load is to do.
#[derive(Clone, Copy)]
pub struct Requests {
    /// Where to.
    pub to: (Ipv4Addr, u16),
    /// Over TLS.
    pub tls: bool,
    /// By which version of HTTP.
    pub version: Version,
    /// What for.
    pub path: &'static str,
    /// Over how many connections.
    pub connections: u32,
    /// How many at a time on each.
    pub streams: u32,
    /// How many in all.
    pub count: u64,
    /// How many a second on each connection, if not as many as possible.
    pub pace: Option<u32>,
}

/// What requests came to.
pub struct Answers {
    /// Answers with a status of success.
    pub count: u64,
    /// How long it took.
    pub wall: Duration,
    /// Time to the end of each answer, the shortest first.
    pub times: Vec<Duration>,
}

impl Answers {
    /// So many answers, in any order, within this time.
    pub fn new(wall: Duration, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { count: times.len() as u64, wall, times }
    }

    /// The time that so many of a thousand answers kept below.
    pub fn quantile(&self, per_mille: usize) -> Duration {
        self.times
            .get((self.times.len() * per_mille / 1000).min(self.times.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }
}

impl Requests {
    /// Sends them. Fails unless each is answered.
    pub fn send(&self) -> Result<Answers> {
        if self.version == Version::HTTP_3 { quic::send(self) } else { self.h2load() }
    }

    fn h2load(&self) -> Result<Answers> {
        let log = tempfile::NamedTempFile::new()?;
        let (scheme, port) = (if self.tls { "https" } else { "http" }, self.to.1);
        let mut command = Command::new("taskset");
        command.args(["-c", "1", "h2load", "-t", "1", "-n", &self.count.to_string()]);
        command.args(["-c", &self.connections.to_string(), "-m", &self.streams.to_string()]);
        command.arg(format!("--connect-to={}:{port}", self.to.0)).arg("--log-file").arg(log.path());
        if self.version == Version::HTTP_11 {
            command.arg("--h1");
        }
        if let Some(pace) = self.pace {
            command.args(["--rps", &pace.to_string()]);
        }
        let began = Instant::now();
        let output = command.arg(format!("{scheme}://{HOST}:{port}{}", self.path)).output().context("h2load")?;
        let wall = began.elapsed();
        let lines = fs::read_to_string(log.path())?;
        let mut times = Vec::new();
        for line in lines.lines() {
            let mut fields = line.split('\t').skip(1);
            if fields.next().is_some_and(|status| status.starts_with('2')) {
                times.push(Duration::from_micros(fields.next().unwrap_or_default().parse()?));
            }
        }
        if times.len() as u64 != self.count {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("{} of {} requests succeeded:\n{said}", times.len(), self.count);
        }
        Ok(Answers::new(wall, times))
    }
}

/// Makes full TLS 1.3 handshakes, one after another on a few threads; each connection ends with its handshake.
pub fn handshakes(port: u16, count: u64) -> Result<()> {
    const THREADS: u64 = 4;
    let config = Arc::new(config());
    let client = || {
        let config = config.clone();
        thread::spawn(move || (0..count / THREADS).try_for_each(|_| secured(port, &config).map(drop)))
    };
    let clients: Vec<_> = (0..THREADS).map(|_| client()).collect();
    clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
}

/// A connection whose handshake is done.
fn secured(port: u16, config: &Arc<ClientConfig>) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ClientConnection::new(config.clone(), ServerName::try_from(HOST)?)?, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Opens so many TLS connections, has one request answered over each, and keeps them while `meanwhile` looks.
pub fn idle<T>(port: u16, count: usize, meanwhile: impl FnOnce() -> T) -> Result<T> {
    let config = Arc::new(config());
    let request = format!("GET /small HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = secured(port, &config)?;
        stream.write_all(request.as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(&[b'x'; 1024]) {
            let read = stream.read(&mut buffer)?;
            ensure!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&buffer[..read]);
        }
        connections.push(stream);
    }
    // What a proxy needs for the moment of a request it gives back by now.
    thread::sleep(Duration::from_secs(3));
    Ok(meanwhile())
}

/// Has so many MiB poured through each of so many connections in turn.
pub fn bytes(port: u16, mib: u8, connections: u32) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    for _ in 0..connections {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.write_all(&[mib])?;
        let mut left = usize::from(mib) << 20;
        while left > 0 {
            let read = stream.read(&mut buffer)?;
            ensure!(read > 0, "the connection ended {left} bytes too early");
            left -= read;
        }
    }
    Ok(())
}

/// Sends datagrams of 64 bytes from a few sockets, some at a time under way from each, until so many came back.
pub fn datagrams(port: u16, count: u64) -> Result<()> {
    const SOCKETS: u64 = 8;
    const WINDOW: u64 = 16;
    let clients: Vec<_> = (0..SOCKETS)
        .map(|_| {
            thread::spawn(move || -> Result<()> {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect((Ipv4Addr::LOCALHOST, port))?;
                socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                let (mut back, mut buffer) = (0, [0; 256]);
                while back < count / SOCKETS {
                    (0..WINDOW).try_for_each(|_| socket.send(&[7; 64]).map(drop))?;
                    for _ in 0..WINDOW {
                        match socket.recv(&mut buffer) {
                            Ok(_) => back += 1,
                            // Some were lost: the window begins anew.
                            Err(_) => break,
                        }
                    }
                }
                Ok(())
            })
        })
        .collect();
    clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
}

/// Waits until something listens there.
pub fn wait_for(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < end, "nothing listens at {address}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Ends a child and waits for its end; nginx's workers end with their master.
pub fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _ = child.wait();
}

/// Lets this process, and those it starts, have as many files open as it may.
pub fn allow_all_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A client of TLS 1.3 that resumes nothing.
pub fn config() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3");
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config
}

/// Believes any certificate: the proxies are measured, not trusted.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
