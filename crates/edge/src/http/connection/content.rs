//! A request's content, read from the connection that its answer is written to.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::AsyncWrite;

use crate::{
    http1::{AnyStream, Decoder, Framing, Piece, Prefixed, Wire},
    options::BoxError,
};

/// So much may come before its turn.
const MAX_EARLY: usize = 64 * 1024;

/// What the connection and the content of its present request share.
pub struct Conversation {
    /// The connection.
    pub wire: Wire<AnyStream>,
    /// Takes the content of the present request.
    pub decoder: Decoder,
    /// Which request is the present one.
    turn: u64,
    /// The client waits to be told that its content is wanted (RFC 9110, 10.1.1).
    pub waits: bool,
    /// The content of the present request broke off.
    is_broken: bool,
    /// Whoever looks whether the client is there, which cannot be seen before all of the content was read.
    looks: Option<Waker>,
}

/// A conversation, shared. It is locked for one step at a time.
#[derive(Clone)]
pub struct Talk(Arc<Mutex<Conversation>>);

impl Talk {
    /// A conversation in which nothing has been said.
    pub fn new(wire: Wire<AnyStream>) -> Self {
        let decoder = Decoder::new(Framing::Empty);
        let conversation = Conversation { wire, decoder, turn: 0, waits: false, is_broken: false, looks: None };
        Self(Arc::new(Mutex::new(conversation)))
    }

    /// For one step.
    pub fn lock(&self) -> MutexGuard<'_, Conversation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connection out of the conversation, with what was read of it.
    pub fn hand_over(&self) -> Prefixed<AnyStream> {
        let mut conversation = self.lock();
        conversation.turn += 1;
        let wire = std::mem::replace(&mut conversation.wire, Wire::new(Box::new(tokio::io::empty())));
        Prefixed::new(wire.inbox.freeze(), wire.stream)
    }
}

impl Talk {
    /// The present request is over: passes over what nobody read of its content, if that is no more than `limit`.
    /// Tells whether the next request begins where this one ended.
    pub async fn pass_over(&self, limit: usize) -> bool {
        let mut passed = 0;
        poll_fn(|cx| {
            let mut conversation = self.lock();
            conversation.end_turn();
            // A client that was never told to send its content may send it, or not.
            while !conversation.decoder.is_ended() && !conversation.waits && passed <= limit {
                match ready!(conversation.poll_piece(cx)) {
                    Ok(Piece::Data(data)) => passed += data.len(),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            Poll::Ready(conversation.decoder.is_ended())
        })
        .await
    }

    /// Closes the connection. While its client still sends, it is read from, so that the client gets to read what was
    /// said last (RFC 9112, 9.6).
    pub async fn close(&self) {
        let closed = poll_fn(|cx| {
            let mut conversation = self.lock();
            let _ = ready!(conversation.wire.poll_flush(cx));
            Pin::new(&mut conversation.wire.stream).poll_shutdown(cx)
        })
        .await;
        let mut is_talking = closed.is_ok() && {
            let conversation = self.lock();
            !conversation.decoder.is_ended() || !conversation.wire.inbox.is_empty()
        };
        while is_talking {
            is_talking = poll_fn(|cx| {
                let mut conversation = self.lock();
                conversation.wire.inbox.clear();
                conversation.wire.poll_fill(cx)
            })
            .await
            .is_ok_and(|read| read > 0);
        }
    }
}

impl Conversation {
    /// The content of the request whose head was just read. `talk` is this conversation.
    pub fn content(&mut self, talk: &Talk, framing: Framing, waits: bool) -> Content {
        self.turn += 1;
        (self.decoder, self.waits, self.is_broken) = (Decoder::new(framing), waits, false);
        Content { talk: talk.clone(), turn: self.turn }
    }

    /// The present request is over. Tells whether its content was read to its end.
    pub fn end_turn(&mut self) -> bool {
        self.turn += 1;
        self.decoder.is_ended()
    }

    /// Whether the client is gone, as far as that can be told: it has closed, or reset. What it sends before its turn
    /// is kept, up to a bound.
    pub fn is_gone(&mut self, cx: &mut Context<'_>) -> bool {
        // What comes before an answer goes out before it.
        if !self.wire.is_flushed() && matches!(self.wire.poll_flush(cx), Poll::Ready(Err(_))) {
            return true;
        }
        if self.is_broken {
            return true;
        }
        // Content that nobody has read yet would be in the way.
        if !self.decoder.is_ended() {
            let is_known = self.looks.as_ref().is_some_and(|looks| looks.will_wake(cx.waker()));
            if !is_known {
                self.looks = Some(cx.waker().clone());
            }
        }
        while self.decoder.is_ended() && self.wire.inbox.len() < MAX_EARLY {
            match self.wire.poll_fill(cx) {
                Poll::Ready(Ok(read)) if read > 0 => {}
                Poll::Ready(_) => return true,
                Poll::Pending => return false,
            }
        }
        false
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, BoxError>> {
        loop {
            match self.decoder.next(&mut self.wire.inbox)? {
                Piece::More => {}
                piece => return Poll::Ready(Ok(piece)),
            }
            if std::mem::take(&mut self.waits) {
                self.wire.outbox.text().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                let _ = self.wire.poll_flush(cx)?;
            }
            let wanted = self.decoder.wants();
            if ready!(self.wire.poll_fill_with(cx, wanted))? == 0 {
                self.decoder.cut_off()?;
            }
        }
    }
}

/// A request's content, as it comes.
pub struct Content {
    talk: Talk,
    turn: u64,
}

impl Content {
    /// The conversation, as long as it is about this request.
    fn present(&self) -> Option<MutexGuard<'_, Conversation>> {
        let conversation = self.talk.lock();
        (conversation.turn == self.turn).then_some(conversation)
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let over = || io::Error::new(io::ErrorKind::BrokenPipe, "the request is over");
        let Some(mut conversation) = self.present() else { return Poll::Ready(Some(Err(over().into()))) };
        let piece = ready!(conversation.poll_piece(cx));
        conversation.is_broken |= piece.is_err();
        if conversation.is_broken || conversation.decoder.is_ended() {
            // The client can be looked for from now on, perhaps by another task than this.
            conversation.looks.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End | Piece::More) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.present().is_none_or(|conversation| conversation.decoder.is_ended())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.present().map_or(Some(0), |conversation| conversation.decoder.rest());
        rest.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
