//! TLS: ended here, by server name.

mod authority;
mod certificates;
mod challenges;
mod handshake;
mod passthrough;

pub use authority::Authority;
pub use certificates::Certificates;
pub use challenges::Challenges;
pub use handshake::{serve, serve_postgres};
