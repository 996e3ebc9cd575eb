//! Hosts of the platform, and by what they prove to each other that they are.
//!
//! ```text
//!  edge or worker: key ─▶ request (CSR) ──▶ control ──HostCertifier──▶ authority
//!                          certificate  ◀──────────────────────────────┘
//! ```

use model::{HostId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A host asks to be one of the platform's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRequest {
    /// A certificate signing request (RFC 2986) in PEM. It proves that who asks has the key; nothing else of it counts.
    pub request_pem: String,
}

/// What makes a host one of the platform's, with its key, which never leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertificate {
    /// The certificate, in PEM. It names the host ([`HostId::certificate_name`]).
    pub certificate_pem: String,
    /// The authority that signed it and that vouches for all others, in PEM.
    pub authority_pem: String,
    /// To be replaced from then on.
    pub renew_at: Timestamp,
}

/// A request for a certificate that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this is no certificate signing request: {0}")]
pub struct BadHostRequest(pub String);

/// Vouches for hosts.
pub trait HostCertifier: Send + Sync {
    /// Signs a certificate for a host.
    ///
    /// # Errors
    /// If `request_pem` is no request, or is not signed by its own key.
    fn certify(&self, host: &HostId, request_pem: &str) -> Result<HostCertificate, BadHostRequest>;
}
