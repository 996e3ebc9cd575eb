//! HTTP/3 (RFC 9114): the same requests over QUIC.
//!
//! ```text
//!  UDP ─▶ endpoint ─▶ handshakes ─▶ connection ─▶ request ─▶ http::request::answer
//!            │            │             │            └ body, answer: the stream's two halves
//!            │            │             └ transport: QUIC's streams, frames filtered, bytes counted
//!            │            └ prove your address first, if there are many
//!            └ beside every address for HTTPS, on the same port
//!
//!  a connection:  open ──▶ last call ──▶ closing ──▶ closed
//!                  │  asked, or idle      │ requests that were on their way have come: the last one is named (GOAWAY)
//!                  └ the client closes    └ what is under way ends; what still comes is rejected, to be sent elsewhere
//! ```
//!
//! Everything above a request's stream is the same as for the other versions: routing, certificates, the choice of a
//! machine, accounts. What is different here:
//!
//! - Early data (0-RTT) is refused: it can be sent again by whoever saw it, and an app could not tell.
//! - WebSocket over HTTP/3 (RFC 9220) is not offered; clients use another version for it.
//! - The library (`h3`) speaks to QUIC through [`transport`], which keeps from it what it could not bear.

mod answer;
mod body;
mod connection;
mod endpoint;
mod filter;
mod handshakes;
mod request;
mod transport;

use ::http::HeaderValue;

/// For how many seconds clients remember that HTTP/3 is spoken here.
const REMEMBERED_S: u32 = 86_400;

/// What tells clients that HTTP/3 is spoken on this port (RFC 7838).
fn alternative(port: u16) -> HeaderValue {
    let text = format!("h3=\":{port}\"; ma={REMEMBERED_S}");
    HeaderValue::from_str(&text).expect("digits and signs are a field's value")
}

pub use body::RequestBody;
pub use endpoint::{open, open_in_time};
pub use filter::{BadFrames, FrameFilter};
