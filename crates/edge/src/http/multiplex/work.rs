//! What is done for one request: it is answered, its answer is sent, or its stream is a tunnel.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderName, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Collected};
use tokio::{
    io::{AsyncWrite, DuplexStream, duplex},
    sync::oneshot,
    time::Instant,
};
use tokio_util::io::poll_read_buf;

use super::shared::{Bell, Content, Shared};
use crate::{
    http::{
        answer::Answer,
        body::{Bulk, ClientBody, ResponseBody},
        date::with_date,
        headers,
        upgrade::HandedOver,
    },
    http1::Prefixed,
    http2::{Flow, Protocol, Reason},
};

/// How much of a tunnel is under way inside the edge.
const TUNNEL: usize = 64 * 1024;
/// How much is read from a tunnel at a time.
const CHUNK: usize = 16 * 1024;

/// A place for a request.
pub struct Seat {
    pub bell: Arc<Bell>,
    waker: Waker,
    work: Work,
    /// Since when there is more of an answer than its client wants.
    pub held_since: Option<Instant>,
    /// It waits in line until the connection takes more.
    pub is_in_line: bool,
}

/// What is done in it.
enum Work {
    /// Nothing.
    Nothing,
    /// The request is answered.
    Answering(BoxFuture<'static, Answer<ClientBody>>, Asked),
    /// The answer is sent: its content, of which some waits to be sent.
    Sending(Box<ClientBody>, Bytes),
    /// Bytes pass in both directions.
    Tunnel(Box<Tunnel>),
}

/// What of a request says how its answer is sent.
pub struct Asked {
    /// For the head alone.
    pub head_only: bool,
    /// What becomes of the stream if both agree on a tunnel.
    pub hand_over: Option<oneshot::Sender<HandedOver>>,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It waits for what it needs, or there is nothing to be done.
    Waits,
    /// It waits until its client wants more.
    Held,
    /// It waits until the connection takes more.
    Full,
    /// All is done.
    Over,
}

/// One step in one place.
struct Turn<'t, 'w> {
    cx: Context<'w>,
    shared: &'t Arc<Shared>,
    place: usize,
    /// Content may be sent: nobody else has waited longer for that.
    may_send: bool,
    /// All that was there of an answer went out.
    has_moved: bool,
}

impl Seat {
    /// An empty one.
    pub fn new(shared: &Arc<Shared>, place: usize) -> Self {
        let bell = Bell::new(shared, place);
        let waker = bell.clone().into();
        Self { bell, waker, work: Work::Nothing, held_since: None, is_in_line: false }
    }

    /// A request is answered in it from now on.
    pub fn begin(&mut self, answer: BoxFuture<'static, Answer<ClientBody>>, asked: Asked) {
        self.work = Work::Answering(answer, asked);
        self.bell.clone().wake();
    }

    /// Nobody waits for an answer any more.
    pub fn clear(&mut self) {
        self.work = Work::Nothing;
        self.held_since = None;
    }

    /// Goes on as far as that is possible. It `may_send` content if nobody else has waited longer for that.
    pub fn step(&mut self, shared: &Arc<Shared>, place: usize, may_send: bool) -> Step {
        let mut turn = Turn { cx: Context::from_waker(&self.waker), shared, place, may_send, has_moved: false };
        let step = loop {
            match &mut self.work {
                Work::Nothing => return Step::Waits,
                Work::Answering(answer, _) => {
                    let Poll::Ready(answer) = answer.as_mut().poll(&mut turn.cx) else { return Step::Waits };
                    let Work::Answering(_, asked) = std::mem::replace(&mut self.work, Work::Nothing) else { continue };
                    match begin(shared, place, answer, asked) {
                        Some(work) => self.work = work,
                        None => break Step::Over,
                    }
                }
                Work::Sending(body, rest) => {
                    let step = turn.send(body, rest);
                    if matches!(step, Step::Held | Step::Full) {
                        body.send_rest(&mut turn.cx);
                    }
                    break step;
                }
                Work::Tunnel(tunnel) => break tunnel.step(&mut turn),
            }
        };
        if turn.has_moved || step == Step::Waits {
            self.held_since = None;
        }
        match step {
            Step::Over => self.clear(),
            Step::Held | Step::Full => drop(self.held_since.get_or_insert_with(Instant::now)),
            Step::Waits => {}
        }
        step
    }
}

/// Begins to send an answer. Tells what is still to be done.
fn begin(shared: &Arc<Shared>, place: usize, answer: Answer<ClientBody>, asked: Asked) -> Option<Work> {
    // What was offered is kept by whoever accepts it.
    let hand_over = asked.hand_over.filter(|offer| answer.status.is_success() && !offer.is_closed());
    if let Some(hand_over) = hand_over {
        write_head(&mut shared.lock(), place, &answer, Length::Unknown, false);
        return Tunnel::new(shared, place, hand_over).map(|tunnel| Work::Tunnel(Box::new(tunnel)));
    }
    let length = Length::of(&answer, asked.head_only);
    let ends = matches!(length, Length::OfAnother | Length::None) || answer.body.is_end_stream();
    let mut protocol = shared.lock();
    write_head(&mut protocol, place, &answer, length, ends);
    if ends {
        protocol.end(place);
        return None;
    }
    Some(Work::Sending(Box::new(answer.body), Bytes::new()))
}

/// Gives an answer whose content is here, as far as the client takes it at once.
pub fn say_at_once(shared: &Arc<Shared>, place: usize, answer: Answer<ResponseBody>) {
    let mut protocol = shared.lock();
    write_head(&mut protocol, place, &answer, Length::of(&answer, false), false);
    let content = answer.body.collect().now_or_never().and_then(Result::ok);
    let mut content = content.map(Collected::to_bytes).unwrap_or_default();
    match protocol.send(place, &mut content, true) {
        Flow::Sent => protocol.end(place),
        _ => protocol.reset(place, Reason::Internal),
    }
}

/// How long the content of an answer is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// So many bytes.
    Known(u64),
    /// Its end tells.
    Unknown,
    /// There is none; what is said of its length is that of the content that there would have been.
    OfAnother,
    /// There is none, nor anything to be said of it.
    None,
}

impl Length {
    fn of<B: Body>(answer: &Answer<B>, head_only: bool) -> Self {
        match answer.status {
            _ if head_only => Self::OfAnother,
            StatusCode::NOT_MODIFIED => Self::OfAnother,
            StatusCode::NO_CONTENT => Self::None,
            _ => answer.body.size_hint().exact().map_or(Self::Unknown, Self::Known),
        }
    }
}

/// Writes an answer's head.
fn write_head<B>(protocol: &mut Protocol, place: usize, answer: &Answer<B>, length: Length, ends: bool) {
    protocol.answer(place, answer.status, ends, |encoder, out| {
        let mut is_dated = false;
        answer.fields.each(|name, value| {
            let is = |other: HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
            match name.len() {
                14 if length != Length::OfAnother && is(header::CONTENT_LENGTH) => return,
                4 => is_dated |= is(header::DATE),
                _ if headers::is_hop_by_hop(name) => return,
                _ => {}
            }
            encoder.field(out, name, value);
        });
        if let Some(signature) = &answer.signature {
            signature.each(|name, value| encoder.field(out, name.as_bytes(), value));
        }
        if !is_dated {
            with_date(|date| encoder.field(out, b"date", date.as_bytes()));
        }
        if let Length::Known(length) = length {
            encoder.field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
        }
    });
}

impl Turn<'_, '_> {
    /// Sends content as far as its client wants it and it is there. What is more waits where it comes from, but for one
    /// piece: whether that is the last one has to be known, since an end needs no room.
    fn send(&mut self, body: &mut ClientBody, rest: &mut Bytes) -> Step {
        loop {
            if rest.is_empty() {
                let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut self.cx) else { return Step::Waits };
                match frame.map(|frame| frame.map(Frame::into_data)) {
                    Some(Ok(Ok(data))) => *rest = data,
                    Some(Ok(Err(frame))) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.shared.lock().answer_trailers(self.place, &trailers);
                        return self.end();
                    }
                    None => {
                        self.shared.lock().send(self.place, rest, true);
                        return self.end();
                    }
                    // What is missing at its end tells the client that the answer is not whole.
                    Some(Err(_)) => {
                        self.shared.lock().reset(self.place, Reason::Internal);
                        return Step::Over;
                    }
                }
            }
            let ends = body.is_end_stream();
            match self.pass(rest, ends) {
                Flow::Sent if ends => return self.end(),
                Flow::Sent => {}
                Flow::Held => return Step::Held,
                Flow::Full => return Step::Full,
                Flow::Over => return Step::Over,
            }
        }
    }

    /// Sends what there is.
    fn pass(&mut self, rest: &mut Bytes, ends: bool) -> Flow {
        if !self.may_send && !rest.is_empty() {
            return Flow::Full;
        }
        let flow = self.shared.lock().send(self.place, rest, ends);
        self.has_moved |= flow == Flow::Sent;
        flow
    }

    fn end(&self) -> Step {
        self.shared.lock().end(self.place);
        Step::Over
    }
}

/// A stream whose content, in both directions, are the bytes of another protocol.
struct Tunnel {
    /// The other end is with whoever joins it with the machine.
    pipe: DuplexStream,
    content: Content,
    /// What came from the client and has not been passed on; nothing once all has.
    up: Option<Bytes>,
    /// What came from the machine and has not been sent.
    down: Bytes,
    is_down_over: bool,
    /// Where it is read to.
    room: BytesMut,
    /// Resolves once nobody has the other end any more.
    ended: oneshot::Receiver<()>,
}

impl Tunnel {
    fn new(shared: &Arc<Shared>, place: usize, hand_over: oneshot::Sender<HandedOver>) -> Option<Self> {
        let id = shared.lock().id(place)?;
        let (pipe, theirs) = duplex(TUNNEL);
        let (held, ended) = oneshot::channel();
        let _ = hand_over.send(HandedOver { stream: Prefixed::new(Bytes::new(), Box::new(theirs)), held });
        let (content, up) = (Content::new(shared, place, id), Some(Bytes::new()));
        Some(Self { pipe, content, up, down: Bytes::new(), is_down_over: false, room: BytesMut::new(), ended })
    }

    fn step(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        if self.pass_up(&mut turn.cx).is_err() {
            turn.shared.lock().reset(turn.place, Reason::Cancel);
            return Step::Over;
        }
        let step = self.pass_down(turn);
        let mut is_over = |ended: &mut oneshot::Receiver<()>| Pin::new(ended).poll(&mut turn.cx).is_ready();
        if step == Step::Over || (self.is_down_over && (self.up.is_none() || is_over(&mut self.ended))) {
            return turn.end();
        }
        step
    }

    /// Passes on what the client says. Fails if the client has gone.
    fn pass_up(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        while let Some(up) = &mut self.up {
            if !up.is_empty() {
                match Pin::new(&mut self.pipe).poll_write(cx, up) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(written)) => up.advance(written),
                    // Nobody listens.
                    Poll::Ready(Err(_)) => self.up = None,
                }
                continue;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.content).poll_frame(cx) else { return Ok(()) };
            match frame {
                Some(Ok(frame)) => *up = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Err(()),
                None if Pin::new(&mut self.pipe).poll_shutdown(cx).is_pending() => return Ok(()),
                None => self.up = None,
            }
        }
        Ok(())
    }

    /// Sends what the machine says.
    fn pass_down(&mut self, turn: &mut Turn<'_, '_>) -> Step {
        while !self.is_down_over {
            if self.down.is_empty() {
                self.room.reserve(CHUNK);
                let read = poll_read_buf(Pin::new(&mut self.pipe), &mut turn.cx, &mut self.room);
                let Poll::Ready(read) = read else { return Step::Waits };
                self.down = self.room.split().freeze();
                self.is_down_over = !read.is_ok_and(|read| read > 0);
            }
            match turn.pass(&mut self.down, self.is_down_over) {
                Flow::Sent => {}
                Flow::Held => return Step::Held,
                Flow::Full => return Step::Full,
                Flow::Over => return Step::Over,
            }
        }
        Step::Waits
    }
}
