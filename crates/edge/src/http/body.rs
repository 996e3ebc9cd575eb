//! An answer's body on its way to the client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Full, combinators::UnsyncBoxBody};

use super::{compress::Compressed, headers, request::What, serve::Busy};
use crate::{
    Refusal,
    account::Account,
    context::Context as Shared,
    machine::{AppState, Lease},
    options::BoxError,
    upstream::{AnswerBody, AnswerContent},
};

/// An answer's body.
pub enum ResponseBody {
    /// It comes from a machine.
    Machine(Box<MachineBody>),
    /// It comes from a machine and is compressed on its way.
    Compressed(Box<Compressed<MachineBody>>),
    /// It comes from the platform's own services.
    Platform(UnsyncBoxBody<Bytes, BoxError>),
    /// It is here.
    Whole(Full<Bytes>),
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

/// A body from a machine, with what has to happen at its end: the place becomes free. If it breaks off, the app is told.
pub struct MachineBody {
    inner: AnswerBody,
    lease: Option<Lease>,
    context: Arc<Shared>,
    app: Arc<AppState>,
    /// What was asked for, for the app's log.
    what: What,
}

impl MachineBody {
    /// A body with what was used to get it.
    pub fn new(inner: AnswerBody, lease: Lease, context: Arc<Shared>, app: Arc<AppState>, what: What) -> Self {
        Self { inner, lease: Some(lease), context, app, what }
    }

    /// It came whole.
    fn complete(&mut self) {
        self.lease = None;
    }

    fn broke_off(&mut self, error: &BoxError) {
        if let Some(lease) = self.lease.take() {
            self.context.routing.load().blame(&self.app.name, &lease.target);
            let reason = kit::report::Report(error.as_ref()).to_string();
            let refusal = Refusal::BrokenOff { machine: lease.target.machine.id.clone(), reason };
            self.context.journal.refused(&self.app, &refusal, &self.what);
        }
    }
}

impl Drop for MachineBody {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.complete();
        }
    }
}

impl Body for MachineBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()).and_then(Frame::trailers_mut) {
            headers::clean_trailers(trailers);
        }
        match &frame {
            None => self.complete(),
            Some(Err(error)) => self.broke_off(error),
            Some(Ok(_)) if self.inner.is_end_stream() => self.complete(),
            Some(Ok(_)) => {}
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

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Machine(body) => Pin::new(body).poll_frame(cx),
            Self::Compressed(body) => Pin::new(body).poll_frame(cx),
            Self::Platform(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Machine(body) => body.is_end_stream(),
            Self::Compressed(body) => body.is_end_stream(),
            Self::Platform(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Machine(body) => body.size_hint(),
            Self::Compressed(body) => body.size_hint(),
            Self::Platform(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// A body that does not only come by frames: it may come in bulk, and its request may still be on its way.
pub trait Bulk {
    /// What of it may be moved past the edge, now.
    fn bulk(&mut self) -> Option<&mut AnswerContent>;
    /// So many bytes of it went past.
    fn went_past(&mut self, bytes: usize);
    /// It broke off on its way past.
    fn broke_off(&mut self, error: &BoxError);
    /// Sends what there is of the request, while the client takes no more of the answer.
    fn send_rest(&mut self, cx: &mut Context<'_>);
}

impl Bulk for ResponseBody {
    fn bulk(&mut self) -> Option<&mut AnswerContent> {
        let Self::Machine(body) = self else { return None };
        let AnswerBody::Http1(content) = &mut body.inner else { return None };
        content.is_bulk().then_some(content)
    }

    fn went_past(&mut self, _: usize) {}

    fn broke_off(&mut self, error: &BoxError) {
        if let Self::Machine(body) = self {
            body.broke_off(error);
        }
    }

    fn send_rest(&mut self, cx: &mut Context<'_>) {
        let answer = match self {
            Self::Machine(body) => &mut body.inner,
            Self::Compressed(body) => &mut body.inner_mut().inner,
            Self::Platform(_) | Self::Whole(_) => return,
        };
        if let AnswerBody::Http1(content) = answer {
            content.send_rest(cx);
        }
    }
}

impl Bulk for ClientBody {
    fn bulk(&mut self) -> Option<&mut AnswerContent> {
        self.body.bulk()
    }

    fn went_past(&mut self, bytes: usize) {
        self.account.went_out(bytes);
    }

    fn broke_off(&mut self, error: &BoxError) {
        self.account.failed("PC05");
        self.body.broke_off(error);
    }

    fn send_rest(&mut self, cx: &mut Context<'_>) {
        self.body.send_rest(cx);
    }
}

/// An answer's body as a client reads it: its account is kept, and its connection does not lie idle meanwhile.
pub struct ClientBody {
    body: ResponseBody,
    account: Box<Account>,
    _busy: Busy,
}

impl ClientBody {
    /// A body whose bytes go into this account.
    pub fn new(body: ResponseBody, account: Box<Account>, busy: Busy) -> Self {
        Self { body, account, _busy: busy }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.account.went_out(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => self.account.failed("PC05"),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
