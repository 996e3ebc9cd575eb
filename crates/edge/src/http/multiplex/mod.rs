//! A client's connection over HTTP/2: many requests at a time.
//!
//! ```text
//!            ┌─────────────────────────── one task ───────────────────────────┐
//!  client ─▶ hear: frames ─▶ a request takes a place ─▶ work: in each place    │
//!         ◀─ say: what all of them have written, at once ◀── answer ─▶ send    │
//!            └────────────────────────────────────────────────────────────────┘
//!                                     ▲ a place rings its bell when its machine has said something
//! ```
//!
//! What is done for the requests of a connection is done by the connection's own task, each time for all whose bell
//! rings; what they write goes out in one piece. There is no channel, and no task to be begun, woken and ended for each
//! request. A request that is taken back is dropped where it stands.

mod shared;
mod work;

use std::{
    collections::VecDeque,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use http::{Extensions, Method, Version};
use tokio::{
    io::AsyncWrite,
    task::unconstrained,
    time::{Instant, timeout},
};

pub use self::shared::{Content, Informant};
use self::{
    shared::Shared,
    work::{Asked, Seat, Step},
};
use super::{
    Inbound, InboundBody, Interim, page, request,
    serve::{Busy, Client},
    upgrade::Offer,
};
use crate::{
    Refusal,
    context::Context,
    http1::{Alarm, AnyStream, BadHead, Prefixed, Wire},
    http2::{Broken, Event, Limits, Protocol, Reason, RequestHead},
    signal::Ear,
};

/// Requests of one connection at a time.
const MAX_STREAMS: usize = 200;
/// After so long without a word a client is asked whether it is there; so long it has to answer.
const QUIET: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(20);
/// How long a connection gets to end by itself once it has been asked to.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is read from, and how many steps are taken, before others get their turn.
const MAX_READS: usize = 8;
const MAX_STEPS: usize = 128;
/// A client that has taken so much since it was looked takes answers.
const MOVES: u64 = 16 * 1024;
/// How long a client gets to read why its connection ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves a connection until it ends, lies idle too long, or the edge stops.
pub async fn serve(context: &Arc<Context>, stream: Prefixed<AnyStream>, client: &Arc<Client>) {
    let mut connection = Connection::new(context, stream, client);
    // It bounds by itself what it does in one go; a budget that ran out would stop one request for what another did.
    let end = unconstrained(poll_fn(|cx| connection.poll(cx))).await;
    connection.drop_all();
    match end {
        End::Gone => {}
        End::Done => drop(timeout(FAREWELL, connection.close(true)).await),
        End::Broken(broken) => {
            tracing::debug!(peer = %client.peer, "a connection ends: {broken}");
            connection.shared.lock().break_off(broken);
            if let Broken::Flood(flood) = broken {
                let refusal = Refusal::Flood { what: flood.0 };
                context.limits.abused(&context.journal, &client.connection, &refusal);
            }
            // A flood is not listened to any longer.
            let listens = matches!(broken, Broken::Rules(..));
            drop(timeout(FAREWELL, connection.close(listens)).await);
        }
    }
}

/// How a connection ended.
enum End {
    /// The client is gone, or nobody listens to it any more.
    Gone,
    /// In peace.
    Done,
    /// It cannot go on.
    Broken(Broken),
}

struct Connection<'c> {
    context: &'c Arc<Context>,
    client: &'c Arc<Client>,
    shared: Arc<Shared>,
    wire: Wire<Prefixed<AnyStream>>,
    seats: Vec<Seat>,
    /// Places in which there is something to be done.
    ready: Vec<usize>,
    /// Places whose answers wait until the connection takes more, the longest waiting first.
    line: VecDeque<usize>,
    stopping: Ear<'c>,
    aborting: Ear<'c>,
    retiring: Ear<'c>,
    clocks: Clocks,
}

/// What happens if nothing does.
struct Clocks {
    alarm: Alarm,
    /// The client has said something since it was last looked.
    has_heard: bool,
    /// It was asked whether it is there.
    has_asked: bool,
    /// When it is looked whether the client is there.
    look: Instant,
    /// When answers that their client does not want are looked at.
    stalls: Option<Instant>,
    /// When what the client has begun to say has to be said.
    amid: Option<Instant>,
    /// Since when nothing has been under way, and all that was said has left.
    idle: Option<Instant>,
    /// Goodbye was said.
    has_left: bool,
    /// When the last stream is named, though the client has not said that it knows of the goodbye.
    insists: Option<Instant>,
    /// How much content had been sent when it was looked at, and when it was more the last time.
    sent: (u64, Instant),
}

impl<'c> Connection<'c> {
    fn new(context: &'c Arc<Context>, stream: Prefixed<AnyStream>, client: &'c Arc<Client>) -> Self {
        let limits = Limits { header_bytes: context.bounds.header_bytes, streams: MAX_STREAMS };
        let now = Instant::now();
        let clocks = Clocks {
            alarm: Alarm::default(),
            has_heard: false,
            has_asked: false,
            look: now + QUIET,
            stalls: None,
            amid: None,
            idle: None,
            has_left: false,
            insists: None,
            sent: (0, now),
        };
        Self {
            context,
            client,
            shared: Shared::new(Protocol::new(limits)),
            wire: Wire::new(stream),
            seats: Vec::new(),
            ready: Vec::new(),
            line: VecDeque::new(),
            stopping: context.stopping.ear(),
            aborting: context.aborting.ear(),
            retiring: context.retiring.ear(),
            clocks,
        }
    }

    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<End> {
        self.shared.task.register(cx.waker());
        let heard = match self.hear(cx) {
            Ok(Some(has_more)) => has_more,
            Ok(None) => return Poll::Ready(End::Gone),
            Err(broken) => return Poll::Ready(End::Broken(broken)),
        };
        let was_choked = self.shared.lock().is_choked();
        let has_more = self.work() | heard;
        if self.shared.is_broken() {
            return Poll::Ready(End::Gone);
        }
        if self.say(cx).is_err() || self.aborting.poll(cx).is_ready() {
            return Poll::Ready(End::Gone);
        }
        if let Poll::Ready(end) = self.look_at_clocks(cx) {
            return Poll::Ready(end);
        }
        // What the time has made us say.
        if self.say(cx).is_err() {
            return Poll::Ready(End::Gone);
        }
        let protocol = self.shared.lock();
        if protocol.is_done() && self.wire.is_flushed() {
            return Poll::Ready(End::Done);
        }
        let hears_again = was_choked && !protocol.is_choked();
        if has_more || hears_again || (!self.line.is_empty() && protocol.takes()) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes what has come. Tells whether more may have, or nothing if the client is gone. One that does not read what it
    /// is told is not heard.
    fn hear(&mut self, cx: &mut Task<'_>) -> Result<Option<bool>, Broken> {
        let mut reads = 0;
        while !self.shared.lock().is_choked() {
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(read)) if read > 0 => {}
                Poll::Ready(_) => return Ok(None),
                Poll::Pending => return Ok(Some(false)),
            }
            self.clocks.has_heard = true;
            self.take_frames()?;
            reads += 1;
            if reads == MAX_READS {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    fn take_frames(&mut self) -> Result<(), Broken> {
        let since = self.client.connection.since;
        loop {
            let event = self.shared.lock().receive(&mut self.wire.inbox, &|| since.elapsed())?;
            match event {
                None => return Ok(()),
                Some(Event::Begun { place, id, has_content, head }) => self.begin((place, id), has_content, *head),
                Some(Event::TooMuch(place, bad)) => self.refuse(place, bad),
                Some(Event::Over(place)) => self.seat(place).clear(),
            }
        }
    }

    /// A request begins.
    fn begin(&mut self, (place, id): (usize, u32), has_content: bool, head: RequestHead) {
        let RequestHead { method, uri, fields, protocol, .. } = head;
        let (mut extensions, mut hand_over) = (Extensions::new(), None);
        if let Some(protocol) = protocol {
            let (sender, offer) = Offer::extended(protocol);
            extensions.insert(offer);
            hand_over = Some(sender);
        }
        // The content of a tunnel is its own.
        let body = match has_content && hand_over.is_none() {
            true => InboundBody::Stream(Content::new(&self.shared, place, id)),
            false => InboundBody::Empty,
        };
        let asked = Asked { head_only: method == Method::HEAD, hand_over };
        let inbound = Box::new(Inbound { method, uri, version: Version::HTTP_2, fields, extensions, body });
        let informant = Informant::new(&self.shared, place, id);
        let busy = Busy::new(self.client.clone()).informing(Interim::Multiplexed(informant));
        let context = self.context.clone();
        let answer = Box::pin(async move { request::answer(&context, busy, inbound).await });
        self.seat(place).begin(answer, asked);
    }

    /// Says that a request is more than may be.
    fn refuse(&mut self, place: usize, bad: BadHead) {
        work::say_at_once(&self.shared, place, page::unreadable(&self.context.region, bad).into());
    }

    fn seat(&mut self, place: usize) -> &mut Seat {
        while self.seats.len() <= place {
            self.seats.push(Seat::new(&self.shared, self.seats.len()));
        }
        &mut self.seats[place]
    }

    /// Goes on in each place where there is something to be done. Tells whether there is more. What rings meanwhile has
    /// the task come again.
    fn work(&mut self) -> bool {
        self.shared.take_ready(&mut self.ready);
        for _ in 0..MAX_STEPS {
            let Some((place, is_next_in_line)) = self.next() else { return false };
            let may_send = is_next_in_line || self.line.is_empty();
            // A bell may ring after its place was given back.
            let Some(seat) = self.seats.get_mut(place) else { continue };
            // One request that cannot be answered is no reason to answer none.
            let step = catch_unwind(AssertUnwindSafe(|| seat.step(&self.shared, place, may_send)));
            let step = step.unwrap_or_else(|_| {
                self.shared.lock().reset(place, Reason::Internal);
                let _ = catch_unwind(AssertUnwindSafe(|| seat.clear()));
                Step::Over
            });
            if step == Step::Full && !std::mem::replace(&mut seat.is_in_line, true) {
                self.line.push_back(place);
            }
            if matches!(step, Step::Held | Step::Full) {
                let look = || Instant::now() + self.context.bounds.stalled_answer / 4;
                self.clocks.stalls.get_or_insert_with(look);
            }
        }
        true
    }

    /// The next place where there is something to be done, and whether it is the one that has waited the longest.
    fn next(&mut self) -> Option<(usize, bool)> {
        if let Some(place) = self.ready.pop() {
            self.seats.get(place).iter().for_each(|seat| seat.bell.heard());
            return Some((place, false));
        }
        let mut protocol = self.shared.lock();
        if let Some(place) = protocol.opened() {
            return Some((place, false));
        }
        let place = self.line.front().copied().filter(|_| protocol.takes())?;
        self.line.pop_front();
        if let Some(seat) = self.seats.get_mut(place) {
            seat.is_in_line = false;
        }
        Some((place, true))
    }

    /// Writes what was said.
    fn say(&mut self, cx: &mut Task<'_>) -> std::io::Result<()> {
        loop {
            if self.wire.outbox.is_empty() {
                let mut protocol = self.shared.lock();
                if !protocol.out.is_empty() {
                    std::mem::swap(self.wire.outbox.text(), &mut protocol.out);
                } else if self.wire.is_flushed() {
                    return Ok(());
                }
            }
            match self.wire.poll_flush(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(written) => written?,
            }
        }
    }

    /// Does what has to be done because of the time, or because the edge ends.
    fn look_at_clocks(&mut self, cx: &mut Task<'_>) -> Poll<End> {
        let bounds = &self.context.bounds;
        let mut protocol = self.shared.lock();
        let clocks = &mut self.clocks;
        if !clocks.has_left && (self.stopping.poll(cx).is_ready() || self.retiring.poll(cx).is_ready()) {
            clocks.leave(&mut protocol);
        }
        match protocol.is_amid() {
            true => drop(clocks.amid.get_or_insert_with(|| Instant::now() + bounds.header)),
            false => clocks.amid = None,
        }
        match protocol.is_idle() && protocol.out.is_empty() && self.wire.is_flushed() {
            true if clocks.idle.is_none() => {
                clocks.idle = Some(Instant::now());
                protocol.rest();
                self.wire.rest();
                (self.seats, self.ready, self.line) = (Vec::new(), Vec::new(), VecDeque::new());
            }
            true => {}
            false => clocks.idle = None,
        }
        loop {
            let patience = if clocks.has_left { LAST_WORDS } else { bounds.idle };
            let idle = clocks.idle.map(|since| since + patience);
            let due = [clocks.amid, clocks.stalls, clocks.insists, idle]
                .into_iter()
                .flatten()
                .fold(clocks.look, Instant::min);
            clocks.alarm.set(due);
            if clocks.alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let is_over = |due: Option<Instant>| due.is_some_and(|due| due <= now);
            if is_over(clocks.amid) {
                return Poll::Ready(End::Gone);
            }
            if is_over(idle) {
                if clocks.has_left {
                    protocol.insist();
                    return Poll::Ready(End::Done);
                }
                clocks.leave(&mut protocol);
            }
            if is_over(clocks.insists) {
                clocks.insists = None;
                protocol.insist();
            }
            if is_over(clocks.stalls) {
                if protocol.sent >= clocks.sent.0 + MOVES {
                    clocks.sent = (protocol.sent, now);
                }
                // Whoever waits in line waits for the connection, not for its own stream.
                let since = |seat: &Seat| {
                    let since = seat.held_since?;
                    Some(if seat.is_in_line { since.max(clocks.sent.1) } else { since })
                };
                let longest = self.seats.iter().filter_map(since).min();
                if longest.is_some_and(|since| since + bounds.stalled_answer <= now) {
                    let (journal, connection) = (&self.context.journal, &self.client.connection);
                    self.context.limits.abused(journal, connection, &Refusal::SlowReader);
                    return Poll::Ready(End::Gone);
                }
                clocks.stalls = longest.map(|_| now + bounds.stalled_answer / 4);
            }
            if clocks.look <= now {
                if !clocks.has_heard && clocks.has_asked {
                    return Poll::Ready(End::Gone);
                }
                clocks.has_asked = !std::mem::take(&mut clocks.has_heard);
                clocks.look = now + if clocks.has_asked { ANSWER } else { QUIET };
                if clocks.has_asked {
                    protocol.ask();
                }
            }
        }
    }

    /// Ends all that is under way. Whoever still reads content is told; what wakes them knows the connection, which would
    /// otherwise never be given back.
    fn drop_all(&mut self) {
        self.seats.clear();
        self.shared.lock().end_all();
    }

    /// Says what is left to be said, and closes the connection. While its client still sends, it is read from, so that it
    /// gets to read what was said last.
    async fn close(&mut self, listens: bool) {
        let closed = poll_fn(|cx| {
            if self.say(cx).is_err() {
                return Poll::Ready(false);
            }
            if !self.wire.is_flushed() {
                return Poll::Pending;
            }
            Pin::new(&mut self.wire.stream).poll_shutdown(cx).map(|closed| closed.is_ok())
        })
        .await;
        let mut is_talking = closed && listens;
        while is_talking {
            self.wire.inbox.clear();
            is_talking = poll_fn(|cx| self.wire.poll_fill(cx)).await.is_ok_and(|read| read > 0);
        }
    }
}

impl Clocks {
    /// Says goodbye. From now on there is some time for last words, however long nothing has been said.
    fn leave(&mut self, protocol: &mut Protocol) {
        let now = Instant::now();
        protocol.leave();
        self.has_left = true;
        self.insists = Some(now + LAST_WORDS);
        self.idle = self.idle.map(|_| now);
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.drop_all();
    }
}
