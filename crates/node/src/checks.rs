//! Health checks: the host looks at the guest, by TCP or HTTP, at intervals.
//!
//! A service's checks take part in routing and are named `servicecheck-<nn>-<tcp|http>-<port>`, `<nn>` being the service's
//! place in the configuration. A TCP service without checks gets one that only asks whether its port is open, so that
//! traffic never goes to a machine that does not listen yet. Until it first passes, a check looks more often.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header, http::HeaderValue};
use hyper_util::rt::TokioIo;
use model::{
    GoDuration,
    machine::{Check, CheckKind, CheckState, MachineConfig, Protocol},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const INTERVAL: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(1);
/// Between two looks until the first passes: doubled from look to look, since most programs listen at once or not soon.
const EAGER_FIRST: Duration = Duration::from_millis(5);
const EAGER_TCP: Duration = Duration::from_millis(100);
const EAGER_HTTP: Duration = Duration::from_millis(500);
/// What of a failing answer is shown.
const SHOWN_BYTES: usize = 512;
const READ_LIMIT_BYTES: usize = 64 * 1024;
/// The most checks of one machine.
pub const MAX_CHECKS: usize = 64;

/// A check, ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its name.
    pub name: String,
    port: u16,
    interval: Duration,
    timeout: Duration,
    grace: Duration,
    look: Look,
}

#[derive(Debug, Clone, PartialEq)]
enum Look {
    Tcp,
    Http { method: String, path: String, headers: Vec<(String, String)> },
}

/// An answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The check's name.
    pub name: String,
    /// The answer.
    pub status: CheckState,
    /// In words.
    pub output: String,
}

/// The checks of one running machine. Dropping it ends them.
#[derive(Debug)]
pub struct Checks {
    _tasks: JoinSet<()>,
}

impl Checks {
    /// Begins to run checks against a guest. Answers that changed go to `answers`; while that is full, checks wait.
    pub fn start(probes: Vec<Probe>, guest: Ipv4Addr, answers: &mpsc::Sender<Answer>) -> Self {
        let mut tasks = JoinSet::new();
        for probe in probes {
            tasks.spawn(watch(probe, guest.into(), answers.clone()));
        }
        Self { _tasks: tasks }
    }
}

/// All checks that a configuration asks for, in a stable order.
///
/// # Errors
/// In words for the user: a check lacks its port, or there are too many.
pub fn probes(config: &MachineConfig) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::new();
    for (index, service) in config.services.iter().enumerate() {
        let name = |kind: &str, port: u16| format!("servicecheck-{index:02}-{kind}-{port}");
        for check in &service.checks {
            let port = check.port.unwrap_or(service.internal_port);
            probes.push(probe(name(kind_name(check.kind), port), port, check));
        }
        if service.checks.is_empty() && service.protocol == Protocol::Tcp {
            let port = service.internal_port;
            probes.push(probe(name("tcp", port), port, &Check::default()));
        }
    }
    for (name, check) in &config.checks {
        let port = check.port.ok_or_else(|| format!("check {name} does not say which port to look at; add `port`"))?;
        probes.push(probe(name.clone(), port, check));
    }
    if probes.len() > MAX_CHECKS {
        return Err(format!("{} health checks are more than the {MAX_CHECKS} that one machine may have", probes.len()));
    }
    Ok(probes)
}

fn kind_name(kind: CheckKind) -> &'static str {
    match kind {
        CheckKind::Tcp => "tcp",
        CheckKind::Http => "http",
    }
}

fn probe(name: String, port: u16, check: &Check) -> Probe {
    let bounded = |given: Option<GoDuration>, default: Duration, low: u64, high: u64| {
        given.map_or(default, |given| given.0.clamp(Duration::from_millis(low), Duration::from_millis(high)))
    };
    let headers = check.headers.iter().flat_map(|it| it.values.iter().map(|value| (it.name.clone(), value.clone())));
    let look = match check.kind {
        CheckKind::Tcp => Look::Tcp,
        CheckKind::Http => Look::Http {
            method: check.method.clone().unwrap_or_else(|| "GET".into()),
            path: check.path.clone().unwrap_or_else(|| "/".into()),
            headers: headers.collect(),
        },
    };
    Probe {
        name,
        port,
        interval: bounded(check.interval, INTERVAL, 1_000, 3_600_000),
        timeout: bounded(check.timeout, TIMEOUT, 100, 60_000),
        grace: bounded(check.grace_period, GRACE, 0, 3_600_000),
        look,
    }
}

async fn watch(probe: Probe, guest: IpAddr, answers: mpsc::Sender<Answer>) {
    let started = Instant::now();
    let address = SocketAddr::new(guest, probe.port);
    let (mut passed, mut last, mut eager) = (false, None, EAGER_FIRST);
    loop {
        let result = timeout(probe.timeout, look(&probe.look, address)).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {}", GoDuration(probe.timeout))));
        passed |= result.is_ok();
        let (status, output) = match result {
            Ok(output) => (CheckState::Passing, output),
            Err(output) if started.elapsed() < probe.grace => (CheckState::Warning, output),
            Err(output) => (CheckState::Critical, output),
        };
        let answer = Answer { name: probe.name.clone(), status, output };
        if last.as_ref() != Some(&answer) {
            if answers.send(answer.clone()).await.is_err() {
                return;
            }
            last = Some(answer);
        }
        sleep(if passed { probe.interval } else { eager }).await;
        eager = (eager * 2).min(most_eager(&probe));
    }
}

fn most_eager(probe: &Probe) -> Duration {
    let eager = if probe.look == Look::Tcp { EAGER_TCP } else { EAGER_HTTP };
    eager.min(probe.interval)
}

async fn look(look: &Look, address: SocketAddr) -> Result<String, String> {
    let refused = |error: std::io::Error| format!("port {}: {}", address.port(), kit::report::Report(&error));
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    match look {
        Look::Tcp => Ok(format!("port {} is open", address.port())),
        Look::Http { method, path, headers } => {
            let request = request(address, method, path, headers)?;
            ask(stream, request).await
        }
    }
}

fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<Request<Empty<Bytes>>, String> {
    let mut builder = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let mut request = builder.body(Empty::new()).map_err(|error| format!("the check cannot be sent: {error}"))?;
    let host = HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII");
    request.headers_mut().entry(header::HOST).or_insert(host);
    let agent = HeaderValue::from_static("dunlin-health-check");
    request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
    Ok(request)
}

/// Sends one request. The connection ends with it.
async fn ask(stream: TcpStream, request: Request<Empty<Bytes>>) -> Result<String, String> {
    let broken = |error: hyper::Error| format!("no HTTP answer: {}", kit::report::Report(&error));
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_buf_size(READ_LIMIT_BYTES);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let said = format!("HTTP {status}");
        if status.is_success() {
            return Ok(said);
        }
        let body = Limited::new(response.into_body(), READ_LIMIT_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&body).trim().chars().take(SHOWN_BYTES).collect();
        Err(if text.is_empty() { said } else { format!("{said}: {text}") })
    };
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(broken(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use model::machine::{Service, config::CheckHeader};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server on the loopback interface that answers every request so.
    async fn server(answer: &'static str) -> (u16, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = mpsc::channel(100);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let count = stream.read(&mut request).await.unwrap_or(0);
                let _ = tell.try_send(String::from_utf8_lossy(&request[..count]).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, told)
    }

    fn http(port: u16) -> Check {
        let grace_period = Some(GoDuration::from_millis(0));
        Check { kind: CheckKind::Http, port: Some(port), grace_period, ..Check::default() }
    }

    async fn first_answer(check: &Check) -> Answer {
        let (answers, mut answered) = mpsc::channel(1);
        let probes = vec![probe("it".into(), check.port.unwrap(), check)];
        let _checks = Checks::start(probes, Ipv4Addr::LOCALHOST, &answers);
        timeout(PATIENCE, answered.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_status_from_200_to_299_passes_and_a_redirect_does_not() {
        for (answer, status, output) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", CheckState::Passing, "204"),
            ("HTTP/1.1 301 Moved\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", CheckState::Critical, "301"),
            ("HTTP/1.1 500 Oh\r\ncontent-length: 5\r\n\r\nno db", CheckState::Critical, "no db"),
            ("SSH-2.0-nonsense\r\n", CheckState::Critical, "no HTTP answer"),
        ] {
            let (port, _) = server(answer).await;
            let answer = first_answer(&http(port)).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert!(answer.output.contains(output), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_request_is_sent_as_configured() {
        let (port, mut requests) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let headers = vec![CheckHeader { name: "X-Probe".into(), values: vec!["1".into()] }];
        let check = Check { method: Some("HEAD".into()), path: Some("/up?x=1".into()), headers, ..http(port) };
        assert_eq!(first_answer(&check).await.status, CheckState::Passing);
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("HEAD /up?x=1 HTTP/1.1\r\n") && request.contains("x-probe: 1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_port_that_opens_later_passes_soon_after() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let check = Check { grace_period: Some(GoDuration::from_secs(3600)), ..Check::default() };
        let (answers, mut answered) = mpsc::channel(1);
        let _checks = Checks::start(vec![probe("it".into(), address.port(), &check)], Ipv4Addr::LOCALHOST, &answers);
        assert_eq!(answered.recv().await.unwrap().status, CheckState::Warning, "its grace period");
        let _listener = TcpListener::bind(address).await.unwrap();
        let answer = timeout(PATIENCE, answered.recv()).await.unwrap().unwrap();
        assert_eq!(answer.status, CheckState::Passing);
    }

    #[test]
    fn a_service_without_checks_is_asked_whether_it_listens() {
        let service = |port, protocol, checks| Service { internal_port: port, protocol, checks, ..Service::default() };
        let mut config = MachineConfig {
            services: vec![
                service(8080, Protocol::Tcp, Vec::new()),
                service(8081, Protocol::Tcp, vec![Check { port: None, ..http(0) }]),
                service(5353, Protocol::Udp, Vec::new()),
            ],
            ..MachineConfig::default()
        };
        config.checks.insert("own".into(), Check { port: Some(9), ..Check::default() });
        let names: Vec<_> = probes(&config).unwrap().into_iter().map(|probe| probe.name).collect();
        assert_eq!(names, ["servicecheck-00-tcp-8080", "servicecheck-01-http-8081", "own"]);
        config.checks.insert("odd".into(), Check::default());
        assert!(probes(&config).unwrap_err().contains("port"));
    }
}
