//! Requests over HTTP/2 to a machine, or to the worker of another host: many at a time over one connection.
//!
//! ```text
//!  request ─▶ head ────────────────▶│        │─▶ interim answers, told ─▶ head of the answer
//!             content, as it is ───▶│ stream │
//!             wanted, pumped        │        │─▶ content, as it is read
//! ```
//!
//! The library is used directly: what is built upon it passes on no interim answers, and takes an answer that was
//! cancelled for one that has ended.

use std::{
    future::{pending, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

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
/// After so long the other side of a connection between hosts is asked whether it is there; so long it has to answer.
const QUIET: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(10);

/// Makes connections over HTTP/2.
pub struct Http2 {
    settings: client::Builder,
    /// What is still to be sent when an answer has begun is sent by these.
    tasks: TaskTracker,
}

/// What carries a connection. It has to be run.
pub type Carrying<S> = client::Connection<Gathered<S>, Bytes>;

impl Http2 {
    /// As the edge speaks it.
    pub fn new(tasks: TaskTracker) -> Self {
        let mut settings = client::Builder::new();
        settings.initial_window_size(STREAM_WINDOW).initial_connection_window_size(MAX_WINDOW);
        settings.enable_push(false).max_header_list_size(64 * 1024);
        Self { settings, tasks }
    }

    /// Begins to speak it.
    pub async fn begin<S>(&self, stream: S) -> Result<(Requests, Carrying<S>), h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (handle, carrying) = self.settings.handshake(Gathered::new(stream)).await?;
        Ok((Requests { handle, tasks: self.tasks.clone() }, carrying))
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
    handle: client::SendRequest<Bytes>,
    tasks: TaskTracker,
}

/// Why there is no answer.
pub enum NoAnswer {
    /// The connection takes no more requests. Nothing was sent.
    Unsent(h2::Error, RequestBody),
    /// The request's own content broke off.
    Client(BoxError),
    /// More interim answers came than anybody needs.
    TooManyInterim,
    /// The stream, or the connection, ended without one.
    Ended(h2::Error),
}

impl Requests {
    /// Whether it takes requests, as far as that is known.
    pub fn is_good(&self) -> bool {
        let ready = self.handle.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(ready, Poll::Ready(Err(_)))
    }

    /// Sends a request and waits for the head of its answer. `interim` is told what comes before it.
    pub async fn send(self, request: Request<RequestBody>, interim: &Interim) -> Result<Response<Content>, NoAnswer> {
        let (mut head, content) = request.into_parts();
        tell_length(&mut head.headers, &content, |length| length > 0 || has_content(&head.method));
        let ends = content.is_end_stream();
        let mut holds = !ends && is_expecting(&head.headers);
        let mut handle = match self.handle.ready().await {
            Ok(handle) => handle,
            Err(error) => return Err(NoAnswer::Unsent(error, content)),
        };
        let (mut answer, stream) = match handle.send_request(Request::from_parts(head, ()), ends) {
            Ok(sent) => sent,
            Err(error) => return Err(NoAnswer::Unsent(error, content)),
        };
        let mut pumping = (!ends).then(|| pump(content, stream).boxed());
        let mut undecided = holds.then(|| Box::pin(sleep(UNDECIDED)));
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
                        before += 1;
                        if before > MAX_INTERIM {
                            return Poll::Ready(Err(NoAnswer::TooManyInterim));
                        }
                        match said.status {
                            StatusCode::CONTINUE => holds = false,
                            status => interim.tell(status, said.headers),
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
        if let Some(pump) = pumping.filter(|_| !holds || answer.status().is_success()) {
            self.tasks.spawn(pump);
        }
        let (head, stream) = answer.into_parts();
        let content = Content::new(stream, &head.headers);
        Ok(Response::from_parts(head, content))
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
    let mut content = pin!(content);
    loop {
        // However little room there is, the library keeps what does not fit of one piece.
        stream.reserve_capacity(1);
        let next = poll_fn(|cx| match is_taken(&mut stream, cx) {
            Some(true) => content.as_mut().poll_frame(cx).map(Some),
            Some(false) => Poll::Pending,
            None => Poll::Ready(None),
        });
        let Some(frame) = next.await else { return Ok(()) };
        let sent = match frame.transpose() {
            Ok(None) => stream.send_data(Bytes::new(), true).map(|()| true),
            Ok(Some(frame)) => match frame.into_data() {
                Ok(data) => {
                    let is_last = content.is_end_stream();
                    stream.send_data(data, is_last).map(|()| is_last)
                }
                Err(frame) => {
                    // There is no more content, so room is given back.
                    stream.reserve_capacity(0);
                    stream.send_trailers(frame.into_trailers().unwrap_or_default()).map(|()| true)
                }
            },
            Err(error) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Err(error);
            }
        };
        // What is not taken any more is over, too.
        if sent.unwrap_or(true) {
            return Ok(());
        }
    }
}

/// Whether the other side takes something now; nothing if it never will again.
fn is_taken(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Option<bool> {
    if stream.poll_reset(cx).is_ready() {
        return None;
    }
    while stream.capacity() == 0 {
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(_) => return None,
            Poll::Pending => return Some(false),
        }
    }
    Some(true)
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
}

impl Content {
    /// The content of a message whose head said this.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, rest: length, is_read: false, wanted: None }
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
