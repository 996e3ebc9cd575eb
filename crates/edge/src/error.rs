//! Why the edge did not start.

use std::{io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

/// Why the edge did not start. Each says what to do next.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// A port is taken.
    #[error(
        "port {} is taken{}: stop that program, or choose another address with --{flag}",
        address.port(),
        holder.as_deref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    PortTaken {
        /// The address that was wanted.
        address: SocketAddr,
        /// The program that listens there, if that can be seen.
        holder: Option<String>,
        /// The option that changes the address.
        flag: &'static str,
    },
    /// An address cannot be listened on for another reason.
    #[error("{address} cannot be listened on; choose another address with --{flag}{}", port_hint(*address))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option that changes the address.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// HTTP/3 cannot be spoken at an address.
    #[error(
        "{address} cannot be listened on by UDP for HTTP/3: free the port, choose another with --https-port, or do \
         without HTTP/3 with --no-http3"
    )]
    Http3 {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The domain is not one.
    #[error("{0:?} is not a domain name; write one such as dunlin.localhost")]
    Domain(String),
    /// This host's certificate for other hosts cannot be used.
    #[error("the certificate by which this host proves to others who it is cannot be used: {reason}")]
    Identity {
        /// What is wrong with it.
        reason: String,
    },
    /// The local certificate authority could not be read or made.
    #[error("the local certificate authority in {} cannot be used: {reason}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

fn port_hint(address: SocketAddr) -> &'static str {
    if address.port() != 0 && address.port() < 1024 { " (ports below 1024 need root)" } else { "" }
}
