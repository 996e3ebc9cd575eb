//! TLS: ended here, by server name.

mod authority;
mod certificates;
mod handshake;

pub use authority::Authority;
pub use certificates::Certificates;
pub use handshake::serve;
