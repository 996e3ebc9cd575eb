//! The way from the edge to a machine.

mod answer;
mod body;
mod content;
mod dial;
mod exchange;
mod kept;
mod line;
mod pool;
mod streams;

pub use answer::{AnswerBody, Answered};
pub use body::RequestBody;
pub use content::{Content, is_expecting, pump, tell_length};
pub use dial::{Dialer, Failed, keep_alive};
pub use exchange::AnswerContent;
pub use kept::{KeepBounds, KeptBody};
pub use line::Line;
pub use pool::Pool;
pub use streams::{GIVEN_UP, Http2, MAX_WINDOW, Requests, SMALL_FRAMES, STREAM_WINDOW, Turn, not_there};
