//! The PROXY protocol (HAProxy's specification, versions 1 and 2): a header before the first byte of a connection that
//! says whom it really comes from.
//!
//! - Read from trusted peers only ([`TrustedProxy`]), on the edge's own listeners. A header from anybody else is
//!   payload, and never believed.
//! - Written to machines whose port has the `proxy_proto` handler.
//!
//! Reading and writing are pure: bytes in, header out.

mod crc32c;
mod read;
mod trust;
mod write;

use std::net::SocketAddr;

use thiserror::Error;

pub use read::read;
pub use trust::{BadTrust, Demand, TrustedProxy, demand};
pub use write::write;

/// What a header in binary begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What a header in text begins with.
const WORD: &[u8] = b"PROXY";
/// A header in text is never longer.
const MAX_V1: usize = 107;
/// A header in binary is never longer here: addresses and a handful of short extensions.
pub const MAX_HEADER: usize = 16 + 2048;
/// The extension that names the host a client asked for.
const AUTHORITY: u8 = 0x02;
/// The extension that guards the header against damage.
const CRC32C: u8 = 0x03;

/// Whom a connection comes from, as a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The client.
    pub source: SocketAddr,
    /// The address that the client connected to.
    pub destination: SocketAddr,
}

/// A header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Whom the connection comes from; nothing if it is the proxy's own, such as a health check.
    pub route: Option<Route>,
    /// The host that the client asked for.
    pub authority: Option<String>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// A header, of so many bytes.
    Header(Header, usize),
    /// What may become a header with more bytes.
    Incomplete,
    /// Something else.
    Other,
}

/// Why something that begins as a header is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// It is not finished where it has to be.
    #[error("it is longer than a header can be")]
    TooLong,
    /// The version or the command is unknown.
    #[error("its version or command is unknown")]
    Unknown,
    /// The addresses make no sense.
    #[error("its addresses make no sense")]
    Addresses,
    /// The extensions make no sense.
    #[error("its extensions make no sense")]
    Extensions,
    /// The checksum does not fit.
    #[error("its checksum is wrong")]
    Checksum,
}

#[cfg(test)]
mod tests;
