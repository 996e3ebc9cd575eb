//! The way from the edge to a machine.

mod body;
mod dial;
mod kept;
mod pool;

pub use body::RequestBody;
pub use dial::{Answered, Dialer, Failed};
pub use kept::{KeepBounds, KeptBody};
pub use pool::{Keep, Pool};
