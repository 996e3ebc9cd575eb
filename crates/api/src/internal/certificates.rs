//! Custom host names and their certificates: what the edge serves, and who finds out, orders and proves.
//!
//! ```text
//!  control ──HostnameView──▶ edge            which name is whose, and with which certificates
//!     │                       ▲
//!     └──Certifier──▶ certs ──┘ ChallengeDoor   answers that prove a name to an ACME server
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use async_trait::async_trait;
use kit::seal::SealingKey;
use model::{AppName, Hostname, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Every custom host name that is served, at one moment.
#[derive(Debug, Clone, Default)]
pub struct HostnameView {
    /// Grows with every change.
    pub generation: u64,
    /// The names, each with the app that owns it.
    pub rows: BTreeMap<Hostname, Arc<HostnameRow>>,
    /// Something could not be read: a name that is missing here need not be gone.
    pub incomplete: bool,
}

/// A custom host name that its app has proven to own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostnameRow {
    /// The name.
    pub hostname: Hostname,
    /// The app that answers to it.
    pub app: AppName,
    /// Its certificates, the preferred one first.
    pub certificates: Vec<SealedCertificate>,
}

/// A certificate with its private key, which is sealed wherever it goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedCertificate {
    /// The certificate and those that signed it, in PEM.
    pub chain_pem: String,
    /// The private key in PEM, sealed for [`SealedCertificate::place`].
    pub sealed_key: Vec<u8>,
    /// Good from then on.
    pub not_before: Timestamp,
    /// Good until then.
    pub not_after: Timestamp,
}

impl SealedCertificate {
    /// The place that the key of a host name's certificate is sealed for.
    pub fn place(hostname: &Hostname) -> String {
        format!("certificate/{hostname}")
    }
}

impl fmt::Debug for SealedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A host name as an edge on another host is told: with its keys open, since each host seals with a key of its own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenHostname {
    /// The name.
    pub hostname: Hostname,
    /// The app that answers to it.
    pub app: AppName,
    /// Its certificates, the preferred one first.
    pub certificates: Vec<OpenCertificate>,
}

/// A certificate with its private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCertificate {
    /// The certificate and those that signed it, in PEM.
    pub chain_pem: String,
    /// The private key, in PEM.
    pub key_pem: String,
    /// Good from then on.
    pub not_before: Timestamp,
    /// Good until then.
    pub not_after: Timestamp,
}

impl OpenHostname {
    /// A row with its keys opened; those that do not open are left out.
    #[must_use]
    pub fn of(row: &HostnameRow, sealing_key: &SealingKey) -> Self {
        let place = SealedCertificate::place(&row.hostname);
        let open = |sealed: &SealedCertificate| {
            let key = sealing_key.open(&place, &sealed.sealed_key).ok()?;
            let (not_before, not_after) = (sealed.not_before, sealed.not_after);
            let (chain_pem, key_pem) = (sealed.chain_pem.clone(), String::from_utf8(key).ok()?);
            Some(OpenCertificate { chain_pem, key_pem, not_before, not_after })
        };
        let certificates = row.certificates.iter().filter_map(open).collect();
        Self { hostname: row.hostname.clone(), app: row.app.clone(), certificates }
    }

    /// The row, with its keys sealed by this host's own key.
    #[must_use]
    pub fn sealed(self, sealing_key: &SealingKey) -> HostnameRow {
        let place = SealedCertificate::place(&self.hostname);
        let seal = |open: OpenCertificate| SealedCertificate {
            sealed_key: sealing_key.seal(&place, open.key_pem.as_bytes()),
            chain_pem: open.chain_pem,
            not_before: open.not_before,
            not_after: open.not_after,
        };
        let certificates = self.certificates.into_iter().map(seal).collect();
        HostnameRow { hostname: self.hostname, app: self.app, certificates }
    }
}

/// Where the public DNS is asked about a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsQuestion {
    /// The name itself; nothing is asked about the addresses of a wildcard.
    pub hostname: Hostname,
    /// Where the alias for DNS challenges is looked for.
    pub acme_name: String,
    /// Where the ownership text is looked for.
    pub ownership_name: String,
}

/// What the public DNS says about a host name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsSeen {
    /// Its IPv4 addresses, aliases followed.
    pub a: Vec<Ipv4Addr>,
    /// Its IPv6 addresses, aliases followed.
    pub aaaa: Vec<Ipv6Addr>,
    /// The names that it is an alias of, in the order in which they lead on.
    pub cname: Vec<String>,
    /// What the name for DNS challenges is an alias of.
    pub acme_cname: Option<String>,
    /// The texts at the name for ownership.
    pub ownership_txt: Vec<String>,
    /// What could not be found out, and why.
    pub errors: Vec<String>,
}

/// What is known about a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Good from then on.
    pub not_before: Timestamp,
    /// Good until then.
    pub not_after: Timestamp,
    /// Who signed it, by common name or organization.
    pub issuer: String,
    /// `ecdsa`, `rsa` or `ed25519`.
    pub key_kind: &'static str,
}

/// Why a certificate cannot be used for a host name. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateDefect {
    /// It cannot be read.
    #[error("the certificate chain cannot be read: {0}")]
    Chain(String),
    /// The key cannot be read.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// They do not belong together.
    #[error("the private key is not that of the first certificate; put the host's own certificate first")]
    Mismatch,
    /// One certificate of the chain did not sign the one before it.
    #[error("certificate {0} of the chain did not sign the one before it; put them in order, the host's own first")]
    Order(usize),
    /// It is over.
    #[error("the certificate expired on {0}; import a newer one")]
    Expired(String),
    /// It has not begun.
    #[error("the certificate is good from {0} only; import it then")]
    NotYet(String),
    /// It is for other names.
    #[error("the certificate is not for {hostname}; it names {names}")]
    Names {
        /// What it should be for.
        hostname: String,
        /// What it is for.
        names: String,
    },
}

/// What is ordered.
#[derive(Debug, Clone)]
pub struct CertificateOrder {
    /// For which name.
    pub hostname: Hostname,
    /// Its addresses are ours, so that the edge can prove it.
    pub reaches_edge: bool,
    /// Where a DNS challenge's text is to be put.
    pub acme_record: String,
    /// The chain that it is to take the place of, in PEM.
    pub replaces: Option<String>,
}

/// A certificate fresh from its issuer.
#[derive(Clone)]
pub struct IssuedCertificate {
    /// The certificate and those that signed it, in PEM.
    pub chain_pem: String,
    /// Its private key, in PEM.
    pub key_pem: String,
}

/// Why no certificate was issued. `Display` says what and why; [`Self::remedy`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IssueError {
    /// The platform orders none.
    #[error("this platform orders no certificates by ACME")]
    Off,
    /// There is no way to prove the name.
    #[error("{hostname} cannot be proven to the issuer: {reason}")]
    NoMethod {
        /// The name.
        hostname: String,
        /// Why not.
        reason: &'static str,
    },
    /// The issuer looked and did not find the proof.
    #[error("the issuer could not validate the name by {method}: {reason}")]
    Validation {
        /// The kind of challenge.
        method: &'static str,
        /// What it said.
        reason: String,
    },
    /// The issuer wants fewer orders, or so many were made that more would use up what it takes from everybody.
    #[error("no more is ordered for now: {reason}")]
    RateLimited {
        /// What it said, or what was counted here.
        reason: String,
        /// When it may be asked again; unknown if it did not say.
        until: Option<Timestamp>,
    },
    /// The issuer refused.
    #[error("the issuer refused the order: {0}")]
    Refused(String),
    /// The issuer cannot be reached, or something on this side failed.
    #[error("the issuer could not be asked: {0}")]
    Unavailable(String),
}

impl IssueError {
    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Off => "acme_off",
            Self::NoMethod { .. } => "no_method",
            Self::Validation { .. } => "validation_failed",
            Self::RateLimited { .. } => "rate_limited",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Off => "start `dunlin serve` with --acme-email, or import a certificate",
            Self::NoMethod { .. } => {
                "point the name's A and AAAA records at this platform, or start `dunlin serve` with --acme-dns-hook"
            }
            Self::Validation { .. } => "check that the name leads here on ports 80 and 443 from the whole internet",
            Self::RateLimited { .. } => "wait; it is tried again by itself",
            Self::Refused(_) => "read what the issuer says; it is tried again by itself",
            Self::Unavailable(_) => "nothing: it is tried again by itself",
        }
    }
}

/// What an ACME server is told when it asks whether a name is ours (RFC 8555, 8; RFC 8737). None of it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChallengeAnswer {
    /// By HTTP: the text under a token.
    Http {
        /// The name.
        hostname: Hostname,
        /// The token.
        token: String,
        /// The text.
        key_authorization: String,
    },
    /// By TLS: a certificate that holds this digest.
    TlsAlpn {
        /// The name.
        hostname: Hostname,
        /// SHA-256 of the key authorization.
        digest: [u8; 32],
    },
}

/// Gives answers to ACME servers: the edge.
#[async_trait]
pub trait ChallengeDoor: Send + Sync {
    /// Gives this answer from now on.
    ///
    /// # Errors
    /// If it cannot: too many are pending, or no certificate can be made.
    fn present(&self, answer: &ChallengeAnswer) -> Result<(), String>;

    /// Gives it no longer.
    fn withdraw(&self, answer: &ChallengeAnswer);

    /// Resolves once the answers are given wherever a name may lead: at once, where that is one place.
    async fn settled(&self) {}
}

/// Whether certificates can be ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcmeService {
    /// No.
    Off,
    /// Yes.
    On {
        /// There is a hook, so that names are proven by DNS too: wildcards, and names that do not lead here yet.
        by_dns: bool,
    },
}

/// Knows certificates, public DNS and the issuer.
#[async_trait]
pub trait Certifier: Send + Sync {
    /// Whether certificates can be ordered here.
    fn service(&self) -> AcmeService;

    /// What the public DNS says now.
    async fn look_up(&self, question: &DnsQuestion) -> DnsSeen;

    /// Whether a chain and a key can be used for a host name.
    ///
    /// # Errors
    /// If not, with the reason.
    fn inspect(
        &self,
        hostname: &Hostname,
        chain_pem: &str,
        key_pem: &str,
        now: Timestamp,
    ) -> Result<CertificateFacts, CertificateDefect>;

    /// Orders a certificate, proves the name and waits for it: seconds, or minutes by DNS.
    ///
    /// # Errors
    /// If none was issued.
    async fn issue(&self, order: &CertificateOrder) -> Result<IssuedCertificate, IssueError>;

    /// When the issuer would like to see a certificate renewed (RFC 9773): the two ends of a window. `None` if it does
    /// not say.
    async fn renewal_window(&self, chain_pem: &str) -> Option<(Timestamp, Timestamp)>;
}
