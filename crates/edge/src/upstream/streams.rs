//! Requests over HTTP/2 to a machine, or to the worker of another host: many at a time over one connection.
//!
//! ```text
//!  request ─▶ head ────────────────▶│        │─▶ interim answers, told ─▶ head of the answer
//!             content, as it is ───▶│ stream │
//!             wanted, pumped        │        │─▶ content, as it is read; once it is dropped the pump stops
//! ```
//!
//! The library is used directly: what is built upon it passes on no interim answers, and takes an answer that was
//! cancelled for one that has ended.

use std::{
    future::{pending, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use h2::{Ping, PingPong, RecvStream, client};
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, Notify, OwnedMutexGuard, oneshot},
    time::{Sleep, sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    Content, RequestBody,
    content::{always_tells_length, is_expecting, pump, tell_length},
    exchange::{MAX_INTERIM, UNDECIDED},
};
use crate::{gathered::Gathered, http::Interim, options::BoxError};

/// How much of the content of one stream comes before somebody takes it: from another host, which may be far, and from a
/// machine.
pub const STREAM_WINDOW: u32 = 1 << 20;
const MACHINES_WINDOW: u32 = 256 << 10;
/// What HTTP/2 allows at most (RFC 9113, 6.9.1): however many streams wait for who takes them, the others go on.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
/// How many streams that were given up are remembered, and for how long: what still comes for them is no mistake.
pub const GIVEN_UP: (usize, Duration) = (4096, Duration::from_secs(10));
/// What frames that hold hardly anything may take of memory, before somebody reads them: in a connection between hosts, which
/// all apps share, and in one to a machine.
pub const SMALL_FRAMES: usize = 256 << 20;
const MACHINES_SMALL_FRAMES: usize = 64 << 20;
/// How many streams the other side takes as long as it has not said so; nobody can say this. One may be begun meanwhile.
const NOT_SAID: usize = usize::MAX - 1;
/// How often it is looked whether there is a place where nobody tells of it: once the other side has said how many it takes,
/// and before.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2));
/// After so long the worker of another host is asked whether it is there; so long it has to say so, behind all that is on its
/// way already.
const QUIET: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(30);
/// How long the worker of another host may take to say whether content is wanted. It always says so, but may have to wake
/// the machine first.
const WORKER_UNDECIDED: Duration = Duration::from_secs(10);
/// How long a request waits for a place in a connection that is full.
const PLACE: Duration = Duration::from_secs(30);
/// How long what was said last over a connection may take to be heard once nobody listens there any more.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// Makes connections over HTTP/2.
pub struct Http2 {
    settings: client::Builder,
    /// What is left of requests is sent by these.
    tasks: TaskTracker,
    /// How long the other side may take to say whether it wants content.
    undecided: Duration,
}

/// What carries a connection. It has to be run.
pub type Carrying<S> = client::Connection<Gathered<S>, Bytes>;

impl Http2 {
    /// Connections to machines, whose answers' heads are no longer than this over HTTP/1. In how many frames a head may come
    /// follows from how long it may be, and some bytes take three and a half times their room on the way (RFC 7541, B).
    pub fn to_machines(head_bytes: usize, tasks: TaskTracker) -> Self {
        let mut http2 = Self::new(4 * head_bytes, tasks, UNDECIDED);
        http2.settings.initial_window_size(MACHINES_WINDOW).data_frame_budget(MACHINES_SMALL_FRAMES);
        http2
    }

    /// Connections to the workers of other hosts, which pass on what machines say, however much room it takes.
    pub fn to_workers(head_bytes: usize, tasks: TaskTracker) -> Self {
        Self::new(16 * head_bytes, tasks, WORKER_UNDECIDED)
    }

    fn new(head_bytes: usize, tasks: TaskTracker, undecided: Duration) -> Self {
        let mut settings = client::Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_WINDOW)
            .initial_max_send_streams(NOT_SAID)
            .enable_push(false)
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
            .data_frame_budget(SMALL_FRAMES)
            // What is wrong with one answer is no reason to give up all others.
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(GIVEN_UP.0)
            .reset_stream_duration(GIVEN_UP.1);
        Self { settings, tasks, undecided }
    }

    /// Begins to speak it.
    pub async fn begin<S>(&self, stream: S) -> Result<(Requests, Carrying<S>), h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (handle, carrying) = self.settings.handshake(Gathered::new(stream)).await?;
        let (spare, places) = (handle.clone(), Arc::default());
        let (tasks, undecided) = (self.tasks.clone(), self.undecided);
        Ok((Requests { handle: Arc::new(Mutex::new(handle)), spare, places, tasks, undecided }, carrying))
    }
}

/// Resolves once the other side of a connection has not answered in time, asked by what the connection has for that.
pub async fn not_there(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(QUIET).await;
        if !matches!(timeout(PONG, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A connection that requests can be sent over.
#[derive(Clone)]
pub struct Requests {
    /// Who sends next has it: one at a time waits for a place.
    handle: Arc<Mutex<client::SendRequest<Bytes>>>,
    /// To be asked how the connection is, without waiting.
    spare: client::SendRequest<Bytes>,
    places: Arc<Places>,
    tasks: TaskTracker,
    undecided: Duration,
}

/// The places of a connection.
#[derive(Default)]
struct Places {
    /// Requests that have been given leave to be sent over it.
    under_way: AtomicUsize,
    /// Those that have been sent.
    open: AtomicUsize,
    freed: Notify,
}

/// A request under way over a connection.
struct UnderWay(Arc<Places>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Relaxed);
    }
}

/// A request that was sent and has not ended.
struct Open(Arc<Places>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
        self.0.freed.notify_one();
    }
}

/// A request whose answer is read, until this is dropped.
pub struct Reading {
    _under_way: UnderWay,
    _open: Open,
    /// Tells what sends the rest of the request.
    _ends: oneshot::Sender<()>,
}

/// Leave to send one request over a connection.
pub struct Turn {
    requests: Requests,
    under_way: UnderWay,
}

/// Why there is no answer.
pub enum NoAnswer {
    /// The connection takes no more requests. Nothing was sent.
    Unsent(h2::Error, RequestBody),
    /// It has no place for another one. Nothing was sent.
    Full(RequestBody),
    /// The request's own content broke off.
    Client(BoxError),
    /// What came is none.
    Bad(&'static str),
    /// The stream, or the connection, ended without one.
    Ended(h2::Error),
}

impl Requests {
    /// Whether it takes requests, as far as that is known.
    pub fn is_good(&self) -> bool {
        let ready = self.spare.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(ready, Poll::Ready(Err(_)))
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.places.under_way.load(Relaxed)
    }

    /// Whether it has a place for another one.
    pub fn has_room(&self) -> bool {
        self.under_way() < self.limit()
    }

    /// Whether the other side has said how many it takes at a time.
    pub fn is_known(&self) -> bool {
        self.spare.current_max_send_streams() != NOT_SAID
    }

    /// How many may be under way at a time.
    fn limit(&self) -> usize {
        if self.is_known() { self.spare.current_max_send_streams() } else { 1 }
    }

    /// Leave to send one more, whether there is room or not.
    pub fn turn(&self) -> Turn {
        self.places.under_way.fetch_add(1, Relaxed);
        Turn { under_way: UnderWay(self.places.clone()), requests: self.clone() }
    }

    /// Waits for a place, and gives what a request is sent by.
    async fn place(&self) -> Result<OwnedMutexGuard<client::SendRequest<Bytes>>, h2::Error> {
        let mut handle = self.handle.clone().lock_owned().await;
        loop {
            poll_fn(|cx| handle.poll_ready(cx)).await?;
            if self.places.open.load(SeqCst) < self.limit() {
                return Ok(handle);
            }
            let look = if self.is_known() { LOOK.0 } else { LOOK.1 };
            let _ = timeout(look, self.places.freed.notified()).await;
        }
    }

    /// One more is sent.
    fn open(&self) -> Open {
        self.places.open.fetch_add(1, SeqCst);
        Open(self.places.clone())
    }
}

impl Turn {
    /// Sends a request and waits for the head of its answer. `interim` is told what comes before it.
    pub async fn send(self, request: Request<RequestBody>, interim: &Interim) -> Result<Response<Content>, NoAnswer> {
        let Self { requests, under_way } = self;
        let (mut head, content) = request.into_parts();
        tell_length(&mut head.headers, &content, |length| length > 0 || always_tells_length(&head.method));
        let ends = content.is_end_stream();
        let holds = !ends && is_expecting(&head.headers);
        let mut handle = match timeout(PLACE, requests.place()).await {
            Ok(Ok(handle)) => handle,
            Ok(Err(error)) => return Err(NoAnswer::Unsent(error, content)),
            Err(_) => return Err(NoAnswer::Full(content)),
        };
        let open = requests.open();
        let (mut answer, stream) = match handle.send_request(Request::from_parts(head, ()), ends) {
            Ok(begun) => begun,
            Err(error) => return Err(NoAnswer::Unsent(error, content)),
        };
        // There is a place for it. A handle that remembers it would keep it from being taken back.
        *handle = requests.spare.clone();
        drop(handle);
        let last_words = if content.is_connection() { LAST_WORDS } else { Duration::ZERO };
        let mut pumping = (!ends).then(|| pump(content, stream).boxed());
        let waiting =
            Waiting { holds, undecided: holds.then(|| Box::pin(sleep(requests.undecided))), before: 0, interim };
        let (answer, holds) = waiting.head(&mut answer, &mut pumping).await?;
        // Who refuses a request before its content was wanted does not want it.
        let pumping = pumping.filter(|_| !holds || answer.status().is_success());
        // What is left of the content is sent by itself, however slowly the answer is read, but not much longer than
        // somebody reads it.
        let (reading, given_up) = oneshot::channel();
        if let Some(mut pump) = pumping {
            requests.tasks.spawn(async move {
                tokio::select! {
                    _ = &mut pump => {}
                    _ = given_up => drop(timeout(last_words, pump).await),
                }
            });
        }
        let (head, stream) = answer.into_parts();
        let content = Content::new(stream, &head.headers).answering(Reading {
            _under_way: under_way,
            _open: open,
            _ends: reading,
        });
        Ok(Response::from_parts(head, content))
    }
}

/// Waits for the head of an answer.
struct Waiting<'a> {
    /// The content is held back until the other side wants it, or has not said so in time.
    holds: bool,
    undecided: Option<Pin<Box<Sleep>>>,
    /// How many interim answers have come.
    before: u32,
    interim: &'a Interim,
}

impl Waiting<'_> {
    /// The head, and whether the content is still held back. Meanwhile the content is sent.
    async fn head(
        mut self,
        answer: &mut client::ResponseFuture,
        pumping: &mut Option<BoxFuture<'static, Result<(), BoxError>>>,
    ) -> Result<(Response<RecvStream>, bool), NoAnswer> {
        poll_fn(|cx| {
            loop {
                if let Some(pump) = pumping.as_mut().filter(|_| !self.holds)
                    && let Poll::Ready(pumped) = pump.as_mut().poll(cx)
                {
                    *pumping = None;
                    pumped.map_err(NoAnswer::Client)?;
                }
                match answer.poll_informational(cx) {
                    Poll::Ready(Some(said)) => self.take(said.map_err(NoAnswer::Ended)?)?,
                    Poll::Ready(None) => {
                        let head = ready!(answer.poll_unpin(cx)).map_err(NoAnswer::Ended)?;
                        return Poll::Ready(Ok((head, self.holds)));
                    }
                    Poll::Pending => {
                        let undecided = self.undecided.as_mut().filter(|_| self.holds);
                        if !undecided.is_some_and(|undecided| undecided.as_mut().poll(cx).is_ready()) {
                            return Poll::Pending;
                        }
                        self.holds = false;
                    }
                }
            }
        })
        .await
    }

    /// Passes on an interim answer.
    fn take(&mut self, said: Response<()>) -> Result<(), NoAnswer> {
        let (said, ()) = said.into_parts();
        match said.status {
            StatusCode::CONTINUE => self.holds = false,
            StatusCode::SWITCHING_PROTOCOLS => {
                return Err(NoAnswer::Bad("it switched protocols without being asked"));
            }
            _ if self.before == MAX_INTERIM => return Err(NoAnswer::Bad("no final answer came")),
            status => {
                self.before += 1;
                self.interim.tell(status, said.headers);
            }
        }
        Ok(())
    }
}
