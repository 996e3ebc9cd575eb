//! The letters of HTTP/2 (RFC 9113) as a server reads and writes them: bytes in, events out; answers in, bytes out.
//!
//! ```text
//!  inbox ─▶ frame ─▶ protocol ─┬─▶ a request begins ─▶ hpack ─▶ request
//!                       │      ├─▶ a request is taken back
//!                       │      └─▶ content, kept until it is read; its window follows
//!  outbox ◀── frame ◀───┴────── head (hpack), content as far as the windows are open, goodbye
//! ```
//!
//! Nothing here waits, knows a socket or reads a clock: who does is `http::multiplex`.

mod floods;
mod frame;
mod hpack;
mod protocol;
mod request;
mod stream;

pub use floods::{Flood, Floods};
pub use frame::{PREFACE, Reason};
pub use hpack::{BadBlock, Decoder, Encoder, List};
pub use protocol::{Broken, Event, Flow, Limits, Protocol};
pub use request::RequestHead;
pub use stream::{Over, Piece};
