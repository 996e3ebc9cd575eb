//! A request's body on its way to a machine. It tells when it has been sent whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::kept::Reader;
use crate::{options::BoxError, worker::Said};

/// A request's body.
#[derive(Default)]
pub struct RequestBody {
    inner: Content,
    sent: Option<oneshot::Sender<()>>,
}

enum Content {
    /// A client's.
    Kept(Reader),
    /// One way of a connection.
    Said(Said),
}

impl Default for Content {
    fn default() -> Self {
        Self::Kept(Reader::default())
    }
}

impl From<Reader> for RequestBody {
    fn from(inner: Reader) -> Self {
        Self { inner: Content::Kept(inner), sent: None }
    }
}

impl From<Said> for RequestBody {
    fn from(said: Said) -> Self {
        Self { inner: Content::Said(said), sent: None }
    }
}

impl RequestBody {
    /// Whether it is one way of a connection, which ends by itself.
    pub fn is_connection(&self) -> bool {
        matches!(self.inner, Content::Said(_))
    }

    /// Resolves once the body has been sent whole, or is given up.
    pub fn sent(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.sent = (!self.is_end_stream()).then_some(sender);
        receiver
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(match &mut self.inner {
            Content::Kept(reader) => Pin::new(reader).poll_frame(cx),
            Content::Said(said) => Pin::new(said).poll_frame(cx),
        });
        if frame.is_none() || self.is_end_stream() {
            self.sent = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Content::Kept(reader) => reader.is_end_stream(),
            Content::Said(said) => said.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Content::Kept(reader) => reader.size_hint(),
            Content::Said(said) => said.size_hint(),
        }
    }
}
