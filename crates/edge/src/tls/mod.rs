//! TLS: ended here, by server name.

mod authority;
mod certificates;
mod challenges;
mod handshake;
mod passthrough;
mod quic;

pub use authority::Authority;
pub use certificates::Certificates;
pub use challenges::Challenges;
pub use handshake::{serve, serve_postgres};
pub use quic::{QuicFailure, allows_http3, failed, for_quic};
