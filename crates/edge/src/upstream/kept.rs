//! A request's body, kept while it passes so that it can be sent again.
//!
//! ```text
//!  client ─▶ what is still to come ─▶ reader ─▶ machine
//!                    │ kept on the way     ▲
//!                    └──────▶ pieces ──────┘ a later reader begins with these
//! ```
//!
//! Pieces are kept up to a bound for each body and a bound for all. Beyond either the body passes all the same, but can
//! be sent only once. There is one reader at a time: a new one takes over, and what an older one still wants fails.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::{
    http::{InboundBody, clean_trailers},
    limits::Paced,
    options::BoxError,
};

/// How many bytes of bodies may be kept.
pub struct KeepBounds {
    /// Of one body.
    pub each: usize,
    /// Of all bodies that are under way.
    pub all: usize,
    taken: AtomicUsize,
}

impl KeepBounds {
    /// So many bytes of each, so many of all.
    pub fn new(each: usize, all: usize) -> Arc<Self> {
        Arc::new(Self { each, all, taken: AtomicUsize::new(0) })
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.all);
        self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }
}

/// A request's body that can be read again.
pub struct KeptBody<B = Paced<InboundBody>>(Option<Arc<Mutex<Inner<B>>>>);

struct Inner<B> {
    source: B,
    /// What has come, as far as it is kept.
    pieces: Vec<Piece>,
    bytes: usize,
    bounds: Arc<KeepBounds>,
    keeping: bool,
    /// Whether some of it has passed that is not kept.
    gone: bool,
    ended: bool,
    /// Which reader may read.
    turn: u64,
}

/// In how many pieces a body may come that is kept: the shortest take room, too.
const MAX_PIECES: usize = 4096;

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl<B> KeptBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// A body that is still to come.
    pub fn new(source: B, bounds: &Arc<KeepBounds>) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        let inner = Inner {
            source,
            pieces: Vec::new(),
            bytes: 0,
            bounds: bounds.clone(),
            keeping: true,
            gone: false,
            ended: false,
            turn: 0,
        };
        Self(Some(Arc::new(Mutex::new(inner))))
    }

    /// A body with nothing in it.
    pub fn empty() -> Self {
        Self(None)
    }

    /// Reads it from its beginning; `None` if that has passed for good.
    pub fn read(&self) -> Option<Reader<B>> {
        let Some(inner) = &self.0 else { return Some(Reader::default()) };
        let mut guard = lock(inner);
        if guard.gone {
            return None;
        }
        guard.turn += 1;
        Some(Reader { inner: Some(inner.clone()), turn: guard.turn, at: 0 })
    }

    /// It will not be sent again: what has been kept goes as it is read.
    pub fn let_go(&self) {
        if let Some(inner) = &self.0 {
            lock(inner).keeping = false;
        }
    }
}

/// Reads a body once.
pub struct Reader<B = Paced<InboundBody>> {
    inner: Option<Arc<Mutex<Inner<B>>>>,
    turn: u64,
    at: usize,
}

impl<B> Default for Reader<B> {
    fn default() -> Self {
        Self { inner: None, turn: 0, at: 0 }
    }
}

impl<B> Inner<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next piece, kept on its way if it may be.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BoxError>>> {
        let Some(frame) = ready!(Pin::new(&mut self.source).poll_frame(cx)) else {
            self.ended = true;
            return Poll::Ready(None);
        };
        let piece = match frame.map_err(Into::into)?.into_data() {
            Ok(data) => Piece::Data(data),
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                clean_trailers(&mut trailers);
                Piece::Trailers(trailers)
            }
        };
        self.keep(&piece);
        Poll::Ready(Some(Ok(piece)))
    }

    fn keep(&mut self, piece: &Piece) {
        let length = piece.length();
        let may_be = self.keeping && !self.gone && self.pieces.len() < MAX_PIECES;
        let fits = may_be && self.bytes + length <= self.bounds.each && self.bounds.take(length);
        if fits {
            self.bytes += length;
            self.pieces.push(piece.clone());
        } else {
            self.give_up();
        }
    }

    /// What a reader gets of what is kept.
    fn kept(&mut self, at: usize) -> Option<Piece> {
        let piece = self.pieces.get(at)?.clone();
        if !self.keeping && at + 1 == self.pieces.len() {
            self.give_up();
        }
        Some(piece)
    }

    fn is_at_end(&self, at: usize) -> bool {
        at >= self.pieces.len() && (self.ended || self.source.is_end_stream())
    }

    fn rest(&self, at: usize) -> SizeHint {
        let kept: u64 = self.pieces.iter().skip(at).map(|piece| piece.length() as u64).sum();
        let source = self.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(kept + source.lower());
        if let Some(upper) = source.upper() {
            hint.set_upper(kept + upper);
        }
        hint
    }
}

impl Piece {
    fn length(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
        }
    }
}

impl<B> Inner<B> {
    fn give_up(&mut self) {
        self.gone = true;
        self.pieces = Vec::new();
        self.bounds.taken.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
    }
}

impl<B> Drop for Inner<B> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<B> Body for Reader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = self.inner.clone() else { return Poll::Ready(None) };
        let mut inner = lock(&inner);
        if inner.turn != self.turn {
            return Poll::Ready(Some(Err("the request is being sent to another machine".into())));
        }
        let piece = match inner.kept(self.at) {
            Some(piece) => piece,
            None if inner.ended => return Poll::Ready(None),
            None => match ready!(inner.poll_next(cx)) {
                Some(piece) => piece?,
                None => return Poll::Ready(None),
            },
        };
        // Where nothing is kept there is nothing to count.
        self.at = if inner.gone { 0 } else { self.at + 1 };
        Poll::Ready(Some(Ok(match piece {
            Piece::Data(data) => Frame::data(data),
            Piece::Trailers(trailers) => Frame::trailers(trailers),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| lock(inner).is_at_end(self.at))
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), |inner| lock(inner).rest(self.at))
    }
}

fn lock<B>(inner: &Mutex<Inner<B>>) -> MutexGuard<'_, Inner<B>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
