//! Connecting to a machine and sending it a request.

use std::{io, time::Duration};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kit::report::Report;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Keep, RequestBody, pool::Shared};
use crate::{
    Bounds, Refusal,
    choose::Chosen,
    limits::TooSlow,
    machine::{Lease, Target},
};

/// Opens connections to machines and sends requests over them.
pub struct Dialer {
    connect: Duration,
    answer: Duration,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

/// An answer whose header has come.
pub struct Answered {
    /// The answer. Its body is still to come.
    pub response: Response<Incoming>,
    /// What to do with the connection when the body has come.
    pub keep: Option<Keep>,
}

/// Why there is no answer.
pub struct Failed {
    /// What happened.
    pub cause: Refusal,
    /// The request, if none of it was sent.
    pub unsent: Option<Request<RequestBody>>,
    /// Whether the machine says that it has done nothing with it, though some of it was sent.
    pub untouched: bool,
}

impl Dialer {
    /// A dialer whose connections are tasks of `tasks`.
    pub fn new(bounds: &Bounds, tasks: TaskTracker, stopping: CancellationToken) -> Self {
        let mut http1 = http1::Builder::new();
        http1.max_buf_size(bounds.header_bytes.max(8192));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(20)).max_header_list_size(64 * 1024);
        Self { connect: bounds.connect, answer: bounds.answer, http1, http2, tasks, stopping }
    }

    /// A connection to a machine, made by some moment if there is one.
    pub async fn connect(&self, target: &Target, by: Option<Instant>) -> Result<TcpStream, Refusal> {
        let began = Instant::now();
        let end = began + self.connect;
        let end = by.map_or(end, |by| by.min(end));
        let connected = timeout_at(end, TcpStream::connect(target.address)).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let stream = stream.map_err(|error| unreachable(target, &error))?;
        let _ = stream.set_nodelay(true);
        let metrics = target.machine.metrics();
        metrics.connects.one();
        metrics.connect_time.observe(began.elapsed());
        Ok(stream)
    }

    /// Sends a request to the machine that was chosen and waits for the header of its answer.
    pub async fn send(&self, chosen: &Chosen, mut request: Request<RequestBody>) -> Result<Answered, Failed> {
        let lease = &chosen.lease;
        let sent = request.body_mut().sent();
        let answer =
            async { if chosen.h2 { self.send_h2(chosen, request).await } else { self.send_h1(chosen, request).await } };
        let too_late = async {
            let _ = sent.await;
            tokio::time::sleep(self.answer).await;
        };
        tokio::select! {
            answer = answer => answer,
            () = too_late => {
                let machine = lease.target.machine.id.clone();
                Err(Failed { cause: Refusal::NoAnswer { machine, waited: self.answer }, unsent: None, untouched: false })
            }
        }
    }

    async fn send_h1(&self, chosen: &Chosen, request: Request<RequestBody>) -> Result<Answered, Failed> {
        let Lease { target, epoch } = &chosen.lease;
        let pooled = if chosen.reuse { target.pool.take(*epoch) } else { None };
        let mut sender = match pooled {
            Some(sender) => sender,
            None => match self.open_h1(target, chosen.reach_by).await {
                Ok(sender) => sender,
                Err(cause) => return Err(Failed { cause, unsent: Some(request), untouched: true }),
            },
        };
        let response = sender.try_send_request(request).await.map_err(|error| failed(target, "HTTP/1.1", error))?;
        target.worked();
        let (pool, tasks, stopping) = (target.pool.clone(), self.tasks.clone(), self.stopping.clone());
        let keep = chosen.reuse.then(|| Keep { sender, pool, epoch: *epoch, tasks, stopping });
        Ok(Answered { response, keep })
    }

    async fn open_h1(&self, target: &Target, by: Option<Instant>) -> Result<http1::SendRequest<RequestBody>, Refusal> {
        let stream = self.connect(target, by).await?;
        let handshake = self.http1.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| closed_early(target, &error))?;
        let machine = target.machine.clone();
        self.tasks.spawn(async move {
            // What ends it is told to whoever sends over it.
            let _ = connection.with_upgrades().await;
            machine.metrics().disconnects.one();
        });
        Ok(sender)
    }

    async fn send_h2(&self, chosen: &Chosen, request: Request<RequestBody>) -> Result<Answered, Failed> {
        let target = &chosen.lease.target;
        let mut sender = match self.shared_h2(&chosen.lease, chosen.reach_by).await {
            Ok(sender) => sender,
            Err(cause) => return Err(Failed { cause, unsent: Some(request), untouched: true }),
        };
        let response = sender.try_send_request(request).await.map_err(|error| failed(target, "HTTP/2", error))?;
        target.worked();
        Ok(Answered { response, keep: None })
    }

    /// The HTTP/2 connection that all requests to a target share.
    async fn shared_h2(&self, lease: &Lease, by: Option<Instant>) -> Result<http2::SendRequest<RequestBody>, Refusal> {
        let Lease { target, epoch } = lease;
        let mut shared = target.pool.shared.lock().await;
        if let Some(Shared { sender, .. }) = shared.as_ref().filter(|it| it.epoch == *epoch && !it.sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.connect(target, by).await?;
        let handshake = self.http2.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| bad_answer(target, "HTTP/2", &error))?;
        let machine = target.machine.clone();
        self.tasks.spawn(async move {
            let _ = connection.await;
            machine.metrics().disconnects.one();
        });
        *shared = Some(Shared { sender: sender.clone(), epoch: *epoch });
        Ok(sender)
    }
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
fn failed(target: &Target, protocol: &'static str, error: TrySendError<Request<RequestBody>>) -> Failed {
    let mut error = error;
    let unsent = error.take_message();
    let error = error.into_error();
    let untouched = unsent.is_some() || is_untouched(&error);
    let cause = if error.is_user() {
        body_refusal(&error).unwrap_or_else(|| Refusal::ClientGone { reason: Report(&error).to_string() })
    } else if error.is_parse() || breaks_h2(&error) {
        bad_answer(target, protocol, &error)
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

fn bad_answer(target: &Target, protocol: &'static str, error: &hyper::Error) -> Refusal {
    let machine = target.machine.id.clone();
    Refusal::BadAnswer { machine, protocol, reason: Report(error).to_string() }
}

fn closed_early(target: &Target, error: &hyper::Error) -> Refusal {
    Refusal::ClosedEarly { machine: target.machine.id.clone(), reason: Report(error).to_string() }
}
