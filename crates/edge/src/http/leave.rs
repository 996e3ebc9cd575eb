//! How a client's connection ends without losing a request, so that another process serves the next one.
//!
//! HTTP/1 has one moment for that: an answer says that it is the last one (RFC 9112, 9.6). A connection closed while it
//! lies idle would meet the request that is on its way. HTTP/2 has a message for it (GOAWAY; RFC 9113, 6.8).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{StatusCode, Version};
use tokio::sync::Notify;

use super::answer::Answer;
use crate::context::Context;

/// Whether a connection carries many requests at a time, once that is known.
#[derive(Default)]
pub struct Multiplexed {
    known: AtomicBool,
    told: Notify,
}

impl Multiplexed {
    /// A request came by this version.
    pub fn came_by(&self, version: Version) {
        if version == Version::HTTP_2 && !self.known.swap(true, Relaxed) {
            self.told.notify_one();
        }
    }

    /// Whether it carries many at a time.
    pub fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// Resolves once the edge retires and the connection can be told so at any time.
    pub async fn leaves(&self, context: &Context) {
        context.retiring.cancelled().await;
        if !self.known.load(Relaxed) {
            self.told.notified().await;
        }
    }
}

/// Makes an answer the last one of its connection if the edge retires.
pub fn make_last<B>(context: &Context, answer: &mut Answer<B>) {
    answer.is_last |= context.leaving.load(Relaxed) && answer.status != StatusCode::SWITCHING_PROTOCOLS;
}
