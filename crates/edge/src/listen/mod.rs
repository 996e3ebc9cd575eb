//! Listening: on the shared ports and on those that apps ask for.

mod accept;
mod bind;
mod break_off;
mod doors;
mod files;
mod holder;
mod origin;
mod peek;
mod sockets;

pub use accept::accept;
pub use bind::bind;
pub use break_off::break_off;
pub use doors::Doors;
pub use files::allow_all as allow_all_files;
pub use peek::peek;
pub use sockets::Sockets;
