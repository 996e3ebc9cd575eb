//! The content of messages in streams of HTTP/2: sent as the other side takes it, read as it comes.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::streams::Reading;
use crate::{http::has_token, options::BoxError};

/// Pieces of content that are there and shorter than this are sent as one.
const GATHERED: usize = 4 * 1024;

/// Whether the sender of a request waits to be told that its content is wanted (RFC 9110, 10.1.1).
pub fn is_expecting(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expect| has_token(expect, "100-continue"))
}

/// Whether a request of this method says how long its content is even if there is none (RFC 9110, 8.6).
pub fn always_tells_length(method: &Method) -> bool {
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
    /// The request that it answers.
    _answers: Option<Reading>,
}

impl Content {
    /// The content of a message whose head said this.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, rest: length, is_read: false, wanted: None, _answers: None }
    }

    /// The same, of an answer to this request.
    pub fn answering(self, request: Reading) -> Self {
        Self { _answers: Some(request), ..self }
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
