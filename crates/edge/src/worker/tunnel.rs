//! A connection inside the connection between two hosts: the body of a request one way, that of its answer the other.
//!
//! ```text
//!  edge   write ─▶ Said ═ body of the request ══▶ Tunnel: read   worker
//!         read ◀─ Tunnel ◀══ body of the answer ═ Said ◀─ write
//! ```
//!
//! Each way ends by itself. One that is let go without an end breaks off (`RST_STREAM`), so that a connection that broke
//! is not taken for one that ended.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;

use crate::{options::BoxError, upstream::Content};

/// How many pieces that were written wait to be sent.
const PIECES: usize = 4;
/// How long a piece is at most.
const PIECE: usize = 32 * 1024;

/// What is written into a tunnel.
enum Word {
    Bytes(Bytes),
    End,
}

/// The end of a tunnel that is written into, before it is known what is read from it.
pub struct Mouth(PollSender<Word>);

/// What was written, as a body.
pub struct Said {
    words: mpsc::Receiver<Word>,
    has_ended: bool,
    /// How many bytes wait, where that is bounded.
    waiting: Option<Arc<AtomicUsize>>,
}

/// A way to speak, and what is said.
pub fn speak() -> (Mouth, Said) {
    let (sender, words) = mpsc::channel(PIECES);
    (Mouth(PollSender::new(sender)), Said { words, has_ended: false, waiting: None })
}

/// A way to say what may be lost: nobody waits until there is room for it.
#[derive(Clone)]
pub struct Voice {
    words: mpsc::Sender<Word>,
    waiting: Arc<AtomicUsize>,
}

/// How many pieces may wait that may be lost, and how many bytes.
const FREE: (usize, usize) = (1024, 1 << 20);

/// A way to say what may be lost, and what is said.
pub fn speak_freely() -> (Voice, Said) {
    let (sender, words) = mpsc::channel(FREE.0);
    let waiting = Arc::<AtomicUsize>::default();
    let said = Said { words, has_ended: false, waiting: Some(waiting.clone()) };
    (Voice { words: sender, waiting }, said)
}

impl Voice {
    /// Says a piece. Tells whether there was room for it.
    pub fn try_say(&self, piece: Bytes) -> bool {
        let length = piece.len();
        // It counts before it is there, so that nobody takes it away before.
        let has_room = self.waiting.fetch_add(length, Relaxed) + length <= FREE.1;
        let is_said = has_room && self.words.try_send(Word::Bytes(piece)).is_ok();
        if !is_said {
            self.waiting.fetch_sub(length, Relaxed);
        }
        is_said
    }
}

impl Body for Said {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.words.poll_recv(cx)) {
            Some(Word::Bytes(bytes)) => {
                if let Some(waiting) = &self.waiting {
                    waiting.fetch_sub(bytes.len(), Relaxed);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Word::End) => {
                self.has_ended = true;
                None
            }
            None => Some(Err("it broke off".into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

/// One end of a tunnel, as a stream of bytes.
pub struct Tunnel {
    mouth: Mouth,
    heard: Content,
    unread: Bytes,
}

impl Tunnel {
    /// What is said by `mouth` goes one way, what is `heard` came the other.
    pub fn new(mouth: Mouth, heard: Content) -> Self {
        Self { mouth, heard, unread: Bytes::new() }
    }

    /// Whatever was not ended by now breaks off.
    pub fn break_off(&mut self) {
        self.mouth.0.abort_send();
        self.mouth.0.close();
    }

    fn poll_say(&mut self, cx: &mut Context<'_>, word: impl FnOnce() -> Word) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.mouth.0.poll_reserve(cx)).map_err(gone)?;
        Poll::Ready(self.mouth.0.send_item(word()).map_err(gone))
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.heard).poll_frame(cx)) {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let some = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..some]);
        self.unread.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &buf[..buf.len().min(PIECE)];
        ready!(self.poll_say(cx, || Word::Bytes(Bytes::copy_from_slice(piece))))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.mouth.0.is_closed() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_say(cx, || Word::End))?;
        self.mouth.0.close();
        Poll::Ready(Ok(()))
    }
}
