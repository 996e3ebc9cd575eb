//! How a client's connection ends without losing a request, so that another process serves the next one.
//!
//! HTTP/1 has one moment for that: an answer says that it is the last one (RFC 9112, 9.6). A connection closed while it
//! lies idle would meet the request that is on its way. HTTP/2 has a message for it (GOAWAY; RFC 9113, 6.8).

use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;

use super::answer::Answer;
use crate::context::Context;

/// Makes an answer the last one of its connection if the edge retires.
pub fn make_last<B>(context: &Context, answer: &mut Answer<B>) {
    answer.is_last |= context.leaving.load(Relaxed) && answer.status != StatusCode::SWITCHING_PROTOCOLS;
}
