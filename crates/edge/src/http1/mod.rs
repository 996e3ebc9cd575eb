//! The letters of HTTP/1.1 (RFC 9112), in both directions: where a message ends, how it is read and written.
//!
//! ```text
//!  stream ─▶ wire.inbox ─▶ head ─▶ framing ─▶ decode ─▶ content
//!  stream ◀─ wire.outbox ◀─ head ◀─────────── encode ◀─ content
//! ```
//!
//! `framing`, `head`, `decode` and `encode` are pure: bytes in, values out. A `wire` is a connection with what was read and
//! not yet understood and what is to be written; idle, it keeps no buffer. Who speaks over it: `http::connection` with
//! clients, `upstream::exchange` with machines. Neither needs a task or a channel for it: the bytes of a request and of its
//! answer pass in the task of the client's connection.
//!
//! What two readers could read differently is refused, or written anew in one reading; nothing is passed on as it came.

mod alarm;
mod decode;
mod encode;
mod fields;
mod framing;
mod head;
mod wire;

pub use alarm::Alarm;
pub use decode::{Decoder, Piece};
pub use encode::{Encoder, announce};
pub use fields::{Fields, Listed, Place};
pub use framing::Framing;
pub use head::{
    AnswerHead, BadHead, MAX_FIELDS, MAX_TARGET, RequestHead, Seen, take_answer, take_request, write_answer,
    write_field, write_request_fields, write_request_line,
};
pub use wire::{AnyStream, Outbox, Prefixed, Wire};
