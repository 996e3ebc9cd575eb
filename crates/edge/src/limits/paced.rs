//! A request's body that must not come too slowly.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::{Instant, Sleep};

use super::pace::{Pace, Patience};
use crate::options::BoxError;

/// A body comes too slowly.
#[derive(Debug, Error)]
#[error("the request's body comes too slowly")]
pub struct TooSlow;

/// A body of which the rest is expected at a pace. Once an answer has begun it is a conversation, and takes as long as it
/// takes.
pub struct Paced<B> {
    body: B,
    patience: Patience,
    answered: AnswerBegun,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Tells a body that its request has been answered.
#[derive(Clone, Default)]
pub struct AnswerBegun(Arc<AtomicBool>);

impl AnswerBegun {
    /// An answer has begun.
    pub fn tell(&self) {
        self.0.store(true, Relaxed);
    }
}

impl<B> Paced<B> {
    /// A body that is to come at this pace until it is `answered`.
    pub fn new(body: B, pace: Pace, answered: AnswerBegun) -> Self {
        Self { body, patience: Patience::new(pace), answered, alarm: None }
    }

    /// Whether the client has been waited for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.answered.0.load(Relaxed) {
            return false;
        }
        let end = self.patience.wait(Instant::now());
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if alarm.deadline() != end {
            alarm.as_mut().reset(end);
        }
        // It may have been answered meanwhile.
        alarm.as_mut().poll(cx).is_ready() && !self.answered.0.load(Relaxed)
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if self.is_late(cx) => Poll::Ready(Some(Err(TooSlow.into()))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => {
                let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
                self.patience.moved(bytes, Instant::now());
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
