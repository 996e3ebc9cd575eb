//! A request's body on its way to a machine. It tells when it has been sent whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::kept::Reader;
use crate::options::BoxError;

/// A request's body.
#[derive(Default)]
pub struct RequestBody {
    inner: Reader,
    sent: Option<oneshot::Sender<()>>,
}

impl From<Reader> for RequestBody {
    fn from(inner: Reader) -> Self {
        Self { inner, sent: None }
    }
}

impl RequestBody {
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
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.is_end_stream() {
            self.sent = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
