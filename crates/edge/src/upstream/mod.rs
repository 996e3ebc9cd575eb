//! The way from the edge to a machine.

mod answer;
mod body;
mod dial;
mod exchange;
mod kept;
mod line;
mod pool;

pub use answer::{AnswerBody, Answered};
pub use body::RequestBody;
pub use dial::{Dialer, Failed, MAX_WINDOW, STREAM_WINDOW};
pub use exchange::AnswerContent;
pub use kept::{KeepBounds, KeptBody};
pub use line::Line;
pub use pool::Pool;
