//! Connecting to a machine and sending it a request.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    Method, Uri, Version,
    header::{HOST, UPGRADE},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kit::report::Report;
use model::AppName;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answered, Line, RequestBody,
    exchange::{Link, Lost, Patience, Why, exchange},
    pool::{Home, Keeper, Shared},
};
use crate::{
    Bounds, Refusal,
    choose::Chosen,
    gathered::Gathered,
    http::Interim,
    limits::TooSlow,
    machine::{Lease, Machine, Target},
    plain::Plain,
    replay::Head,
    worker::{Errand, Hop, Said, Tunnel, Verdict, Want, fields, speak},
};

/// How much of the content of one stream of HTTP/2 comes before somebody takes it.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// What HTTP/2 allows at most (RFC 9113, 6.9.1): however many streams wait for who takes them, the others go on.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Opens connections to machines and sends requests over them.
pub struct Dialer {
    connect: Duration,
    patience: Patience,
    http2: http2::Builder<TokioExecutor>,
    keeper: Arc<Keeper>,
}

/// Why there is no answer.
pub struct Failed {
    /// What happened.
    pub cause: Refusal,
    /// The request's body, if none of it was read.
    pub unsent: Option<RequestBody>,
    /// Whether the machine says that it has done nothing with it, though some of it was sent.
    pub untouched: bool,
}

impl Dialer {
    /// A dialer whose connections are tasks of `tasks`.
    pub fn new(bounds: &Bounds, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        let patience = Patience { head_bytes: bounds.header_bytes.max(8192), answer: bounds.answer };
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20)).max_header_list_size(64 * 1024);
        http2.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(MAX_WINDOW);
        Self { connect: bounds.connect, patience, http2, keeper: Arc::new(Keeper { tasks, stopping }) }
    }

    /// A connection to a machine of an app, made by some moment if there is one. `only`: no other machine would do.
    pub async fn connect(
        &self,
        app: &AppName,
        target: &Target,
        only: bool,
        by: Option<Instant>,
    ) -> Result<Line, Refusal> {
        let Some(hop) = &target.hop else { return self.connect_near(target, by).await.map(Plain::new).map(Line::Left) };
        let (mouth, said) = speak();
        let errand = Errand::of(app, target, only, Want::Connection);
        let answer = Box::pin(self.ask_worker(hop, &errand, said.into(), by)).await?;
        Ok(Line::Right(Box::new(Tunnel::new(mouth, answer.into_body()))))
    }

    /// Says datagrams to machines of another host. What they answer is what is heard. What goes wrong is told in words.
    pub async fn datagrams(&self, hop: &Hop, said: Said) -> Result<Incoming, String> {
        let by = self.connect_by(None);
        let mut sender = hop.connection(&self.http2, &self.keeper.tasks, by).await?;
        let mut request = Request::new(said.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://machine/");
        fields::ask_for_datagrams(request.headers_mut());
        let answer = timeout_at(by, sender.send_request(request)).await;
        let answer = answer.map_err(|_| String::from("its worker gave no answer in time"))?;
        let mut answer = answer.map_err(|error| format!("its worker: {}", Report(&error)))?;
        match Verdict::take(answer.headers_mut()) {
            Some(_) => Err("its worker takes no datagrams".into()),
            None => Ok(answer.into_body()),
        }
    }

    /// How long a worker takes for an answer to nothing. What goes wrong is told in words.
    pub async fn greet(&self, hop: &Hop) -> Result<Duration, String> {
        let by = self.connect_by(None);
        let mut sender = hop.connection(&self.http2, &self.keeper.tasks, by).await?;
        let mut request = Request::new(RequestBody::default());
        *request.uri_mut() = Uri::from_static("http://machine/");
        fields::greet(request.headers_mut());
        let began = Instant::now();
        let answer = timeout_at(by, sender.send_request(request)).await;
        let answer = answer.map_err(|_| String::from("its worker gave no answer in time"))?;
        answer.map_err(|error| format!("its worker: {}", Report(&error)))?;
        Ok(began.elapsed())
    }

    /// Sees to it that a machine of another host takes traffic.
    pub async fn wake(&self, hop: &Hop, errand: &Errand) -> Result<(), Refusal> {
        self.ask_worker(hop, errand, RequestBody::default(), None).await.map(drop)
    }

    /// Asks a worker for what is no answer of a machine.
    async fn ask_worker(
        &self,
        hop: &Hop,
        errand: &Errand,
        body: RequestBody,
        by: Option<Instant>,
    ) -> Result<Response<Incoming>, Refusal> {
        let Errand { app, machine, port, .. } = errand;
        let unreachable = |reason| Refusal::Unreachable { machine: machine.clone(), port: *port, reason };
        let mut sender =
            hop.connection(&self.http2, &self.keeper.tasks, self.connect_by(by)).await.map_err(unreachable)?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://machine/");
        errand.put(request.headers_mut());
        let end = Instant::now() + self.patience.answer;
        let end = by.map_or(end, |by| by.min(end));
        let answer = timeout_at(end, sender.send_request(request)).await;
        let answer = answer.map_err(|_| unreachable("its worker gave no answer in time".into()))?;
        let mut answer = answer.map_err(|error| unreachable(format!("its worker: {}", Report(&error))))?;
        match Verdict::take(answer.headers_mut()) {
            Some(verdict) => Err(verdict.refusal(app, machine.clone(), *port)),
            None => Ok(answer),
        }
    }

    /// When a connection has to be there that is for something that is wanted by some moment.
    fn connect_by(&self, by: Option<Instant>) -> Instant {
        let end = Instant::now() + self.connect;
        by.map_or(end, |by| by.min(end))
    }

    async fn connect_near(&self, target: &Target, by: Option<Instant>) -> Result<TcpStream, Refusal> {
        let (began, end) = (Instant::now(), self.connect_by(by));
        let connected = timeout_at(end, TcpStream::connect(target.address)).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|error| unreachable(target, &error))?;
        let _ = stream.set_nodelay(true);
        let metrics = target.machine.metrics();
        metrics.connects.one();
        metrics.connect_time.observe(began.elapsed());
        Ok(stream)
    }

    /// Sends a request to the machine that was chosen and waits for the header of its answer. `authority` is the host
    /// that it is for; `interim` is told what comes before it.
    pub async fn send(
        &self,
        chosen: &Chosen,
        head: &Head,
        authority: &str,
        body: RequestBody,
        interim: &Interim,
    ) -> Result<Answered, Failed> {
        // By address: most requests need less room.
        // An upgrade needs a connection of its own.
        if let Some(hop) = chosen.lease.target.hop.as_ref().filter(|_| head.first(&UPGRADE).is_none()) {
            Box::pin(self.send_far(chosen, hop, head, authority, body)).await
        } else if chosen.h2 {
            Box::pin(self.send_h2_in_time(chosen, in_h2(head, authority, body))).await
        } else {
            self.send_h1(chosen, head, body, interim).await
        }
    }

    /// The same for a machine of another host, by its worker.
    async fn send_far(
        &self,
        chosen: &Chosen,
        hop: &Hop,
        head: &Head,
        authority: &str,
        body: RequestBody,
    ) -> Result<Answered, Failed> {
        let target = &chosen.lease.target;
        let (machine, port) = (target.machine.id.clone(), target.address.port());
        let by = self.connect_by(chosen.reach_by);
        let mut sender = match hop.connection(&self.http2, &self.keeper.tasks, by).await {
            Ok(sender) => sender,
            Err(reason) => {
                let cause = Refusal::Unreachable { machine, port, reason };
                return Err(Failed { cause, unsent: Some(body), untouched: true });
            }
        };
        let mut request = in_h2(head, authority, body);
        Errand::of(&chosen.route.app, target, chosen.only, Want::Answer).put(request.headers_mut());
        let mut response = self
            .in_time(chosen, request, async |request| {
                sender.try_send_request(request).await.map_err(|error| failed(target, error))
            })
            .await?;
        if let Some(verdict) = Verdict::take(response.headers_mut()) {
            let untouched = verdict.is_untouched();
            return Err(Failed { cause: verdict.refusal(&chosen.route.app, machine, port), unsent: None, untouched });
        }
        target.worked(Instant::now());
        Ok(Answered::by_http2(response))
    }

    async fn send_h1(
        &self,
        chosen: &Chosen,
        head: &Head,
        body: RequestBody,
        interim: &Interim,
    ) -> Result<Answered, Failed> {
        let Lease { target, epoch } = &chosen.lease;
        let mut now = Instant::from(kit::clock::lately());
        let pooled = if chosen.reuse { target.pool.take(*epoch, now) } else { None };
        let link = match pooled {
            Some(link) => link,
            None => match self.connect(&chosen.route.app, target, chosen.only, chosen.reach_by).await {
                Ok(stream) => {
                    now = Instant::now();
                    Link::new(stream, target.machine.clone())
                }
                Err(cause) => return Err(Failed { cause, unsent: Some(body), untouched: true }),
            },
        };
        let home = chosen.reuse.then(|| Home::new(&target.pool, *epoch, &self.keeper));
        match exchange(link, head, body, self.patience, now, home, interim).await {
            Ok(answer) => {
                target.worked(now);
                Ok(answer)
            }
            Err(Lost { why, untouched }) => Err(Failed { cause: self.lost(target, why), unsent: None, untouched }),
        }
    }

    /// The answer of a server beside a machine's program, over a connection of its own, if it gives one.
    pub async fn fetch(&self, machine: &Arc<Machine>, server: SocketAddr, head: &Head) -> Option<Answered> {
        let stream = TcpStream::connect(server).await.ok()?;
        machine.metrics().connects.one();
        let link = Link::new(Line::Left(Plain::new(stream)), machine.clone());
        exchange(link, head, RequestBody::default(), self.patience, Instant::now(), None, &Interim::Not).await.ok()
    }

    fn lost(&self, target: &Target, why: Why) -> Refusal {
        let (machine, protocol) = (target.machine.id.clone(), "HTTP/1.1");
        match why {
            Why::Closed(error) => Refusal::ClosedEarly { machine, reason: error.to_string() },
            Why::Bad(bad) => Refusal::BadAnswer { machine, protocol, reason: Report(&bad).to_string() },
            Why::TooManyInterim => Refusal::BadAnswer { machine, protocol, reason: "no final answer came".into() },
            Why::Client(error) if error.is::<TooSlow>() => Refusal::SlowBody,
            Why::Client(error) => Refusal::ClientGone { reason: Report(error.as_ref()).to_string() },
            Why::Late => Refusal::NoAnswer { machine, waited: self.patience.answer },
        }
    }

    async fn send_h2_in_time(&self, chosen: &Chosen, request: Request<RequestBody>) -> Result<Answered, Failed> {
        self.in_time(chosen, request, async |request| self.send_h2(chosen, request).await).await
    }

    /// What `send` makes of a request, unless no answer comes in time once all of the request has been sent.
    async fn in_time<T>(
        &self,
        chosen: &Chosen,
        mut request: Request<RequestBody>,
        send: impl AsyncFnOnce(Request<RequestBody>) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let sent = request.body_mut().sent();
        let too_late = async {
            let _ = sent.await;
            tokio::time::sleep(self.patience.answer).await;
        };
        tokio::select! {
            answer = send(request) => answer,
            () = too_late => {
                let cause = self.lost(&chosen.lease.target, Why::Late);
                Err(Failed { cause, unsent: None, untouched: false })
            }
        }
    }

    async fn send_h2(&self, chosen: &Chosen, request: Request<RequestBody>) -> Result<Answered, Failed> {
        let target = &chosen.lease.target;
        let mut sender = match self.shared_h2(&chosen.lease, chosen.reach_by).await {
            Ok(sender) => sender,
            Err(cause) => return Err(Failed { cause, unsent: Some(request.into_body()), untouched: true }),
        };
        let response = sender.try_send_request(request).await.map_err(|error| failed(target, error))?;
        target.worked(Instant::now());
        Ok(Answered::by_http2(response))
    }

    /// The HTTP/2 connection that all requests to a target share.
    async fn shared_h2(&self, lease: &Lease, by: Option<Instant>) -> Result<http2::SendRequest<RequestBody>, Refusal> {
        let Lease { target, epoch } = lease;
        let mut shared = target.pool.shared.lock().await;
        if let Some(Shared { sender, .. }) = shared.as_ref().filter(|it| it.epoch == *epoch && !it.sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.connect_near(target, by).await?;
        let handshake = self.http2.handshake(TokioIo::new(Gathered::new(stream))).await;
        let (sender, connection) = handshake.map_err(|error| bad_answer(target, &error))?;
        let machine = target.machine.clone();
        self.keeper.tasks.spawn(async move {
            let _ = connection.await;
            machine.metrics().disconnects.one();
        });
        *shared = Some(Shared { sender: sender.clone(), epoch: *epoch });
        Ok(sender)
    }
}

/// The request as HTTP/2 spells it: the host is in its target (RFC 9113, 8.3.1).
fn in_h2(head: &Head, authority: &str, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.to_map();
    request.headers_mut().remove(HOST);
    let mut parts = Parts::default();
    parts.path_and_query = Some(head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
    if let Ok(authority) = Authority::try_from(authority) {
        (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(authority));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

fn unreachable(target: &Target, error: &io::Error) -> Refusal {
    let (machine, port) = (target.machine.id.clone(), target.address.port());
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Refusal::ConnectRefused { machine, port },
        io::ErrorKind::TimedOut => Refusal::Unreachable { machine, port, reason: "no answer in time".into() },
        _ => Refusal::Unreachable { machine, port, reason: error.to_string() },
    }
}

/// What a failed attempt to send says about whose fault it is.
fn failed(target: &Target, error: TrySendError<Request<RequestBody>>) -> Failed {
    let mut error = error;
    let unsent = error.take_message().map(Request::into_body);
    let error = error.into_error();
    let untouched = unsent.is_some() || is_untouched(&error);
    let cause = if error.is_user() {
        body_refusal(&error).unwrap_or_else(|| Refusal::ClientGone { reason: Report(&error).to_string() })
    } else if error.is_parse() || breaks_h2(&error) {
        bad_answer(target, &error)
    } else {
        closed_early(target, &error)
    };
    Failed { cause, unsent, untouched }
}

/// Why the request's own body let it fail, if that was more than the client's going away.
fn body_refusal(error: &hyper::Error) -> Option<Refusal> {
    let slow = std::error::Error::source(error).is_some_and(|source| source.is::<TooSlow>());
    slow.then_some(Refusal::SlowBody)
}

/// Whether an HTTP/2 peer says that it has done nothing with a request (RFC 9113, 8.7).
fn is_untouched(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Whether a peer does not speak HTTP/2, or breaks its rules; a connection that ends is something else.
fn breaks_h2(error: &hyper::Error) -> bool {
    let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| !error.is_io() && !error.is_remote())
}

fn bad_answer(target: &Target, error: &hyper::Error) -> Refusal {
    let machine = target.machine.id.clone();
    Refusal::BadAnswer { machine, protocol: "HTTP/2", reason: Report(error).to_string() }
}

fn closed_early(target: &Target, error: &hyper::Error) -> Refusal {
    Refusal::ClosedEarly { machine: target.machine.id.clone(), reason: Report(error).to_string() }
}
