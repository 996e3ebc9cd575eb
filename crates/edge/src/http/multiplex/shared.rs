//! What a connection shares with whoever reads the content of its requests, or says something before their answers, and
//! how its answers are woken.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::AcqRel},
    },
    task::{Context, Poll, Wake},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};

use crate::{
    http1::Fields,
    http2::{Piece, Protocol},
    options::BoxError,
};

/// A connection, shared. Its protocol is locked for one step at a time.
pub struct Shared {
    protocol: Mutex<Protocol>,
    /// The places in which there is something to be done.
    ready: Mutex<Vec<usize>>,
    /// The connection's task.
    pub task: AtomicWaker,
}

impl Shared {
    /// A connection that begins.
    pub fn new(protocol: Protocol) -> Arc<Self> {
        Arc::new(Self { protocol: Mutex::new(protocol), ready: Mutex::default(), task: AtomicWaker::new() })
    }

    /// For one step.
    pub fn lock(&self) -> MutexGuard<'_, Protocol> {
        self.protocol.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has left the protocol in the middle of a step.
    pub fn is_broken(&self) -> bool {
        self.protocol.is_poisoned()
    }

    /// Moves what is ready behind what is in `places`.
    pub fn take_ready(&self, places: &mut Vec<usize>) {
        places.append(&mut self.ready.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// For one step of somebody who is not the connection: what it has to say is said by the connection.
    fn step<T>(&self, step: impl FnOnce(&mut Protocol) -> T) -> T {
        let (done, has_more) = {
            let mut protocol = self.lock();
            let before = protocol.out.len();
            (step(&mut protocol), protocol.out.len() > before)
        };
        if has_more {
            self.task.wake();
        }
        done
    }
}

/// Wakes what is done in one place.
pub struct Bell {
    shared: Arc<Shared>,
    place: usize,
    is_ringing: AtomicBool,
}

impl Bell {
    /// The one of this place.
    pub fn new(shared: &Arc<Shared>, place: usize) -> Arc<Self> {
        Arc::new(Self { shared: shared.clone(), place, is_ringing: AtomicBool::new(false) })
    }

    /// It is heard: what it rings for from now on is something new.
    pub fn heard(&self) {
        self.is_ringing.swap(false, AcqRel);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ringing.swap(true, AcqRel) {
            self.shared.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.place);
            self.shared.task.wake();
        }
    }
}

/// A way to tell a client something before the answer to one of its requests.
#[derive(Clone)]
pub struct Informant {
    shared: Arc<Shared>,
    place: usize,
    id: u32,
}

impl Informant {
    /// Of the stream of this number in this place.
    pub fn new(shared: &Arc<Shared>, place: usize, id: u32) -> Self {
        Self { shared: shared.clone(), place, id }
    }

    /// Tells it.
    pub fn tell(&self, status: StatusCode, fields: &Fields) {
        self.shared.step(|protocol| {
            if protocol.id(self.place) == Some(self.id) {
                protocol.inform(self.place, status, |encoder, out| {
                    fields.each(|name, value| encoder.field(out, name, value));
                });
            }
        });
    }
}

/// A request's content, as it comes.
pub struct Content {
    shared: Arc<Shared>,
    place: usize,
    id: u32,
}

impl Content {
    /// Of the stream of this number in this place.
    pub fn new(shared: &Arc<Shared>, place: usize, id: u32) -> Self {
        Self { shared: shared.clone(), place, id }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = self.shared.step(|protocol| protocol.read(self.place, self.id, cx));
        piece.map(|piece| match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        // Of a request that was taken back it must not be said that it came whole.
        self.shared.lock().incoming(self.place, self.id).is_some_and(|incoming| incoming.is_read())
    }

    fn size_hint(&self) -> SizeHint {
        let unread = self.shared.lock().incoming(self.place, self.id).and_then(|incoming| incoming.unread());
        unread.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.shared.step(|protocol| protocol.leave_unread(self.place, self.id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;

    use super::*;
    use crate::http2::{Event, Limits, PREFACE};

    #[test]
    fn a_connection_that_ends_while_content_is_waited_for_is_given_back() {
        let shared = Shared::new(Protocol::new(Limits { header_bytes: 4096, streams: 4 }));
        let settings = b"\0\0\0\x04\0\0\0\0\0";
        // `POST http: /` without an end.
        let request = b"\0\0\x03\x01\x04\0\0\0\x01\x83\x86\x84";
        let mut inbox = BytesMut::from(&[PREFACE, settings, request].concat()[..]);
        let event = shared.lock().receive(&mut inbox, &|| Duration::ZERO);
        let Ok(Some(Event::Begun { place, id, .. })) = event else { panic!("{event:?}") };
        let mut content = Content::new(&shared, place, id);
        let waker = Bell::new(&shared, place).into();
        let mut cx = Context::from_waker(&waker);
        assert!(Pin::new(&mut content).poll_frame(&mut cx).is_pending());
        // What is in the way of its end is the waker, which the stream keeps.
        let weak = Arc::downgrade(&shared);
        shared.lock().end_all();
        assert!(matches!(Pin::new(&mut content).poll_frame(&mut cx), Poll::Ready(Some(Err(_)))), "its reader is told");
        assert!(!content.is_end_stream(), "and not that it was all");
        drop((content, shared, waker));
        assert!(weak.upgrade().is_none());
    }
}
