//! Certificates. Of custom host names: what DNS says, whether a certificate fits, and how one is ordered (RFC 8555).
//!
//! ```text
//!  control ──Certifier──▶ Certs ──▶ chain    does a certificate fit its key and its name: pure
//!                           │ ────▶ dns      asks name servers, caches nothing
//!                           └ ────▶ order ──▶ account     made once, its key sealed at rest
//!                                     │ ────▶ transport   HTTPS to the ACME server, bounded in time and size
//!                                     │ ────▶ problem     what the server's refusal means: pure
//!                                     ├ ChallengeDoor ──▶ edge     TLS-ALPN-01, HTTP-01
//!                                     └ hook ──▶ operator's program DNS-01
//! ```
//!
//! This room remembers nothing but the account: who may have a certificate for which name, and when it is due, is the
//! control plane's to decide and to store. An order that is dropped half-way is as good as one that was never made:
//! its answers are taken back, and the next one begins anew.

mod account;
mod chain;
mod dns;
mod hook;
mod hosts;
mod order;
mod problem;
mod transport;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use api::internal::{
    AcmeService, CertificateDefect, CertificateFacts, CertificateOrder, Certifier, ChallengeDoor, DnsQuestion, DnsSeen,
    IssueError, IssuedCertificate,
};
use async_trait::async_trait;
use kit::seal::SealingKey;
use model::{Hostname, Timestamp};

pub use account::Account;
pub use chain::inspect;
pub use hook::{DnsHook, HookError};
pub use hosts::{AuthorityError, HostAuthority, HostKey};
pub use problem::retry_after_in;
pub use transport::TransportError;

/// Let's Encrypt's directory for certificates that count.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How certificates are ordered.
pub struct AcmeOptions {
    /// The ACME server's directory.
    pub directory: String,
    /// Whom the issuer may write to. Giving it is to agree to the issuer's terms.
    pub email: String,
    /// A file of authorities (PEM) that the ACME server's own certificate is checked against, in place of those of the
    /// web.
    pub ca: Option<PathBuf>,
    /// The program that sets DNS records.
    pub dns_hook: Option<PathBuf>,
    /// Where the account is kept.
    pub accounts: PathBuf,
    /// Seals the account's key.
    pub sealing_key: SealingKey,
}

/// What this room is told at its start.
pub struct CertsOptions {
    /// The name servers that are asked, in order.
    pub name_servers: Vec<SocketAddr>,
    /// How certificates are ordered; not at all without.
    pub acme: Option<AcmeOptions>,
    /// Where ACME servers find answers.
    pub door: Arc<dyn ChallengeDoor>,
}

/// The room.
pub struct Certs {
    name_servers: Vec<SocketAddr>,
    acme: Option<order::Orders>,
}

impl Certs {
    /// Opens the room. No server is asked before the first order.
    ///
    /// # Errors
    /// If the file of authorities cannot be used.
    pub fn open(options: CertsOptions) -> Result<Arc<Self>, TransportError> {
        let acme = options.acme.map(|acme| order::Orders::open(acme, options.door)).transpose()?;
        Ok(Arc::new(Self { name_servers: options.name_servers, acme }))
    }
}

#[async_trait]
impl Certifier for Certs {
    fn service(&self) -> AcmeService {
        self.acme.as_ref().map_or(AcmeService::Off, |acme| AcmeService::On { by_dns: acme.by_dns() })
    }

    async fn look_up(&self, question: &DnsQuestion) -> DnsSeen {
        dns::look_up(&self.name_servers, question).await
    }

    fn inspect(
        &self,
        hostname: &Hostname,
        chain_pem: &str,
        key_pem: &str,
        now: Timestamp,
    ) -> Result<CertificateFacts, CertificateDefect> {
        chain::inspect(hostname, chain_pem, key_pem, now)
    }

    async fn issue(&self, order: &CertificateOrder) -> Result<IssuedCertificate, IssueError> {
        let acme = self.acme.as_ref().ok_or(IssueError::Off)?;
        acme.issue(order).await
    }

    async fn renewal_window(&self, chain_pem: &str) -> Option<(Timestamp, Timestamp)> {
        self.acme.as_ref()?.renewal_window(chain_pem).await
    }
}
