//! Listening: on the shared ports and on those that apps ask for.

mod accept;
mod admission;
mod bind;
mod doors;
mod files;
mod holder;
mod origin;
mod peek;

pub use accept::accept;
pub use admission::{Admission, source_of};
pub use bind::bind;
pub use doors::Doors;
pub use files::allow_all as allow_all_files;
pub use peek::peek;
