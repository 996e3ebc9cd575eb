//! A connection with what was read and not yet understood, and what is to be written.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::splice::Stream;

/// How much is read at a time where nobody knows how much comes.
const CHUNK: usize = 16 * 1024;
/// Pieces up to this size are copied behind what is to be written before them; longer ones are written from where
/// they are.
const COPIED: usize = 8 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// A byte stream of any kind, by address.
pub type AnyStream = Box<dyn Stream>;

/// A connection.
pub struct Wire<S> {
    /// Its stream.
    pub stream: S,
    /// What was read and not yet understood.
    pub inbox: BytesMut,
    /// What is to be written.
    pub outbox: Outbox,
    written: u64,
    /// Something was written and may be held back inside the stream, as TLS does.
    is_held_back: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A connection on which nothing has passed.
    pub fn new(stream: S) -> Self {
        Self { stream, inbox: BytesMut::new(), outbox: Outbox::default(), written: 0, is_held_back: false }
    }

    /// Reads some more into the inbox; nothing at the connection's end. While nothing comes no buffer is held.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.inbox.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    /// The same where it is known that so many bytes may come: they are read to where they stay.
    pub fn poll_fill_with(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if wanted <= CHUNK / 2 {
            return self.poll_fill(cx);
        }
        self.inbox.reserve(wanted);
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.inbox)
    }

    /// Whether nothing is there to be read: no byte, no end. Costs nothing while the system has told of nothing.
    pub fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        self.inbox.is_empty() && self.poll_fill(cx).is_pending()
    }

    /// Writes all that is to be written.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbox.is_empty() {
            let stream = Pin::new(&mut self.stream);
            // A single piece costs less to write as one.
            let written = match self.outbox.text_alone() {
                Some(text) => stream.poll_write(cx, text),
                None => stream.poll_write_vectored(cx, &self.outbox.slices()),
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.written += written as u64;
                    self.outbox.written(written);
                    self.is_held_back = true;
                }
            }
        }
        if self.is_held_back {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_held_back = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether all that was to be written has left.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && !self.is_held_back
    }

    /// How many bytes have been written to it.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Gives back what buffers hold for nothing.
    pub fn rest(&mut self) {
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        self.outbox.rest();
    }
}

/// What is to be written: text, then one long piece, then what ends that.
#[derive(Default)]
pub struct Outbox {
    text: BytesMut,
    piece: Bytes,
    tail: &'static [u8],
}

impl Outbox {
    /// Where text is written, at the end of all.
    pub fn text(&mut self) -> &mut BytesMut {
        self.settle();
        &mut self.text
    }

    /// Adds a piece and what ends it.
    pub fn push(&mut self, piece: Bytes, tail: &'static [u8]) {
        self.settle();
        if piece.len() <= COPIED {
            self.text.extend_from_slice(&piece);
            self.text.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (piece, tail);
        }
    }

    /// Whether there is so much that it should be written before more is added.
    pub fn is_full(&self) -> bool {
        !self.piece.is_empty() || self.text.len() > 2 * COPIED
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.piece.is_empty() && self.tail.is_empty()
    }

    fn text_alone(&self) -> Option<&[u8]> {
        (self.piece.is_empty() && self.tail.is_empty()).then_some(&self.text)
    }

    fn slices(&self) -> [IoSlice<'_>; 3] {
        [IoSlice::new(&self.text), IoSlice::new(&self.piece), IoSlice::new(self.tail)]
    }

    fn written(&mut self, mut bytes: usize) {
        let text = bytes.min(self.text.len());
        self.text.advance(text);
        bytes -= text;
        let piece = bytes.min(self.piece.len());
        self.piece.advance(piece);
        self.tail = &self.tail[bytes - piece..];
        if self.piece.is_empty() {
            self.piece = Bytes::new();
        }
    }

    /// Makes one text of all, so that more can follow.
    fn settle(&mut self) {
        if !self.piece.is_empty() || !self.tail.is_empty() {
            self.text.extend_from_slice(&self.piece);
            self.text.extend_from_slice(self.tail);
            (self.piece, self.tail) = (Bytes::new(), &[]);
        }
    }

    fn rest(&mut self) {
        if self.text.is_empty() && self.text.capacity() > 0 {
            self.text = BytesMut::new();
        }
    }

    /// All of it, as tests look at it.
    #[cfg(test)]
    pub fn take(&mut self) -> BytesMut {
        self.settle();
        self.text.split()
    }
}

/// A stream before which some bytes were read already.
pub struct Prefixed<S> {
    before: Bytes,
    stream: S,
}

impl<S> Prefixed<S> {
    /// `stream`, with `before` in front of what it says.
    pub fn new(before: Bytes, stream: S) -> Self {
        Self { before, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.before.len().min(buf.remaining());
        buf.put_slice(&self.before.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
