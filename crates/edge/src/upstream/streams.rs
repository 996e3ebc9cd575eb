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
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Mutex, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    RequestBody,
    exchange::{MAX_INTERIM, UNDECIDED},
};
use crate::{
    gathered::Gathered,
    http::{Interim, has_token},
    options::BoxError,
};

/// How much of the content of one stream comes before somebody takes it.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// What HTTP/2 allows at most (RFC 9113, 6.9.1): however many streams wait for who takes them, the others go on.
pub const MAX_WINDOW: u32 = (1 << 31) - 1;
/// How many streams that were given up are remembered, and for how long: what still comes for them is no mistake.
pub const GIVEN_UP: (usize, Duration) = (4096, Duration::from_secs(10));
/// What frames that hold hardly anything may take of memory, before somebody reads them: in a connection to a machine, and in
/// one between hosts, which all apps share.
const SMALL_FRAMES: (usize, usize) = (16 << 20, 256 << 20);
/// How many streams may be begun before the other side has said how many it takes.
const FIRST_STREAMS: usize = 100;
/// After so long the worker of another host is asked whether it is there; so long it has to answer.
const QUIET: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);
/// How long the worker of another host may take to say whether content is wanted. It always says so, but may have to wake
/// the machine first.
const WORKER_UNDECIDED: Duration = Duration::from_secs(10);
/// How long a request waits for a place in a connection that is full.
const PLACE: Duration = Duration::from_secs(30);
/// How long what was said last over a connection may take to be heard once nobody listens there any more.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Pieces of content that are there and shorter than this are sent as one.
const GATHERED: usize = 4 * 1024;

/// Makes connections over HTTP/2.
pub struct Http2 {
    settings: client::Builder,
    /// How long the other side may take to say whether it wants content.
    undecided: Duration,
}

/// What carries a connection. It has to be run.
pub type Carrying<S> = client::Connection<Gathered<S>, Bytes>;

impl Http2 {
    /// Connections to machines, whose answers' heads are no longer than this.
    pub fn to_machines(head_bytes: usize) -> Self {
        Self::new(2 * head_bytes, SMALL_FRAMES.0, UNDECIDED)
    }

    /// Connections to the workers of other hosts, which pass on what machines say, with a little of their own.
    pub fn to_workers(head_bytes: usize) -> Self {
        Self::new(4 * head_bytes, SMALL_FRAMES.1, WORKER_UNDECIDED)
    }

    fn new(head_bytes: usize, small_frames: usize, undecided: Duration) -> Self {
        let mut settings = client::Builder::new();
        settings
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_WINDOW)
            .initial_max_send_streams(FIRST_STREAMS)
            .enable_push(false)
            .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
            .data_frame_budget(small_frames)
            // What is wrong with one answer is no reason to give up all others.
            .max_local_error_reset_streams(None)
            .max_concurrent_reset_streams(GIVEN_UP.0)
            .reset_stream_duration(GIVEN_UP.1);
        Self { settings, undecided }
    }

    /// Begins to speak it.
    pub async fn begin<S>(&self, stream: S) -> Result<(Requests, Carrying<S>), h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (handle, carrying) = self.settings.handshake(Gathered::new(stream)).await?;
        let (spare, under_way) = (handle.clone(), Arc::default());
        Ok((Requests { handle: Arc::new(Mutex::new(handle)), spare, under_way, undecided: self.undecided }, carrying))
    }
}

/// Resolves once the other side of a connection has not answered in time, asked by what the connection has for that.
pub async fn not_there(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(QUIET).await;
        if !matches!(timeout(ANSWER, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// A connection that requests can be sent over.
#[derive(Clone)]
pub struct Requests {
    /// Who sends has it until his stream is open: streams that wait for that could not be given up.
    handle: Arc<Mutex<client::SendRequest<Bytes>>>,
    /// To be asked.
    spare: client::SendRequest<Bytes>,
    under_way: Arc<AtomicUsize>,
    undecided: Duration,
}

/// A request under way over a connection.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
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
        self.under_way.load(Relaxed)
    }

    /// Whether it has a place for another one.
    pub fn has_room(&self) -> bool {
        self.under_way() < self.spare.current_max_send_streams()
    }

    /// Leave to send one more, whether there is room or not.
    pub fn turn(&self) -> Turn {
        self.under_way.fetch_add(1, Relaxed);
        Turn { under_way: UnderWay(self.under_way.clone()), requests: self.clone() }
    }
}

impl Turn {
    /// Sends a request and waits for the head of its answer. `interim` is told what comes before it.
    pub async fn send(self, request: Request<RequestBody>, interim: &Interim) -> Result<Response<Content>, NoAnswer> {
        let Self { requests, under_way } = self;
        let (mut head, content) = request.into_parts();
        tell_length(&mut head.headers, &content, |length| length > 0 || has_content(&head.method));
        let ends = content.is_end_stream();
        let mut holds = !ends && is_expecting(&head.headers);
        let begun = timeout(PLACE, requests.begin(Request::from_parts(head, ()), ends)).await;
        let (mut answer, stream) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return Err(NoAnswer::Unsent(error, content)),
            Err(_) => return Err(NoAnswer::Full(content)),
        };
        let last_words = if content.is_connection() { LAST_WORDS } else { Duration::ZERO };
        let mut pumping = (!ends).then(|| pump(content, stream).boxed());
        let mut undecided = holds.then(|| Box::pin(sleep(requests.undecided)));
        let mut before = 0;
        let answer = poll_fn(|cx| {
            loop {
                if let Some(pump) = pumping.as_mut().filter(|_| !holds)
                    && let Poll::Ready(pumped) = pump.as_mut().poll(cx)
                {
                    pumping = None;
                    pumped.map_err(NoAnswer::Client)?;
                }
                match answer.poll_informational(cx) {
                    Poll::Ready(Some(said)) => {
                        let (said, ()) = said.map_err(NoAnswer::Ended)?.into_parts();
                        match said.status {
                            StatusCode::CONTINUE => holds = false,
                            StatusCode::SWITCHING_PROTOCOLS => {
                                return Poll::Ready(Err(NoAnswer::Bad("it switched protocols without being asked")));
                            }
                            _ if before == MAX_INTERIM => {
                                return Poll::Ready(Err(NoAnswer::Bad("no final answer came")));
                            }
                            status => {
                                before += 1;
                                interim.tell(status, said.headers);
                            }
                        }
                    }
                    Poll::Ready(None) => return answer.poll_unpin(cx).map_err(NoAnswer::Ended),
                    Poll::Pending => {
                        let waits = undecided.as_mut().filter(|_| holds);
                        if !waits.is_some_and(|undecided| undecided.as_mut().poll(cx).is_ready()) {
                            return Poll::Pending;
                        }
                        holds = false;
                    }
                }
            }
        })
        .await?;
        // Who refuses a request before its content was wanted does not want it.
        let pumping = pumping.filter(|_| !holds || answer.status().is_success());
        // What is left of the content is sent by itself, however slowly the answer is read, but not much longer than
        // somebody reads it.
        let (is_read, gone) = oneshot::channel();
        if let Some(mut pump) = pumping {
            tokio::spawn(async move {
                tokio::select! {
                    _ = &mut pump => {}
                    _ = gone => drop(timeout(last_words, pump).await),
                }
            });
        }
        let (head, stream) = answer.into_parts();
        let content = Content { _request: Some((under_way, is_read)), ..Content::new(stream, &head.headers) };
        Ok(Response::from_parts(head, content))
    }
}

impl Requests {
    /// Opens a stream, once there is a place for it.
    async fn begin(
        &self,
        head: Request<()>,
        ends: bool,
    ) -> Result<(client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut handle = self.handle.lock().await;
        poll_fn(|cx| handle.poll_ready(cx)).await?;
        let begun = handle.send_request(head, ends)?;
        // What comes of it, it says itself.
        let _ = poll_fn(|cx| handle.poll_ready(cx)).await;
        Ok(begun)
    }
}

/// Whether the sender of a request waits to be told that its content is wanted (RFC 9110, 10.1.1).
pub fn is_expecting(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expect| has_token(expect, "100-continue"))
}

/// Whether a request of this method says how long its content is even if there is none (RFC 9110, 8.6).
fn has_content(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// Says how long content is, where that is known, not said, and to be said.
pub fn tell_length(headers: &mut HeaderMap, content: &impl Body, is_told: impl FnOnce(u64) -> bool) {
    if let Some(length) = content.size_hint().exact().filter(|length| is_told(*length)) {
        headers.entry(header::CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// Sends content to its end, as it comes and as the other side takes it. Fails if the content does, which breaks off its
/// stream; whoever takes no more of it is not told again.
pub async fn pump<B>(content: B, mut stream: SendStream<Bytes>) -> Result<(), BoxError>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let pumped = pass(pin!(content), &mut stream).await;
    if pumped.is_err() {
        // Over already, or not to be taken for whole.
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
    match pumped {
        Err(Broken::Content(error)) => Err(error),
        Ok(()) | Err(Broken::Stream) => Ok(()),
    }
}

/// What broke off.
enum Broken {
    Content(BoxError),
    Stream,
}

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Self {
        Self::Stream
    }
}

async fn pass<B>(mut content: Pin<&mut B>, stream: &mut SendStream<Bytes>) -> Result<(), Broken>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let mut seen = None;
    loop {
        let next = poll_fn(|cx| match seen.take() {
            Some(next) => Poll::Ready(Some(next)),
            None if stream.poll_reset(cx).is_ready() => Poll::Ready(None),
            None => content.as_mut().poll_frame(cx).map(Some),
        });
        let frame = next.await.ok_or(Broken::Stream)?.transpose().map_err(Broken::Content)?;
        // An end needs no room.
        let mut data = match frame.map(Frame::into_data) {
            None => return Ok(stream.send_data(Bytes::new(), true)?),
            Some(Err(trailers)) => return Ok(stream.send_trailers(trailers.into_trailers().unwrap_or_default())?),
            Some(Ok(data)) => data,
        };
        while data.len() < GATHERED && seen.is_none() && !content.is_end_stream() {
            match content.frame().now_or_never() {
                Some(Some(Ok(more))) if more.is_data() => {
                    let mut gathered = BytesMut::from(data);
                    gathered.extend_from_slice(more.data_ref().map_or(&[], |more| more));
                    data = gathered.freeze();
                }
                None => break,
                next => seen = next,
            }
        }
        let ends = matches!(seen, Some(None)) || (seen.is_none() && content.is_end_stream());
        send(data, ends, stream).await?;
        if ends {
            return Ok(());
        }
    }
}

/// Sends a piece as there is room for it. Room is asked for only then, since all streams share it.
async fn send(mut data: Bytes, ends: bool, stream: &mut SendStream<Bytes>) -> Result<(), Broken> {
    loop {
        let mut room = 0;
        if !data.is_empty() {
            stream.reserve_capacity(data.len());
            room = stream.capacity();
            while room == 0 {
                let more = poll_fn(|cx| stream.poll_capacity(cx)).await;
                room = more.ok_or(Broken::Stream)??;
            }
        }
        let piece = data.split_to(room.min(data.len()));
        if !piece.is_empty() || ends {
            stream.send_data(piece, ends && data.is_empty())?;
        }
        if data.is_empty() {
            return Ok(());
        }
    }
}

/// Content that comes in a stream.
pub struct Content {
    stream: RecvStream,
    /// How much is still to come, if that was said.
    rest: Option<u64>,
    /// Only trailers may follow.
    is_read: bool,
    /// Who is told that the content is wanted, as long as nobody has wanted it.
    wanted: Option<mpsc::Sender<Response<()>>>,
    /// The request that it answers, and by what it is told that the answer is not read any more.
    _request: Option<(UnderWay, oneshot::Sender<()>)>,
}

impl Content {
    /// The content of a message whose head said this.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, rest: length, is_read: false, wanted: None, _request: None }
    }

    /// The same, of which its sender is told that it is wanted as soon as it is.
    pub fn wanted_by(self, sender: mpsc::Sender<Response<()>>) -> Self {
        Self { wanted: Some(sender), ..self }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(sender) = self.wanted.take() {
            let mut wanted = Response::new(());
            *wanted.status_mut() = StatusCode::CONTINUE;
            let _ = sender.try_send(wanted);
        }
        while !self.is_read {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.rest = self.rest.map(|rest| rest.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.is_read = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(BoxError::from);
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(rest) => SizeHint::with_exact(rest),
            None => SizeHint::default(),
        }
    }
}
