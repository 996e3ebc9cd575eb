//! A request's body on its way to a machine. It tells when it has been sent whole, and lets no trailer pass that would
//! be a forgery in the header.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::{
    http::{InboundBody, clean_trailers},
    options::BoxError,
};

/// A request's body.
#[derive(Default)]
pub struct RequestBody {
    inner: Option<InboundBody>,
    sent: Option<oneshot::Sender<()>>,
}

impl RequestBody {
    /// A body as it comes from the client.
    pub fn new(inner: InboundBody) -> Self {
        Self { inner: Some(inner), sent: None }
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
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let mut frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()).and_then(Frame::trailers_mut) {
            clean_trailers(trailers);
        }
        if frame.is_none() || self.is_end_stream() {
            self.sent = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
