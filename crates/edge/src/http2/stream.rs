//! One stream: the client's half, whose content waits to be read, and ours.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use thiserror::Error;

/// The request is over, for whatever reason: nothing more comes of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the request is over")]
pub struct Over;

/// Pieces shorter than this are gathered.
const SHORT: usize = 8 * 1024;

/// What comes next of a request's content.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// What is said after it.
    Trailers(HeaderMap),
    /// Nothing: all of it has come.
    End,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What the client sends.
    pub incoming: Incoming,
    /// How much we may send.
    pub window: i64,
    /// Somebody waits until we may send more.
    pub is_held: bool,
    /// We have begun to answer.
    pub is_answered: bool,
}

/// What the client sends in a stream.
#[derive(Debug, Default)]
pub struct Incoming {
    pieces: VecDeque<Bytes>,
    /// Short pieces behind those.
    short: BytesMut,
    trailers: Option<HeaderMap>,
    /// All has come.
    pub is_ended: bool,
    /// How much may come.
    pub room: i64,
    /// How much was read since the client was told of room.
    pub taken: u32,
    /// How much of what was announced is still to come.
    pub announced: Option<u64>,
    /// How much of what was announced is still to be read.
    unread: Option<u64>,
    /// Nobody will read it.
    pub is_unwanted: bool,
    /// The client waits to be told that it is wanted.
    pub waits: bool,
    reader: Option<Waker>,
}

impl Incoming {
    /// Content of this length, if one was announced.
    pub fn new(announced: Option<u64>, is_ended: bool, waits: bool, room: i64) -> Self {
        Self { is_ended, room, announced, unread: announced, waits: waits && !is_ended, ..Self::default() }
    }

    /// Some has come. Short pieces are copied: each would keep all that it was read with.
    pub fn put(&mut self, piece: Bytes) {
        if piece.len() < SHORT {
            self.short.extend_from_slice(&piece);
            if self.short.len() < SHORT {
                return;
            }
        }
        if !self.short.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.short).freeze());
        }
        if piece.len() >= SHORT {
            self.pieces.push_back(piece);
        }
    }

    fn next(&mut self) -> Option<Bytes> {
        let short =
            (self.pieces.is_empty() && !self.short.is_empty()).then(|| std::mem::take(&mut self.short).freeze());
        short.or_else(|| self.pieces.pop_front())
    }

    /// All has come; this follows it.
    pub fn end(&mut self, trailers: Option<HeaderMap>) {
        self.is_ended = true;
        self.trailers = trailers.filter(|_| !self.is_unwanted);
    }

    /// Tells whoever waits for more.
    pub fn tell(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// What comes next.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(piece) = self.next() {
            self.unread = self.unread.map(|unread| unread.saturating_sub(piece.len() as u64));
            return Poll::Ready(Piece::Data(piece));
        }
        if self.is_ended {
            return Poll::Ready(self.trailers.take().map_or(Piece::End, Piece::Trailers));
        }
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether all has come and was read.
    pub fn is_read(&self) -> bool {
        self.is_ended && self.pieces.is_empty() && self.short.is_empty() && self.trailers.is_none()
    }

    /// How much is still to be read, if that was announced.
    pub fn unread(&self) -> Option<u64> {
        self.unread
    }

    /// Throws away what nobody has read. Tells how much that was.
    pub fn clear(&mut self) -> usize {
        self.trailers = None;
        let short = std::mem::take(&mut self.short).len();
        short + self.pieces.drain(..).map(|piece| piece.len()).sum::<usize>()
    }
}
