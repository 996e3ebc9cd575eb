//! The way from the edge to a machine.

mod body;
mod dial;
mod pool;

pub use body::RequestBody;
pub use dial::{Answered, Dialer, Failed};
pub use pool::{Keep, Pool};
