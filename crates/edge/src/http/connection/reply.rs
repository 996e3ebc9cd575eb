//! Writing an answer to a client's connection.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, Version};
use http_body::{Body, Frame};

use super::content::{Conversation, Talk};
use crate::{
    http::{answer::Answer, body::Bulk, date::with_date},
    http1::{Encoder, Framing, Outbox, RequestHead, announce, write_answer, write_field},
    options::BoxError,
    splice::Pipe,
};

/// What of a request says how its answer is written.
#[derive(Default)]
pub struct Asked {
    /// By HTTP/1.0: no chunks, and the connection ends unless both say otherwise.
    pub old: bool,
    /// For the head alone.
    head_only: bool,
    /// The client reads trailers.
    trailers: bool,
    /// The client waits to be told that its content is wanted.
    pub waits: bool,
}

impl Asked {
    /// What a request says.
    pub fn of(head: &RequestHead) -> Self {
        let old = head.version == Version::HTTP_10;
        Self { old, head_only: head.method == Method::HEAD, trailers: head.reads_trailers, waits: !old && head.waits }
    }
}

/// An answer on its way to the client.
pub struct Reply<B> {
    body: Option<B>,
    encoder: Encoder,
    trailers: bool,
    keeps_alive: bool,
    /// There is no room for more of it until something has left.
    is_full: bool,
    /// Why there is no more of it. What there was goes out first.
    broken: Option<BoxError>,
    pipe: Pipe,
}

/// What came of writing an answer.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Whether the connection may go on.
    pub keeps_alive: bool,
    /// Whether the request's content was read to its end.
    pub is_read: bool,
}

impl<B> Reply<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Bulk + Unpin,
{
    /// Writes the head. `keeps_alive` says whether the connection may go on after it.
    pub fn begin(talk: &Talk, answer: Answer<B>, asked: &Asked, keeps_alive: bool) -> Self {
        let framing = framing(answer.status, &answer.body, asked);
        let is_here = framing != Framing::Empty && !answer.body.is_end_stream();
        let mut conversation = talk.lock();
        // Whoever was never asked for his content may send it or not: what comes next would be either. From here on it is
        // too late to ask.
        let keeps_alive = !std::mem::take(&mut conversation.waits) && keeps_alive;
        let text = conversation.wire.outbox.text();
        let keeps_alive = write_head(text, &answer, asked, keeps_alive && framing != Framing::ToClose);
        announce(text, framing);
        text.extend_from_slice(b"\r\n");
        let body = Some(answer.body).filter(|_| is_here);
        let (encoder, is_full) = (Encoder::new(framing), conversation.wire.outbox.is_full());
        let (trailers, pipe) = (asked.trailers, Pipe::default());
        let mut reply = Self { body, encoder, trailers, keeps_alive, is_full, broken: None, pipe };
        if reply.body.is_none() && framing != Framing::Empty {
            reply.keeps_alive &= encoder.end(&mut conversation.wire.outbox, None).is_ok();
        }
        reply
    }

    /// Writes it to its end.
    pub async fn write(&mut self, talk: &Talk) -> Result<Done, BoxError> {
        poll_fn(|cx| self.poll(cx, talk)).await
    }

    /// Takes what there is of the body, as long as there is room for it, and writes it. The body may be fed by the
    /// connection itself, which therefore is not locked while the body is asked.
    pub fn poll(&mut self, cx: &mut Context<'_>, talk: &Talk) -> Poll<Result<Done, BoxError>> {
        loop {
            let is_bulk = self.is_bulk(talk);
            let piece = match &mut self.body {
                Some(body) if !is_bulk && !self.is_full => {
                    Pin::new(&mut *body).poll_frame(cx).map(|frame| (frame, body.is_end_stream()))
                }
                Some(body) => {
                    body.send_rest(cx);
                    Poll::Pending
                }
                None => Poll::Pending,
            };
            let mut conversation = talk.lock();
            let wire = &mut conversation.wire;
            if let Poll::Ready((frame, is_last)) = piece {
                if let Err(error) = self.take(frame, is_last, &mut wire.outbox) {
                    (self.body, self.broken) = (None, Some(error));
                }
                self.is_full = wire.outbox.is_full();
                if self.body.is_some() && !self.is_full {
                    continue;
                }
            }
            let was_flushed = wire.is_flushed();
            if !was_flushed {
                let flushed = wire.poll_flush(cx);
                self.is_full = wire.outbox.is_full();
                ready!(flushed)?;
            }
            if let Some(error) = self.broken.take() {
                return Poll::Ready(Err(error));
            }
            if self.body.is_none() {
                let is_read = conversation.end_turn();
                return Poll::Ready(Ok(Done { keeps_alive: self.keeps_alive, is_read }));
            }
            if was_flushed && (!is_bulk || self.poll_bulk(cx, &mut conversation)?.is_pending()) {
                if conversation.is_gone(cx) {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()));
                }
                return Poll::Pending;
            }
        }
    }

    /// Whether what comes next goes past the edge, or is on its way.
    fn is_bulk(&mut self, talk: &Talk) -> bool {
        let comes = self.body.as_mut().is_some_and(|body| body.bulk().is_some());
        !self.pipe.is_empty() || (comes && talk.lock().wire.stream.bare().is_some())
    }

    /// Moves some of the body inside the kernel.
    fn poll_bulk(&mut self, cx: &mut Context<'_>, conversation: &mut Conversation) -> Poll<Result<(), BoxError>> {
        let stream = &mut conversation.wire.stream;
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if let Some(content) = body.bulk().filter(|_| self.pipe.is_empty()) {
            let taken = ready!(content.poll_past(cx, &mut self.pipe)).inspect_err(|error| body.broke_off(error))?;
            self.encoder.passed_by(taken as u64);
            body.went_past(taken);
        }
        while !self.pipe.is_empty() {
            let Some(socket) = stream.bare() else { break };
            let Poll::Ready(given) = self.pipe.poll_drain(cx, socket) else {
                return stream.poll_stalled(cx).map(|stalled| Err(stalled.into()));
            };
            stream.went_past(given?);
        }
        if body.is_end_stream() {
            self.body = None;
            self.encoder.end(&mut conversation.wire.outbox, None)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes one piece of the body, or its end.
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BoxError>>,
        is_last: bool,
        outbox: &mut Outbox,
    ) -> Result<(), BoxError> {
        let (mut is_last, mut trailers) = (is_last || frame.is_none(), None);
        match frame.transpose()?.map(Frame::into_data) {
            Some(Ok(data)) => self.encoder.data(outbox, data)?,
            Some(Err(frame)) => (is_last, trailers) = (true, frame.into_trailers().ok()),
            None => {}
        }
        if is_last {
            self.body = None;
            self.encoder.end(outbox, trailers.as_ref().filter(|_| self.trailers))?;
        }
        Ok(())
    }
}

/// How the answer is framed.
fn framing<B: Body>(status: StatusCode, body: &B, asked: &Asked) -> Framing {
    let bare = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if asked.head_only || bare {
        return Framing::Empty;
    }
    match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if asked.old => Framing::ToClose,
        None => Framing::Chunked,
    }
}

/// Writes the head but for the fields that frame what follows. Tells whether the connection goes on, which it does if it
/// may and nothing was said against it.
fn write_head<B>(text: &mut BytesMut, answer: &Answer<B>, asked: &Asked, may_go_on: bool) -> bool {
    let version = if asked.old { Version::HTTP_10 } else { Version::HTTP_11 };
    // Where there is no content its length is what it would have been.
    let tells_length = asked.head_only || answer.status == StatusCode::NOT_MODIFIED;
    let written = write_answer(text, version, answer.status, &answer.fields, tells_length);
    if let Some(signature) = &answer.signature {
        signature.write(text);
    }
    if !written.date {
        with_date(|date| write_field(text, "date", date.as_bytes()));
    }
    let keeps_alive = may_go_on && !written.closes && !answer.is_last;
    match (written.connection, keeps_alive) {
        (false, false) if answer.status != StatusCode::SWITCHING_PROTOCOLS => write_field(text, "connection", b"close"),
        (false, true) if asked.old => write_field(text, "connection", b"keep-alive"),
        _ => {}
    }
    keeps_alive
}
