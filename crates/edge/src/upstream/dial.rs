//! Connecting to a machine and sending it a request.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{
    Method, Request, Response, Uri, Version,
    header::{HOST, UPGRADE},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use kit::report::Report;
use model::AppName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, error::Elapsed, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Answered, Content, Http2, Line, RequestBody, Requests, Turn,
    exchange::{Link, Lost, Patience, Why, exchange},
    pool::{Choice, Home, Keeper, Pool},
    streams::NoAnswer,
};
use crate::{
    Bounds, Refusal,
    choose::Chosen,
    http::{Interim, leave_connection},
    limits::TooSlow,
    machine::{Lease, Machine, Target},
    plain::Plain,
    replay::Head,
    worker::{Errand, Hop, Said, Tunnel, Verdict, Want, fields, speak},
};

/// How soon it is looked whether there is room for another request over HTTP/2 where there will be, and how rarely at last:
/// many may wait.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(64));
/// When nothing has passed over a connection for so long, the kernel at its other end is asked whether it is there; so often at
/// most, this far apart.
const KEEP_ALIVE: (Duration, u32, Duration) = (Duration::from_secs(20), 4, Duration::from_secs(5));

/// Opens connections to machines and sends requests over them.
pub struct Dialer {
    connect: Duration,
    patience: Patience,
    to_machines: Http2,
    to_workers: Http2,
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
        let (to_machines, to_workers) = (
            Http2::to_machines(patience.head_bytes, tasks.clone()),
            Http2::to_workers(patience.head_bytes, tasks.clone()),
        );
        let keeper = Arc::new(Keeper { tasks, stopping });
        Self { connect: bounds.connect, patience, to_machines, to_workers, keeper }
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
    pub async fn datagrams(&self, hop: &Hop, said: Said) -> Result<Content, String> {
        let by = self.connect_by(None);
        let turn = hop.turn(&self.to_workers, by).await?;
        let mut request = Request::new(said.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://machine/");
        fields::ask_for_datagrams(request.headers_mut());
        let mut answer = in_words(timeout_at(by, turn.send(request, &Interim::Not)).await)?;
        match Verdict::take(answer.headers_mut()) {
            Some(_) => Err("its worker takes no datagrams".into()),
            None => Ok(answer.into_body()),
        }
    }

    /// How long a worker takes for an answer to nothing. What goes wrong is told in words.
    pub async fn greet(&self, hop: &Hop) -> Result<Duration, String> {
        let by = self.connect_by(None);
        let turn = hop.turn(&self.to_workers, by).await?;
        let mut request = Request::new(RequestBody::default());
        *request.uri_mut() = Uri::from_static("http://machine/");
        fields::greet(request.headers_mut());
        let began = Instant::now();
        in_words(timeout_at(by, turn.send(request, &Interim::Not)).await)?;
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
    ) -> Result<Response<Content>, Refusal> {
        let Errand { app, machine, port, .. } = errand;
        let unreachable = |reason| Refusal::Unreachable { machine: machine.clone(), port: *port, reason };
        let turn = hop.turn(&self.to_workers, self.connect_by(by)).await.map_err(unreachable)?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://machine/");
        errand.put(request.headers_mut());
        let end = Instant::now() + self.patience.answer;
        let end = by.map_or(end, |by| by.min(end));
        let answer = in_words(timeout_at(end, turn.send(request, &Interim::Not)).await);
        let mut answer = answer.map_err(unreachable)?;
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
        keep_alive(&stream);
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
            Box::pin(self.send_far(chosen, hop, in_h2(head, authority, body), interim)).await
        } else if chosen.h2 {
            Box::pin(self.send_h2(chosen, in_h2(head, authority, body), interim)).await
        } else {
            self.send_h1(chosen, head, body, interim).await
        }
    }

    /// The same for a machine of another host, by its worker.
    async fn send_far(
        &self,
        chosen: &Chosen,
        hop: &Hop,
        mut request: Request<RequestBody>,
        interim: &Interim,
    ) -> Result<Answered, Failed> {
        let target = &chosen.lease.target;
        let (machine, port) = (target.machine.id.clone(), target.address.port());
        let by = self.connect_by(chosen.reach_by);
        let turn = match hop.turn(&self.to_workers, by).await {
            Ok(turn) => turn,
            Err(reason) => {
                let cause = Refusal::Unreachable { machine, port, reason };
                return Err(Failed { cause, unsent: Some(request.into_body()), untouched: true });
            }
        };
        Errand::of(&chosen.route.app, target, chosen.only, Want::Answer).put(request.headers_mut());
        let mut response = self.in_time(target, turn, request, interim).await?;
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

    /// The answer to a request, unless none comes in time once all of the request has been sent.
    async fn in_time(
        &self,
        target: &Target,
        turn: Turn,
        mut request: Request<RequestBody>,
        interim: &Interim,
    ) -> Result<Response<Content>, Failed> {
        let sent = request.body_mut().sent();
        let too_late = async {
            let _ = sent.await;
            tokio::time::sleep(self.patience.answer).await;
        };
        tokio::select! {
            answer = turn.send(request, interim) => answer.map_err(|why| self.no_answer(target, why)),
            () = too_late => {
                Err(Failed { cause: self.lost(target, Why::Late), unsent: None, untouched: false })
            }
        }
    }

    async fn send_h2(
        &self,
        chosen: &Chosen,
        request: Request<RequestBody>,
        interim: &Interim,
    ) -> Result<Answered, Failed> {
        let target = &chosen.lease.target;
        let turn = match self.shared_h2(&chosen.lease, chosen.reach_by).await {
            Ok(turn) => turn,
            Err(cause) => return Err(Failed { cause, unsent: Some(request.into_body()), untouched: true }),
        };
        let response = self.in_time(target, turn, request, interim).await?;
        target.worked(Instant::now());
        Ok(Answered::by_http2(response))
    }

    /// What it says about whose fault it is that there is no answer.
    fn no_answer(&self, target: &Target, why: NoAnswer) -> Failed {
        let failed = |cause, untouched| Failed { cause, unsent: None, untouched };
        match why {
            NoAnswer::Unsent(error, body) => Failed { unsent: Some(body), ..failed(cause_of(target, &error), true) },
            NoAnswer::Client(error) => failed(self.lost(target, Why::Client(error)), false),
            NoAnswer::Full(body) => {
                let (machine, port) = (target.machine.id.clone(), target.address.port());
                let reason = "none of its streams became free in time".into();
                Failed { unsent: Some(body), ..failed(Refusal::Unreachable { machine, port, reason }, true) }
            }
            NoAnswer::Bad(reason) => {
                let (machine, reason) = (target.machine.id.clone(), reason.into());
                failed(Refusal::BadAnswer { machine, protocol: "HTTP/2", reason }, false)
            }
            NoAnswer::Ended(error) => failed(cause_of(target, &error), is_untouched(&error)),
        }
    }

    /// Leave to send a request over one of the HTTP/2 connections to a target.
    async fn shared_h2(&self, lease: &Lease, by: Option<Instant>) -> Result<Turn, Refusal> {
        let Lease { target, epoch } = lease;
        let (Pool { shared, connecting, .. }, end) = (&*target.pool, self.connect_by(by));
        let mut look = LOOK.0;
        loop {
            let locked = timeout_at(end, shared.lock()).await;
            let mut all = locked.map_err(|_| unreachable(target, &io::ErrorKind::TimedOut.into()))?;
            let full = match all.choose(*epoch) {
                Choice::Turn(turn) => return Ok(turn),
                Choice::First => return Ok(all.add(self.begin_h2(target, by).await?, *epoch)),
                Choice::Another(turn) if !connecting.swap(true, SeqCst) => {
                    // Meanwhile others use what is there.
                    drop(all);
                    let _connecting = Connecting(connecting);
                    let begun = timeout_at(end, self.begin_h2(target, by)).await.ok().and_then(Result::ok);
                    // A program that says nothing over it may never serve it.
                    while begun.as_ref().is_some_and(|requests| !requests.is_known()) && Instant::now() < end {
                        sleep(LOOK.0).await;
                    }
                    let begun = begun.filter(|requests| requests.is_known() && requests.is_good());
                    return Ok(match begun {
                        Some(requests) => shared.lock().await.add(requests, *epoch),
                        None => turn,
                    });
                }
                Choice::Another(turn) | Choice::Unknown(turn) => turn,
            };
            drop(all);
            if Instant::now() >= end {
                return Ok(full);
            }
            drop(full);
            sleep(look).await;
            look = (look * 2).min(LOOK.1);
        }
    }

    /// A new HTTP/2 connection to a target.
    async fn begin_h2(&self, target: &Target, by: Option<Instant>) -> Result<Requests, Refusal> {
        let stream = self.connect_near(target, by).await?;
        let (requests, carrying) = self.to_machines.begin(stream).await.map_err(|error| cause_of(target, &error))?;
        let machine = target.machine.clone();
        // It is no work of its own: whoever sends requests over it is waited for.
        tokio::spawn(async move {
            let _ = carrying.await;
            machine.metrics().disconnects.one();
        });
        Ok(requests)
    }
}

/// While it lives, another connection is being made.
struct Connecting<'p>(&'p AtomicBool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// The request as HTTP/2 spells it: the host is in its target (RFC 9113, 8.3.1).
fn in_h2(head: &Head, authority: &str, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = head.to_map();
    leave_connection(request.headers_mut());
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

/// Has the kernel notice if the other end of a connection has vanished: one that is no more says nothing. A machine's program
/// is not asked, since servers of gRPC turn away who asks them often.
pub fn keep_alive(stream: &TcpStream) {
    let (time, retries, interval) = KEEP_ALIVE;
    let keep_alive = TcpKeepalive::new().with_time(time).with_retries(retries).with_interval(interval);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive);
}

/// A worker's answer; what goes wrong is told in words.
fn in_words(answer: Result<Result<Response<Content>, NoAnswer>, Elapsed>) -> Result<Response<Content>, String> {
    let answer = answer.map_err(|_| String::from("its worker gave no answer in time"))?;
    answer.map_err(|why| match why {
        NoAnswer::Unsent(error, _) | NoAnswer::Ended(error) => format!("its worker: {}", Report(&error)),
        NoAnswer::Client(error) => format!("what was to be said to its worker broke off: {error}"),
        NoAnswer::Full(_) => String::from("its worker has no room for another request"),
        NoAnswer::Bad(reason) => format!("its worker: {reason}"),
    })
}

/// Whether an HTTP/2 peer says that it has done nothing with a request: it refuses it, or has said goodbye before it came
/// (RFC 9113, 8.7 and 6.8).
fn is_untouched(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Why a machine gave no answer over HTTP/2: it does not speak it, or breaks its rules; a connection that ends is something
/// else.
fn cause_of(target: &Target, error: &h2::Error) -> Refusal {
    let (machine, reason) = (target.machine.id.clone(), Report(error).to_string());
    if error.is_io() || error.is_remote() {
        return Refusal::ClosedEarly { machine, reason };
    }
    Refusal::BadAnswer { machine, protocol: "HTTP/2", reason }
}
