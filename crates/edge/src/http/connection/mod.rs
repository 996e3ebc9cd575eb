//! A client's connection over HTTP/1.
//!
//! ```text
//!        ┌────────────────────────── the next one ──────────────────────────┐
//!        ▼                                                                  │
//!  wait for a head ─▶ answer it ─▶ write the answer ─▶ [rest of the request]┤
//!    │   │   │           │              │                                   │
//!    │   │   │           └ client gone: the request is dropped              └─▶ close
//!    │   │   └ cannot be read: say so, close
//!    │   └ HTTP/2's preface: hand it over (RFC 9113, 3.3)
//!    └ too long, or the edge stops: close
//! ```
//!
//! One task, no channel: while an answer is worked on, the same task reads the request's content and looks whether the
//! client is still there.

mod content;
mod reply;

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use http::{Extensions, StatusCode, header};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use content::Conversation;
pub use content::{Content, Talk};
use reply::{Asked, Done, Reply};

use super::{
    Inbound, InboundBody, Interim,
    body::ClientBody,
    page, request,
    serve::{Busy, Client},
    upgrade::{HandedOver, Offer},
};
use crate::{
    Bounds,
    context::Context,
    http1::{Alarm, AnyStream, BadHead, Framing, Prefixed, RequestHead, Seen, Wire, take_request},
    http2::PREFACE,
    options::BoxError,
    signal::Ear,
};

/// How many bytes of a request that nobody wanted are read, so that its client reads the answer, and for how long.
const UNWANTED: (usize, Duration) = (256 * 1024, Duration::from_secs(2));

/// How a connection ended.
pub enum Served {
    /// For good.
    Over,
    /// The client speaks HTTP/2.
    Http2(Prefixed<AnyStream>),
}

/// What becomes of a connection after an answer.
enum Then {
    /// Another request may come.
    Next,
    /// It is closed.
    Close,
    /// Its client has gone, or it belongs to somebody else now.
    Gone,
}

/// Serves a connection until it ends, lies idle too long, or the edge stops.
pub async fn serve(context: &Arc<Context>, stream: AnyStream, client: &Arc<Client>) -> Served {
    let talk = Talk::new(Wire::new(stream));
    let mut wait = Wait { alarm: Alarm::default(), seen: Seen::default(), stopping: context.stopping.ear() };
    let mut is_first = true;
    loop {
        // Over TLS both would have agreed on HTTP/2 (RFC 9113, 3.2).
        let may_be_http2 = is_first && !client.is_secure();
        let then = match wait.next(&context.bounds, &talk, may_be_http2).await {
            Next::Request(received) => answer(context, &talk, client, received).await,
            Next::Bad(bad) => Box::pin(refuse(context, &talk, client, bad)).await,
            Next::Http2 => return Served::Http2(talk.hand_over()),
            Next::Over => Then::Close,
        };
        match then {
            Then::Next => is_first = false,
            Then::Close => break,
            Then::Gone => return Served::Over,
        }
    }
    let _ = timeout(UNWANTED.1, talk.close()).await;
    Served::Over
}

/// What came next.
enum Next {
    Request(Received),
    Bad(BadHead),
    Http2,
    Over,
}

/// Waits for requests. What that takes is there once for a connection, not for each request.
struct Wait<'a> {
    alarm: Alarm,
    seen: Seen,
    stopping: Ear<'a>,
}

impl Wait<'_> {
    /// Waits for a request's head.
    async fn next(&mut self, bounds: &Bounds, talk: &Talk, may_be_http2: bool) -> Next {
        let began = Instant::from(kit::clock::lately());
        poll_fn(|cx| {
            let mut conversation = talk.lock();
            let wire = &mut conversation.wire;
            loop {
                if may_be_http2
                    && !wire.inbox.is_empty()
                    && PREFACE.starts_with(&wire.inbox[..wire.inbox.len().min(PREFACE.len())])
                {
                    if wire.inbox.len() >= PREFACE.len() {
                        return Poll::Ready(Next::Http2);
                    }
                } else {
                    match take_request(&mut wire.inbox, &mut self.seen, bounds.header_bytes.max(8192)) {
                        Ok(Some(head)) => {
                            return Poll::Ready(Next::Request(Received::of(talk, &mut conversation, head)));
                        }
                        Ok(None) => {}
                        Err(bad) => return Poll::Ready(Next::Bad(bad)),
                    }
                }
                match wire.poll_fill(cx) {
                    Poll::Ready(Ok(read)) if read > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Next::Over),
                    Poll::Pending => break,
                }
            }
            let is_idle = wire.inbox.is_empty();
            if is_idle {
                wire.rest();
            }
            self.alarm.set(began + if is_idle { bounds.header.min(bounds.idle) } else { bounds.header });
            let too_late = self.alarm.poll(cx).is_ready();
            if too_late || (is_idle && self.stopping.poll(cx).is_ready()) {
                return Poll::Ready(Next::Over);
            }
            Poll::Pending
        })
        .await
    }
}

/// A request, and what becomes of its answer.
struct Received {
    request: Box<Inbound>,
    asked: Asked,
    keeps_alive: bool,
    /// If it wants the connection for something else, where that is handed over.
    hand_over: Option<oneshot::Sender<HandedOver>>,
}

impl Received {
    /// Makes a request of a head and what follows it.
    fn of(talk: &Talk, conversation: &mut Conversation, head: RequestHead) -> Self {
        let asked = Asked::of(&head);
        let RequestHead { method, uri, version, fields, framing, keeps_alive, .. } = head;
        let (mut extensions, mut hand_over) = (Extensions::new(), None);
        if fields.first(&header::UPGRADE).is_some() {
            let (sender, offer) = Offer::new();
            extensions.insert(offer);
            hand_over = Some(sender);
        }
        let body = match framing {
            Framing::Empty | Framing::Length(0) => InboundBody::Empty,
            framing => InboundBody::Connection(conversation.content(talk, framing, asked.waits)),
        };
        let request = Box::new(Inbound { method, uri, version, fields, extensions, body });
        Self { request, asked, keeps_alive, hand_over }
    }
}

/// How far an answer was written as soon as it was there.
enum Written {
    /// To its end, or till that could not be done.
    Done(Result<Done, BoxError>),
    /// There is more of it, which may take long to be read: it does not hold the room that getting it took.
    Begun(Box<Reply<ClientBody>>),
}

/// Answers a request.
async fn answer(context: &Arc<Context>, talk: &Talk, client: &Arc<Client>, received: Received) -> Then {
    let Received { request, asked, keeps_alive, hand_over } = received;
    let mut busy = Busy::new(client.clone());
    if !asked.old {
        busy = busy.informing(Interim::Connection(talk.clone()));
    }
    let mut work = Box::pin(request::answer(context, busy, request));
    let answered = poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(response) => {
            let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
            let mut reply = Reply::begin(talk, response, &asked, keeps_alive);
            Poll::Ready(Some(match reply.poll(cx, talk) {
                Poll::Ready(done) => (switches, Written::Done(done)),
                Poll::Pending => (switches, Written::Begun(Box::new(reply))),
            }))
        }
        Poll::Pending if talk.lock().is_gone(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    drop(work);
    let Some((switches, written)) = answered else { return Then::Gone };
    let done = match written {
        Written::Done(done) => done,
        Written::Begun(mut reply) => reply.write(talk).await,
    };
    // What is missing at its end tells the client that the answer is not whole.
    let Ok(Done { keeps_alive, is_read }) = done else { return Then::Gone };
    if let Some(hand_over) = hand_over.filter(|_| switches) {
        let (held, ended) = oneshot::channel();
        let _ = hand_over.send(HandedOver { stream: talk.hand_over(), held });
        let _ = ended.await;
        return Then::Gone;
    }
    // Most requests have been read to their end.
    let passes_over = || Box::pin(timeout(UNWANTED.1, talk.pass_over(UNWANTED.0)));
    let goes_on = keeps_alive && (is_read || matches!(passes_over().await, Ok(true)));
    if goes_on { Then::Next } else { Then::Close }
}

/// Says that what came is no request that can be read.
async fn refuse(context: &Context, talk: &Talk, client: &Client, bad: BadHead) -> Then {
    tracing::debug!(peer = %client.peer, "a request cannot be read: {bad}");
    let response = page::unreadable(&context.region, bad);
    match Reply::begin(talk, response.into(), &Asked::default(), false).write(talk).await {
        Ok(_) => Then::Close,
        Err(_) => Then::Gone,
    }
}
