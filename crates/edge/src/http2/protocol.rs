//! What is under way on one connection, and what both sides may still say.

mod sending;

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use thiserror::Error;

use super::{
    floods::{Flood, Floods},
    frame::{
        self, ACK, END_HEADERS, END_STREAM, FrameHead, HEAD, Kind, MAX_31, MAX_PAYLOAD, PADDED, PREFACE, PRIORITY,
        Reason, setting,
    },
    hpack::{Decoder, Encoder, List},
    request::{self, BadRequest, RequestHead},
    stream::{Incoming, Over, Piece, Stream},
};
use crate::http1::BadHead;

/// How much content may come before it is read: of one stream, and of all of a connection. Some that are not read leave
/// room for others.
const STREAM_ROOM: u32 = 1 << 20;
const CONNECTION_ROOM: u32 = 4 << 20;
/// The window that both sides begin with (RFC 9113, 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// So much may wait to be written before more content is taken.
const FULL: usize = 64 * 1024;
/// Of how many parts one block of fields may consist.
const MAX_PARTS: u32 = 16;
/// Streams up to this one may be more than a client may have while it does not know how many these are.
const EARLY: u32 = 2000;
/// How many streams are remembered that were ended before their client had ended them: what it still sends is passed over.
const REMEMBERED: usize = 512;
/// What is asked when we say goodbye: once it is answered, the client knows, and begins nothing more.
const GOODBYE: [u8; 8] = *b"dunlin:)";
/// What is asked when nothing has been heard for long.
const ALIVE: [u8; 8] = *b"dunlin:?";

/// How much a client may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the fields of a request.
    pub header_bytes: usize,
    /// Requests at a time.
    pub streams: usize,
}

/// What has come.
#[derive(Debug)]
pub enum Event {
    /// A request begins.
    Begun {
        /// The place that it has until it is over.
        place: usize,
        /// The number of its stream.
        id: u32,
        /// Content follows.
        has_content: bool,
        /// What it says.
        head: Box<RequestHead>,
    },
    /// The same, but it says more than may be.
    TooMuch(usize, BadHead),
    /// The request of this place is over: nobody waits for an answer.
    Over(usize),
}

/// The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Broken {
    /// The client has broken the rules.
    #[error("its client breaks the rules of HTTP/2: {1} ({0:?})")]
    Rules(Reason, &'static str),
    /// It says too much.
    #[error("its client sends too many {}", .0.0)]
    Flood(Flood),
}

/// What became of content that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// All of it is on its way.
    Sent,
    /// The rest has to wait until the client wants more of this stream.
    Held,
    /// The rest has to wait until the connection takes more.
    Full,
    /// Nobody waits for it any more.
    Over,
}

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Preface,
    Settings,
    Open,
}

/// How far we have said goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The client has been told, and may not know yet.
    Told,
    /// It knows, too: what it begins is not served.
    Known,
}

/// A block of fields that is not whole.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    is_bad: bool,
    parts: u32,
    bytes: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Protocol {
    /// What is to be written.
    pub out: BytesMut,
    limits: Limits,
    stage: Stage,
    leaving: Leaving,
    floods: Floods,
    decoder: Decoder,
    encoder: Encoder,
    block: Option<Block>,
    /// The places of those that are under way.
    places: BTreeMap<u32, usize>,
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// The last stream that a client has begun.
    last: u32,
    /// Streams that were ended before their client had ended them.
    cut: VecDeque<u32>,
    /// How much we may send.
    window: i64,
    /// The same of each new stream.
    first_window: u32,
    /// How much content was sent in all.
    pub sent: u64,
    /// The client has read how it is to speak to us.
    is_acknowledged: bool,
    /// How much may come.
    room: i64,
    /// How much was read since the client was told of room.
    taken: u32,
    /// Places whose streams can be sent again.
    open: Vec<usize>,
}

impl Protocol {
    /// A connection that begins.
    pub fn new(limits: Limits) -> Self {
        let mut out = BytesMut::with_capacity(1024);
        let short = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        frame::write_settings(
            &mut out,
            &[
                (setting::MAX_CONCURRENT_STREAMS, short(limits.streams)),
                (setting::INITIAL_WINDOW_SIZE, STREAM_ROOM),
                (setting::MAX_HEADER_LIST_SIZE, short(limits.header_bytes)),
                (setting::ENABLE_CONNECT_PROTOCOL, 1),
            ],
        );
        frame::write_window(&mut out, 0, CONNECTION_ROOM - FIRST_WINDOW);
        Self {
            out,
            limits,
            stage: Stage::Preface,
            leaving: Leaving::No,
            floods: Floods::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            block: None,
            places: BTreeMap::new(),
            streams: Vec::new(),
            free: Vec::new(),
            last: 0,
            cut: VecDeque::new(),
            window: FIRST_WINDOW.into(),
            first_window: FIRST_WINDOW,
            sent: 0,
            is_acknowledged: false,
            room: CONNECTION_ROOM.into(),
            taken: 0,
            open: Vec::new(),
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether the client has begun to say something and has not ended it: how it begins, or the fields of a request.
    pub fn is_amid(&self) -> bool {
        self.stage != Stage::Open || self.block.is_some()
    }

    /// Whether we have said goodbye and nothing is left to be done.
    pub fn is_done(&self) -> bool {
        self.leaving == Leaving::Known && self.is_idle()
    }

    /// Whether more waits to be written than should: a client that does not read it is not heard any longer.
    pub fn is_choked(&self) -> bool {
        self.out.len() >= 2 * FULL
    }

    /// Whether the connection takes content.
    pub fn takes(&self) -> bool {
        self.window > 0 && self.out.len() < FULL
    }

    /// A place whose stream can be sent again, though it was held.
    pub fn opened(&mut self) -> Option<usize> {
        self.open.pop()
    }

    /// The number of the stream in a place.
    pub fn id(&self, place: usize) -> Option<u32> {
        Some(self.streams.get(place)?.as_ref()?.id)
    }

    /// Says goodbye: what is under way is ended, nothing more is begun (RFC 9113, 6.8).
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Told;
            frame::write_goaway(&mut self.out, MAX_31, Reason::NoError);
            frame::write_ping(&mut self.out, 0, GOODBYE);
        }
    }

    /// Names the last stream that is served, though the client has not said that it knows of the goodbye.
    pub fn insist(&mut self) {
        if self.leaving == Leaving::Told {
            self.leaving = Leaving::Known;
            frame::write_goaway(&mut self.out, self.last, Reason::NoError);
        }
    }

    /// Ends all that is under way: whoever reads content is told.
    pub fn end_all(&mut self) {
        (0..self.streams.len()).for_each(|place| self.forget(place));
    }

    /// Asks whether the client is there.
    pub fn ask(&mut self) {
        frame::write_ping(&mut self.out, 0, ALIVE);
    }

    /// Gives back what is held for nothing while nothing is under way.
    pub fn rest(&mut self) {
        if self.out.is_empty() && self.is_idle() {
            self.out = BytesMut::new();
            (self.streams, self.free, self.open) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// Says why the connection ends at once.
    pub fn break_off(&mut self, broken: Broken) {
        let reason = match broken {
            Broken::Rules(reason, _) => reason,
            Broken::Flood(_) => Reason::EnhanceYourCalm,
        };
        frame::write_goaway(&mut self.out, self.last, reason);
    }
}

/// What comes.
impl Protocol {
    /// Takes frames from the beginning of `inbox`, up to the next one that somebody has to do something about. `clock`
    /// tells how long after the connection's beginning it is.
    pub fn receive(&mut self, inbox: &mut BytesMut, clock: &impl Fn() -> Duration) -> Result<Option<Event>, Broken> {
        if self.stage == Stage::Preface {
            let seen = inbox.len().min(PREFACE.len());
            if inbox[..seen] != PREFACE[..seen] {
                return Err(Broken::Rules(Reason::Protocol, "it does not begin as it must"));
            }
            if seen < PREFACE.len() {
                return Ok(None);
            }
            inbox.advance(seen);
            self.stage = Stage::Settings;
        }
        while let Some(head) = FrameHead::read(inbox) {
            self.check(&head)?;
            if inbox.len() < HEAD + head.length {
                break;
            }
            self.floods.frame(&head, clock).map_err(Broken::Flood)?;
            let event = if head.kind == Kind::Data {
                inbox.advance(HEAD);
                self.data_came(&head, inbox.split_to(head.length).freeze(), clock)
            } else {
                let event = self.frame(&head, &inbox[HEAD..HEAD + head.length], clock);
                inbox.advance(HEAD + head.length);
                event
            };
            if let Some(event) = event? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether a frame may come now, and be as long as it is.
    fn check(&self, head: &FrameHead) -> Result<(), Broken> {
        let rules = |what| Err(Broken::Rules(Reason::Protocol, what));
        if head.length > MAX_PAYLOAD {
            return Err(Broken::Rules(Reason::FrameSize, "a frame is longer than it may be"));
        }
        if self.stage == Stage::Settings && (head.kind != Kind::Settings || head.has(ACK)) {
            return rules("its first frame is not SETTINGS");
        }
        match &self.block {
            Some(block) if head.kind != Kind::Continuation || head.stream != block.stream => {
                return rules("something comes between the parts of a block of fields");
            }
            None if head.kind == Kind::Continuation => return rules("a part of no block of fields comes"),
            _ => {}
        }
        let of_stream = match head.kind {
            Kind::Data | Kind::Headers | Kind::Priority | Kind::Reset | Kind::Continuation => true,
            Kind::Settings | Kind::Ping | Kind::GoAway => false,
            Kind::PushPromise => return rules("a client promises nothing"),
            Kind::WindowUpdate | Kind::Unknown => return Ok(()),
        };
        if of_stream == (head.stream == 0) {
            return rules("a frame of a stream belongs to none, or one of the connection to a stream");
        }
        Ok(())
    }

    fn frame(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let long = |right: bool| if right { Ok(()) } else { Err(wrong_size()) };
        match head.kind {
            Kind::Headers => return self.headers(head, payload, clock),
            Kind::Continuation => return self.continuation(head, payload, clock),
            Kind::Priority if payload.len() != 5 || priority(payload) == head.stream => {
                let reason = if payload.len() == 5 { Reason::Protocol } else { Reason::FrameSize };
                // A stream that was never begun cannot be ended (RFC 9113, 6.4).
                let broken = Broken::Rules(reason, "a priority is none");
                return if head.stream > self.last {
                    Err(broken)
                } else {
                    self.break_stream(head.stream, reason, clock)
                };
            }
            Kind::Reset => {
                long(payload.len() == 4)?;
                if head.stream > self.last {
                    return Err(Broken::Rules(Reason::Protocol, "a stream is ended that was never begun"));
                }
                return Ok(self.places.get(&head.stream).copied().map(|place| {
                    self.forget(place);
                    Event::Over(place)
                }));
            }
            Kind::WindowUpdate => {
                long(payload.len() == 4)?;
                return self.window_came(head.stream, word(payload) & MAX_31, clock);
            }
            Kind::Settings => {
                long(payload.len().is_multiple_of(6) && (payload.is_empty() || !head.has(ACK)))?;
                match head.has(ACK) {
                    true => self.is_acknowledged = true,
                    false => self.settings(payload)?,
                }
            }
            Kind::Ping => {
                long(payload.len() == 8)?;
                let said = payload.try_into().expect("it is eight bytes long");
                match head.has(ACK) {
                    false => frame::write_ping(&mut self.out, ACK, said),
                    true if said == GOODBYE => self.insist(),
                    true => {}
                }
            }
            Kind::GoAway => long(payload.len() >= 8)?,
            Kind::Priority | Kind::PushPromise | Kind::Unknown | Kind::Data => {}
        }
        Ok(None)
    }

    fn headers(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let (mut fields, _) = unpadded(head, payload)?;
        let mut is_bad = false;
        if head.has(PRIORITY) {
            is_bad = fields.len() >= 5 && priority(fields) == head.stream;
            fields = fields.get(5..).ok_or(wrong_size())?;
        }
        let ends = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.fields(head.stream, ends, is_bad, fields, clock);
        }
        self.block = Some(Block { stream: head.stream, ends, is_bad, parts: 1, bytes: fields.to_vec() });
        Ok(None)
    }

    fn continuation(
        &mut self,
        head: &FrameHead,
        payload: &[u8],
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let Some(mut block) = self.block.take() else { return Ok(None) };
        block.parts += 1;
        // What is longer than this when it is packed is too long in any case.
        if block.parts > MAX_PARTS || block.bytes.len() > 2 * self.limits.header_bytes.max(MAX_PAYLOAD) {
            return Err(Broken::Flood(Flood("CONTINUATION frames")));
        }
        block.bytes.extend_from_slice(payload);
        if head.has(END_HEADERS) {
            return self.fields(block.stream, block.ends, block.is_bad, &block.bytes, clock);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// A block of fields is whole: a request, or its trailers. In any case it is read, so that the table stays right.
    fn fields(
        &mut self,
        id: u32,
        ends: bool,
        is_bad: bool,
        block: &[u8],
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let list = self.decoder.decode(block, self.limits.header_bytes);
        let list = list.map_err(|_| Broken::Rules(Reason::Compression, "fields cannot be read"))?;
        if let Some(place) = self.places.get(&id).copied() {
            return self.trailers(id, place, ends && !is_bad, list, clock);
        }
        if id.is_multiple_of(2) {
            return Err(Broken::Rules(Reason::Protocol, "a client begins a stream of ours"));
        }
        if id <= self.last {
            let is_cut = self.cut.contains(&id);
            return if is_cut { Ok(None) } else { Err(Broken::Rules(Reason::StreamClosed, "a stream begins twice")) };
        }
        self.last = id;
        if self.leaving == Leaving::Known {
            self.remember(id);
            return Ok(None);
        }
        if is_bad {
            return self.break_stream(id, Reason::Protocol, clock);
        }
        if self.places.len() >= self.limits.streams {
            // A client that has not read how many may be has broken no rule.
            if !self.is_acknowledged && id < EARLY {
                frame::write_reset(&mut self.out, id, Reason::RefusedStream);
                self.remember(id);
                return Ok(None);
            }
            return self.break_stream(id, Reason::RefusedStream, clock);
        }
        let head = match list.is_cut {
            true => Err(BadRequest::TooMuch(BadHead::TooLong(self.limits.header_bytes))),
            false => RequestHead::read(list),
        };
        match head {
            Err(BadRequest::TooMuch(bad)) => {
                self.floods.broken_stream(clock).map_err(Broken::Flood)?;
                let place = self.begin(id, Incoming::new(None, ends, false, STREAM_ROOM.into()));
                Ok(Some(Event::TooMuch(place, bad)))
            }
            Ok(head) if !ends || head.length.is_none_or(|length| length == 0) => {
                let incoming = Incoming::new(head.length, ends, head.waits, STREAM_ROOM.into());
                let place = self.begin(id, incoming);
                Ok(Some(Event::Begun { place, id, has_content: !ends, head: Box::new(head) }))
            }
            _ => self.break_stream(id, Reason::Protocol, clock),
        }
    }

    fn begin(&mut self, id: u32, incoming: Incoming) -> usize {
        let window = self.first_window.into();
        let stream = Stream { id, incoming, window, is_held: false, is_answered: false };
        let place = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        self.streams[place] = Some(stream);
        self.places.insert(id, place);
        place
    }

    fn trailers(
        &mut self,
        id: u32,
        place: usize,
        may_be: bool,
        list: List,
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let Some(stream) = &mut self.streams[place] else { return Ok(None) };
        let incoming = &mut stream.incoming;
        if incoming.is_ended {
            return self.break_stream(id, Reason::StreamClosed, clock);
        }
        let is_whole = may_be && !list.is_cut && incoming.announced.is_none_or(|rest| rest == 0);
        match request::trailers(list) {
            Ok(trailers) if is_whole => {
                incoming.end(Some(trailers));
                incoming.tell();
                Ok(None)
            }
            _ => self.break_stream(id, Reason::Protocol, clock),
        }
    }

    fn data_came(
        &mut self,
        head: &FrameHead,
        payload: Bytes,
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        let (id, size) = (head.stream, head.length);
        self.room -= size as i64;
        if self.room < 0 {
            return Err(Broken::Rules(Reason::FlowControl, "more comes than the connection lets in"));
        }
        let (data, before) = unpadded(head, &payload)?;
        let data = payload.slice(before..before + data.len());
        let place = self.places.get(&id).copied();
        let Some(stream) = place.and_then(|place| self.streams[place].as_mut()) else {
            self.give_back(size);
            if id > self.last || id.is_multiple_of(2) {
                return Err(Broken::Rules(Reason::Protocol, "content of a stream comes that was never begun"));
            }
            let is_cut = self.cut.contains(&id);
            return if is_cut { Ok(None) } else { self.break_stream(id, Reason::StreamClosed, clock) };
        };
        let (incoming, ends) = (&mut stream.incoming, head.has(END_STREAM));
        incoming.room -= size as i64;
        let bad = match &mut incoming.announced {
            _ if incoming.is_ended => Some(Reason::StreamClosed),
            _ if incoming.room < 0 => Some(Reason::FlowControl),
            Some(rest) => match rest.checked_sub(data.len() as u64) {
                Some(left) if !ends || left == 0 => {
                    *rest = left;
                    None
                }
                _ => Some(Reason::Protocol),
            },
            None => None,
        };
        if let Some(bad) = bad {
            self.give_back(size);
            return self.break_stream(id, bad, clock);
        }
        let is_wanted = !incoming.is_unwanted;
        let kept = if is_wanted { data.len() } else { 0 };
        if kept > 0 {
            incoming.put(data);
        }
        if ends {
            incoming.end(None);
        }
        incoming.tell();
        // Padding, and what nobody wants. Of the latter nothing is given back to its stream, so that it comes to an end.
        match place {
            Some(place) if is_wanted => self.took(place, size - kept),
            _ => self.give_back(size - kept),
        }
        Ok(None)
    }

    fn window_came(&mut self, id: u32, bytes: u32, clock: &impl Fn() -> Duration) -> Result<Option<Event>, Broken> {
        if id == 0 {
            self.window += i64::from(bytes);
            return match bytes {
                0 => Err(Broken::Rules(Reason::Protocol, "a window is opened by nothing")),
                _ if self.window > MAX_31.into() => Err(too_wide()),
                _ => Ok(None),
            };
        }
        if id > self.last {
            return Err(Broken::Rules(Reason::Protocol, "the window of a stream is opened that was never begun"));
        }
        let Some(place) = self.places.get(&id).copied() else { return Ok(None) };
        let Some(stream) = &mut self.streams[place] else { return Ok(None) };
        stream.window += i64::from(bytes);
        if bytes == 0 || stream.window > MAX_31.into() {
            let reason = if bytes == 0 { Reason::Protocol } else { Reason::FlowControl };
            return self.break_stream(id, reason, clock);
        }
        self.let_on(place);
        Ok(None)
    }

    /// What was held may go on if there is something of its window.
    fn let_on(&mut self, place: usize) {
        let stream = self.streams[place].as_mut();
        if let Some(stream) = stream.filter(|stream| stream.is_held && stream.window > 0) {
            stream.is_held = false;
            self.open.push(place);
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Broken> {
        let mut first_window = self.first_window;
        for setting in payload.as_chunks::<6>().0 {
            let (name, value) = (u16::from_be_bytes([setting[0], setting[1]]), word(&setting[2..]));
            match name {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Broken::Rules(Reason::Protocol, "a setting is neither 0 nor 1"));
                }
                setting::INITIAL_WINDOW_SIZE if value > MAX_31 => return Err(too_wide()),
                // However often it is said, it is done once.
                setting::INITIAL_WINDOW_SIZE => first_window = value,
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(Broken::Rules(Reason::Protocol, "a frame's length cannot be bounded so"));
                }
                // What everybody takes is enough.
                _ => {}
            }
        }
        self.first_window_came(first_window)?;
        self.stage = Stage::Open;
        frame::write_head(&mut self.out, 0, Kind::Settings, ACK, 0);
        Ok(())
    }

    fn first_window_came(&mut self, bytes: u32) -> Result<(), Broken> {
        let more = i64::from(bytes) - i64::from(self.first_window);
        self.first_window = bytes;
        if more == 0 {
            return Ok(());
        }
        for place in 0..self.streams.len() {
            if let Some(stream) = &mut self.streams[place] {
                stream.window += more;
                if stream.window > MAX_31.into() {
                    return Err(too_wide());
                }
                self.let_on(place);
            }
        }
        Ok(())
    }

    /// Ends a stream whose client breaks the rules, or that cannot be taken.
    fn break_stream(
        &mut self,
        id: u32,
        reason: Reason,
        clock: &impl Fn() -> Duration,
    ) -> Result<Option<Event>, Broken> {
        self.floods.broken_stream(clock).map_err(Broken::Flood)?;
        let place = self.places.get(&id).copied();
        match place {
            Some(place) => self.reset(place, reason),
            None => {
                frame::write_reset(&mut self.out, id, reason);
                self.remember(id);
            }
        }
        Ok(place.map(Event::Over))
    }

    fn remember(&mut self, id: u32) {
        if self.cut.len() == REMEMBERED {
            self.cut.pop_front();
        }
        self.cut.push_back(id);
    }

    /// So many bytes of content no longer take room.
    fn give_back(&mut self, bytes: usize) {
        self.taken += u32::try_from(bytes).expect("no more is taken than there was room for");
        // Soon: what is not read may leave little room.
        if self.taken >= STREAM_ROOM / 2 {
            frame::write_window(&mut self.out, 0, self.taken);
            self.room += i64::from(std::mem::take(&mut self.taken));
        }
    }

    /// A stream is over.
    fn forget(&mut self, place: usize) {
        let Some(mut stream) = self.streams.get_mut(place).and_then(Option::take) else { return };
        self.places.remove(&stream.id);
        self.free.push(place);
        let unread = stream.incoming.clear();
        self.give_back(unread);
        stream.incoming.tell();
    }
}

/// What is read of a request's content.
impl Protocol {
    /// What comes next of the content of a stream.
    pub fn read(&mut self, place: usize, id: u32, cx: &mut Context<'_>) -> Poll<Result<Piece, Over>> {
        let stream = self.streams.get_mut(place).and_then(Option::as_mut).filter(|stream| stream.id == id);
        let Some(stream) = stream else { return Poll::Ready(Err(Over)) };
        let (incoming, is_answered) = (&mut stream.incoming, stream.is_answered);
        let asks = std::mem::take(&mut incoming.waits) && !is_answered;
        let piece = incoming.poll(cx);
        if asks && piece.is_pending() {
            self.inform(place, StatusCode::CONTINUE, |_, _| {});
        }
        let piece = ready!(piece);
        if let Piece::Data(data) = &piece {
            self.took(place, data.len());
        }
        Poll::Ready(Ok(piece))
    }

    fn took(&mut self, place: usize, bytes: usize) {
        self.give_back(bytes);
        let Some(stream) = &mut self.streams[place] else { return };
        let incoming = &mut stream.incoming;
        incoming.taken += u32::try_from(bytes).expect("no more is taken than there was room for");
        if incoming.taken >= STREAM_ROOM / 2 && !incoming.is_ended {
            frame::write_window(&mut self.out, stream.id, incoming.taken);
            incoming.room += i64::from(std::mem::take(&mut incoming.taken));
        }
    }

    /// Nobody will read the content of a stream.
    pub fn leave_unread(&mut self, place: usize, id: u32) {
        let stream = self.streams.get_mut(place).and_then(Option::as_mut);
        if let Some(stream) = stream.filter(|stream| stream.id == id) {
            stream.incoming.is_unwanted = true;
            let unread = stream.incoming.clear();
            self.give_back(unread);
        }
    }

    /// What the client sends in a stream.
    pub fn incoming(&self, place: usize, id: u32) -> Option<&Incoming> {
        let stream = self.streams.get(place)?.as_ref().filter(|stream| stream.id == id)?;
        Some(&stream.incoming)
    }
}

fn too_wide() -> Broken {
    Broken::Rules(Reason::FlowControl, "a window is too wide")
}

fn wrong_size() -> Broken {
    Broken::Rules(Reason::FrameSize, "a frame is not as long as it must be")
}

/// Four bytes as a number.
fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

/// Which stream another one depends on (RFC 7540, 6.3), if a client still says so.
fn priority(payload: &[u8]) -> u32 {
    word(payload) & MAX_31
}

/// What a payload is without its padding, and where it begins.
fn unpadded<'a>(head: &FrameHead, payload: &'a [u8]) -> Result<(&'a [u8], usize), Broken> {
    if !head.has(PADDED) {
        return Ok((payload, 0));
    }
    let (padding, rest) = payload.split_first().ok_or(wrong_size())?;
    let length = rest.len().checked_sub(usize::from(*padding));
    let length = length.ok_or(Broken::Rules(Reason::Protocol, "padding is longer than what it pads"))?;
    Ok((&rest[..length], 1))
}

#[cfg(test)]
mod tests;
