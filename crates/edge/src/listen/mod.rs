//! Listening: on the shared ports and on those that apps ask for.

mod accept;
mod admission;
mod bind;
mod doors;
mod holder;

pub use accept::accept;
pub use admission::Admission;
pub use bind::bind;
pub use doors::Doors;
