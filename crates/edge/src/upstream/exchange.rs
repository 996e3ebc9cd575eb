//! One request and its answer over an HTTP/1.1 connection to a machine.
//!
//! ```text
//!           ┌────────────── send: head, content as it comes ──────────────┐
//!  link ────┤                                                             ├──▶ link, if both have ended
//!           └─ receive: [1xx …] head ─▶ answer │ content as it comes ─────┘    and neither says that it is the last
//! ```
//!
//! Both go on at the same time: an answer may come before its request has ended, and a machine that takes no more may
//! still have answered. Content that the client holds back until it is wanted (`Expect: 100-continue`) waits for the
//! machine to say so, or to answer without it; a machine that says neither for a while gets it all the same, since many
//! know nothing of it (RFC 9110, 10.1.1).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use tokio::{task::yield_now, time::Instant};

use super::{AnswerBody, Answered, Line, RequestBody, pool::Home};
use crate::{
    http::{Interim, has_token},
    http1::{
        Alarm, AnswerHead, BadHead, Decoder, Encoder, Framing, Piece, Prefixed, Seen, Wire, announce, take_answer,
        write_request_fields, write_request_line,
    },
    machine::Machine,
    options::BoxError,
    replay::Head,
    splice::{Pipe, Stream, WORTHWHILE},
};

/// How long a machine may take to say whether it wants content.
pub const UNDECIDED: Duration = Duration::from_secs(1);
/// How many interim answers are passed on before a final one has to come.
pub const MAX_INTERIM: u32 = 16;

/// A connection to a machine between two requests.
pub struct Link {
    wire: Wire<Line>,
    alarm: Alarm,
    _counted: Connected,
}

impl Link {
    /// A connection that was just made.
    pub fn new(stream: Line, machine: Arc<Machine>) -> Box<Self> {
        Box::new(Self { wire: Wire::new(stream), alarm: Alarm::default(), _counted: Connected(machine) })
    }

    /// Whether another request can be sent: the machine has neither closed it nor said anything unasked.
    pub fn is_good(&mut self) -> bool {
        self.wire.is_silent(&mut Context::from_waker(Waker::noop()))
    }

    fn into_stream(self) -> Prefixed<Line> {
        let Wire { stream, inbox, .. } = self.wire;
        Prefixed::new(inbox.freeze(), stream)
    }
}

/// A connection to a machine, counted at its end.
struct Connected(Arc<Machine>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.metrics().disconnects.one();
    }
}

/// How much, how long.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Bytes of an answer's head.
    pub head_bytes: usize,
    /// From the end of a request to the head of its answer.
    pub answer: Duration,
}

/// There is no answer.
#[derive(Debug)]
pub struct Lost {
    /// Why.
    pub why: Why,
    /// Whether not a byte of the request was sent.
    pub untouched: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Why {
    /// The connection ended or broke.
    Closed(io::Error),
    /// What came is no answer.
    Bad(BadHead),
    /// More interim answers came than anybody needs.
    TooManyInterim,
    /// The request's own content broke off.
    Client(BoxError),
    /// It did not come in time.
    Late,
}

/// Sends a request, from now on, and waits for the head of its answer.
pub async fn exchange(
    link: Box<Link>,
    head: &Head,
    body: RequestBody,
    patience: Patience,
    now: Instant,
    home: Option<Home>,
    interim: &Interim,
) -> Result<Answered, Lost> {
    let mut sending = Sending::begin(link, head, body);
    let mut receiving = Receiving::new(&head.method, patience.head_bytes, interim);
    sending.link.alarm.off();
    if sending.holds {
        sending.link.alarm.set(now + UNDECIDED);
    }
    let (mut timed, mut now) = (false, Some(now));
    let received = poll_fn(|cx| {
        // Most requests are sent at once.
        let now = now.take();
        loop {
            if let Poll::Ready(sent) = sending.poll(cx)
                && !timed
            {
                sent.map_err(Why::Client)?;
                timed = true;
                sending.link.alarm.set(now.unwrap_or_else(Instant::now) + patience.answer);
            }
            match receiving.poll_head(cx, &mut sending.link.wire) {
                Poll::Ready(Err(Why::Closed(error))) => {
                    return Poll::Ready(Err(Why::Closed(sending.refused.take().unwrap_or(error))));
                }
                Poll::Ready(head) => return Poll::Ready(head),
                Poll::Pending => {}
            }
            let rings = sending.link.alarm.poll(cx).is_ready();
            // Once all is sent, or can be sent no more, there is nothing to hold back.
            if !sending.holds || timed {
                return if rings { Poll::Ready(Err(Why::Late)) } else { Poll::Pending };
            }
            if !rings && !receiving.is_wanted {
                return Poll::Pending;
            }
            sending.holds = false;
            sending.link.alarm.off();
        }
    })
    .await;
    match received {
        Ok(head) => {
            if is_about_to_come(head.framing) && sending.link.wire.inbox.is_empty() {
                let untouched = sending.is_untouched();
                let filled = fill_in_a_moment(&mut sending.link.wire).await;
                filled.map_err(|error| Lost { why: Why::Closed(error), untouched })?;
            }
            Ok(AnswerContent::begin(sending, head, home))
        }
        Err(why) => Err(Lost { why, untouched: sending.is_untouched() }),
    }
}

/// Whether content can be expected to follow its head at once. Much of it goes past the edge.
fn is_about_to_come(framing: Framing) -> bool {
    match framing {
        Framing::Length(length) => (1..WORTHWHILE as u64).contains(&length),
        Framing::Chunked => true,
        Framing::Empty | Framing::ToClose => false,
    }
}

/// Many programs write an answer's head by itself and its content right after. Whoever looks in between would pass on two
/// pieces, each with all that a packet, a record or a frame costs at both sides. So others get their turn first; nobody
/// waits.
async fn fill_in_a_moment(wire: &mut Wire<Line>) -> io::Result<()> {
    yield_now().await;
    poll_fn(|cx| match wire.poll_fill(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        // Nothing yet, or some; an end will be met again.
        Poll::Ready(Ok(_)) | Poll::Pending => Poll::Ready(Ok(())),
    })
    .await
}

/// A request that is being sent.
struct Sending {
    link: Box<Link>,
    /// What is still to come of its content.
    content: Option<RequestBody>,
    encoder: Encoder,
    /// The content is held back until the machine wants it.
    holds: bool,
    /// How many bytes had been written before it.
    before: u64,
    /// What was said when the machine took no more.
    refused: Option<io::Error>,
}

impl Sending {
    /// Writes the head; where nothing says how long the content is, it goes in chunks.
    fn begin(mut link: Box<Link>, head: &Head, content: RequestBody) -> Self {
        let before = link.wire.written();
        let text = link.wire.outbox.text();
        text.reserve(512 + head.target().len() + head.fields.count() * 48);
        write_request_line(text, &head.method, head.target());
        head.own.iter().for_each(|own| own.write(text));
        let announced = write_request_fields(text, &head.fields);
        let framing = match content.size_hint().exact() {
            _ if content.is_end_stream() && announced => Framing::Length(0),
            _ if content.is_end_stream() => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        text.extend_from_slice(head.common.as_ref().map_or(&[], |common| common.lines()));
        announce(text, framing);
        text.extend_from_slice(b"\r\n");
        let content = (!content.is_end_stream()).then_some(content);
        let holds = content.is_some() && head.first(&EXPECT).is_some_and(|expect| has_token(expect, "100-continue"));
        Self { link, content, encoder: Encoder::new(framing), holds, before, refused: None }
    }

    fn is_untouched(&self) -> bool {
        self.link.wire.written() == self.before
    }

    /// Sends what there is. Ready once all of it is sent, or the machine takes no more, or the content broke off.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while self.refused.is_none() {
            if !self.holds {
                self.fill(cx)?;
            }
            if self.link.wire.is_flushed() {
                return if self.content.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            if let Err(error) = ready!(self.link.wire.poll_flush(cx)) {
                self.refused = Some(error);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what there is of the content, as long as there is room for it.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), BoxError> {
        let outbox = &mut self.link.wire.outbox;
        while let Some(content) = self.content.as_mut().filter(|_| !outbox.is_full()) {
            let Poll::Ready(frame) = Pin::new(&mut *content).poll_frame(cx) else { return Ok(()) };
            let (mut is_last, mut trailers) = (frame.is_none() || content.is_end_stream(), None);
            match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.encoder.data(outbox, data)?,
                Some(Err(frame)) => (is_last, trailers) = (true, frame.into_trailers().ok()),
                None => {}
            }
            if is_last {
                self.content = None;
                self.encoder.end(outbox, trailers.as_ref())?;
            }
        }
        Ok(())
    }
}

/// An answer's head that is being received.
struct Receiving<'a> {
    seen: Seen,
    /// How many interim answers have come.
    before: u32,
    /// One of them said that the content is wanted.
    is_wanted: bool,
    limit: usize,
    method: &'a Method,
    interim: &'a Interim,
}

impl<'a> Receiving<'a> {
    fn new(method: &'a Method, limit: usize, interim: &'a Interim) -> Self {
        Self { seen: Seen::default(), before: 0, is_wanted: false, limit, method, interim }
    }

    /// Passes on interim answers, and waits for the head of the final one.
    fn poll_head(&mut self, cx: &mut Context<'_>, wire: &mut Wire<Line>) -> Poll<Result<AnswerHead, Why>> {
        loop {
            match take_answer(&mut wire.inbox, &mut self.seen, self.limit, self.method).map_err(Why::Bad)? {
                Some(head) if is_final(head.status) => return Poll::Ready(Ok(head)),
                Some(_) if self.before >= MAX_INTERIM => return Poll::Ready(Err(Why::TooManyInterim)),
                Some(head) => {
                    self.before += 1;
                    if head.status == StatusCode::CONTINUE {
                        self.is_wanted = true;
                    } else {
                        self.interim.tell(head.status, head.fields.into_map());
                    }
                }
                None if ready!(wire.poll_fill(cx)).map_err(Why::Closed)? == 0 => {
                    let said =
                        if wire.inbox.is_empty() { "it said nothing" } else { "it broke off in its first lines" };
                    return Poll::Ready(Err(Why::Closed(io::Error::new(io::ErrorKind::UnexpectedEof, said))));
                }
                None => {}
            }
        }
    }
}

/// An interim answer is followed by another one (RFC 9110, 15.2); one that switches protocols is not.
fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

/// The content of an answer, as it comes. What is left of the request is sent meanwhile.
pub struct AnswerContent {
    sending: Option<Sending>,
    decoder: Decoder,
    /// Where the connection goes, if it can be used again.
    home: Option<Home>,
    switched: bool,
}

impl AnswerContent {
    fn begin(mut sending: Sending, head: AnswerHead, home: Option<Home>) -> Answered {
        let AnswerHead { status, version, fields, framing, keeps_alive } = head;
        // Who answers well before the content has come may read it meanwhile.
        sending.holds &= !status.is_success();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        let home = home.filter(|_| keeps_alive && !switched);
        let mut content = Self { sending: Some(sending), decoder: Decoder::new(framing), home, switched };
        content.end_if_ended();
        Answered { status, version, fields, body: AnswerBody::Http1(content) }
    }

    /// The connection, once the machine has switched protocols.
    pub fn into_stream(mut self) -> Option<Prefixed<Line>> {
        let sending = self.sending.take().filter(|_| self.switched)?;
        Some(sending.link.into_stream())
    }

    /// Once the content has ended, the connection goes to where it can be used again.
    fn end_if_ended(&mut self) {
        if !self.decoder.is_ended() || self.switched {
            return;
        }
        let Some(Sending { mut link, content: None, refused: None, .. }) = self.sending.take() else { return };
        if let Some(home) = self.home.take()
            && link.wire.is_flushed()
            && link.wire.inbox.is_empty()
        {
            link.wire.rest();
            home.take(link);
        }
    }

    /// Whether so much is still to come that it is worth moving it past the edge: nothing of it has been read, and
    /// nothing of the request is left to be sent meanwhile.
    pub fn is_bulk(&self) -> bool {
        let is_long = self.decoder.rest().is_some_and(|rest| rest >= WORTHWHILE as u64);
        let is_free = |sending: &Sending| {
            let wire = &sending.link.wire;
            let is_sent = sending.content.is_none() && (wire.is_flushed() || sending.refused.is_some());
            is_sent && wire.inbox.is_empty() && wire.stream.bare().is_some()
        };
        is_long && self.sending.as_ref().is_some_and(is_free)
    }

    /// Moves content into a pipe. Tells how much.
    pub fn poll_past(&mut self, cx: &mut Context<'_>, pipe: &mut Pipe) -> Poll<Result<usize, BoxError>> {
        let (Some(sending), Some(rest)) = (&self.sending, self.decoder.rest()) else { return Poll::Ready(Ok(0)) };
        let Some(source) = sending.link.wire.stream.bare() else { return Poll::Ready(Ok(0)) };
        let taken = ready!(pipe.poll_fill(cx, source, rest))?;
        if taken == 0 {
            self.decoder.cut_off()?;
        }
        self.decoder.passed_by(taken as u64);
        self.end_if_ended();
        Poll::Ready(Ok(taken))
    }

    /// Sends what there is of the request, while nobody reads the answer.
    pub fn send_rest(&mut self, cx: &mut Context<'_>) {
        if let Some(sending) = &mut self.sending {
            let _ = sending.poll(cx);
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BoxError>> {
        let Some(sending) = &mut self.sending else { return Poll::Ready(Ok(Piece::End)) };
        // Whatever becomes of the rest of the request: the answer may come whole.
        let _ = sending.poll(cx);
        let wire = &mut sending.link.wire;
        loop {
            match self.decoder.next(&mut wire.inbox)? {
                Piece::More => {}
                piece => return Poll::Ready(Ok(piece)),
            }
            if ready!(wire.poll_fill_with(cx, self.decoder.wants()))? == 0 {
                self.decoder.cut_off()?;
            }
        }
    }
}

impl Body for AnswerContent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = match ready!(self.poll_piece(cx)) {
            Ok(piece) => piece,
            Err(error) => {
                self.sending = None;
                return Poll::Ready(Some(Err(error)));
            }
        };
        self.end_if_ended();
        Poll::Ready(match piece {
            Piece::Data(data) => Some(Ok(Frame::data(data))),
            Piece::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Piece::End | Piece::More => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.rest().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::plain::Plain;

    #[tokio::test]
    async fn content_goes_past_the_edge_only_once_the_request_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let machine = Arc::new(Machine::new(model::MachineId::from_random([1; 7])));
        let mut link = Link::new(Line::Left(Plain::new(stream)), machine);
        link.wire.outbox.text().extend_from_slice(b"the end of the request");
        let sending = Sending {
            link,
            content: None,
            encoder: Encoder::new(Framing::Empty),
            holds: false,
            before: 0,
            refused: None,
        };
        let decoder = Decoder::new(Framing::Length(10 * WORTHWHILE as u64));
        let mut content = AnswerContent { sending: Some(sending), decoder, home: None, switched: false };
        assert!(!content.is_bulk(), "nobody would send what is left");
        poll_fn(|cx| {
            content.send_rest(cx);
            Poll::Ready(())
        })
        .await;
        assert!(content.is_bulk());
    }
}
