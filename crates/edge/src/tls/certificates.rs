//! Which certificate a client gets, and how TLS is spoken.
//!
//! | server name | certificate |
//! |---|---|
//! | none, or of the platform's domain | the local authority's |
//! | a custom host name | its own (see [`crate::Hostnames`]) |
//! | the same, while it has none | the handshake is refused; a self-signed one where the port's options ask for it |

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::machine::TlsOptions;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::time::Instant;

use super::Authority;
use crate::{EdgeError, Hostnames};

/// How many certificates are kept at a time.
const MAX_CERTIFICATES: usize = 10_000;
/// How many ways of speaking TLS are kept at a time.
const MAX_CONFIGS: usize = 256;
/// How long a certificate is used before a fresh one is made.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// What is offered by default: HTTP in both versions.
pub const HTTP_ALPN: [&str; 2] = ["h2", "http/1.1"];
/// HTTP/3, which is spoken over QUIC only.
pub const HTTP3: &str = "h3";
/// The version that QUIC goes with.
pub const TLS13_ONLY: &str = "TLSv1.3";

/// Certificates by name, and TLS configurations by options.
pub struct Certificates {
    store: Arc<Store>,
    refusing: Arc<ServerConfig>,
    configs: Mutex<HashMap<Options, Arc<ServerConfig>>>,
    provider: Arc<CryptoProvider>,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

/// Application protocols, versions, and what is shown for a name that has no certificate.
type Options = (Vec<String>, Vec<String>, Absent);

/// What is shown for a custom host name that has no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absent {
    /// Nothing: the handshake ends.
    Refuse,
    /// A certificate that nobody trusts.
    SelfSigned,
}

impl Absent {
    /// What a port's options say.
    pub fn of(options: &TlsOptions) -> Self {
        if options.default_self_signed { Self::SelfSigned } else { Self::Refuse }
    }
}

/// The certificates that are ready.
struct Store {
    authority: Authority,
    /// The platform's own.
    domain: String,
    hostnames: Arc<Hostnames>,
    by_name: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
    /// For the domain and every name directly under it: enough to show a page that says that nobody answers to it.
    fallback: Arc<CertifiedKey>,
}

impl Certificates {
    /// The certificates of a platform domain, signed by the local authority in `keys`, and those of custom host names.
    pub fn open(keys: &Path, domain: &str, hostnames: Arc<Hostnames>) -> Result<Self, EdgeError> {
        let authority = Authority::load_or_create(keys, domain)?;
        let failed = |reason: String| EdgeError::Authority { path: authority.path.clone(), reason };
        let fallback = authority.certify(&[format!("*.{domain}"), domain.to_owned()]).map_err(failed)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tickets = aws_lc_rs::Ticketer::new().ok();
        let refusing = config(&provider, Arc::new(Nobody), &[], None);
        let refusing = refusing.map_err(|error| failed(error.to_string()))?;
        let domain = domain.to_owned();
        let store = Arc::new(Store { authority, domain, hostnames, by_name: Mutex::default(), fallback });
        Ok(Self { store, refusing, configs: Mutex::default(), provider, tickets })
    }

    /// The authority's certificate, in PEM.
    pub fn authority_path(&self) -> PathBuf {
        self.store.authority.path.clone()
    }

    /// Makes sure that there is a certificate for a name of the platform's domain. Only names that lead somewhere are
    /// asked for, so their number is that of the apps.
    pub fn prepare(&self, name: &str) {
        if self.store.is_ours(name) {
            self.store.make(name, |authority| authority.certify(&[name.to_owned()]));
        }
    }

    /// The certificate for a name in lower case; for none if it is empty.
    pub fn find(&self, name: &str, absent: Absent) -> Option<Arc<CertifiedKey>> {
        self.store.find(name, absent)
    }

    /// How TLS is spoken inside QUIC, with certificates that `resolver` finds.
    pub fn quic_config(&self, resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let mut config = config(&self.provider, resolver, &[TLS13_ONLY.to_owned()], self.tickets.clone())?;
        config_mut(&mut config).alpn_protocols = vec![HTTP3.into()];
        Ok(config)
    }

    /// How TLS is spoken with these options; `alpn` is offered if the options name none.
    pub fn config(&self, options: &TlsOptions, alpn: &[&str]) -> Arc<ServerConfig> {
        let wanted: Vec<String> = options.alpn.iter().filter(|it| *it != HTTP3).cloned().collect();
        let usual = || alpn.iter().map(|protocol| (*protocol).to_owned()).collect();
        let alpn = if wanted.is_empty() { usual() } else { wanted };
        let absent = Absent::of(options);
        let key = (alpn, options.versions.clone(), absent);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&key) {
            return config.clone();
        }
        let resolver = Arc::new(Resolver { store: self.store.clone(), absent });
        let Ok(mut config) = config(&self.provider, resolver, &options.versions, self.tickets.clone()) else {
            return self.refusing.clone();
        };
        config_mut(&mut config).alpn_protocols = key.0.iter().map(|protocol| protocol.clone().into_bytes()).collect();
        if configs.len() >= MAX_CONFIGS {
            configs.clear();
        }
        configs.insert(key, config.clone());
        config
    }

    /// Ends a handshake with an alert: there is no certificate for that name.
    pub fn refusing(&self) -> Arc<ServerConfig> {
        self.refusing.clone()
    }
}

fn config(
    provider: &Arc<CryptoProvider>,
    resolver: Arc<dyn ResolvesServerCert>,
    versions: &[String],
    tickets: Option<Arc<dyn ProducesTickets>>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let mut config =
        builder.with_protocol_versions(&allowed(versions))?.with_no_client_auth().with_cert_resolver(resolver);
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    Ok(Arc::new(config))
}

/// A configuration that nobody else holds yet.
fn config_mut(config: &mut Arc<ServerConfig>) -> &mut ServerConfig {
    Arc::get_mut(config).expect("it was made a moment ago and not shared")
}

/// The versions that options allow; both if they name none that is known.
fn allowed(versions: &[String]) -> Vec<&'static SupportedProtocolVersion> {
    let known = |name: &String| match name.as_str() {
        "TLSv1.2" => Some(&TLS12),
        "TLSv1.3" => Some(&TLS13),
        _ => None,
    };
    let named: Vec<_> = versions.iter().filter_map(known).collect();
    if named.is_empty() { vec![&TLS13, &TLS12] } else { named }
}

impl Store {
    fn is_ours(&self, name: &str) -> bool {
        name.strip_suffix(self.domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    fn find(&self, name: &str, absent: Absent) -> Option<Arc<CertifiedKey>> {
        if name.is_empty() || self.is_ours(name) {
            return Some(self.made(name).unwrap_or_else(|| self.fallback.clone()));
        }
        self.hostnames.certificate(name).or_else(|| match absent {
            Absent::Refuse => None,
            Absent::SelfSigned => {
                self.make(name, |authority| authority.self_sign(name));
                self.made(name)
            }
        })
    }

    fn made(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.by_name().get(name).map(|(_, certified)| certified.clone())
    }

    /// Makes sure that there is a fresh certificate for a name.
    fn make(&self, name: &str, make: impl FnOnce(&Authority) -> Result<Arc<CertifiedKey>, String>) {
        let mut by_name = self.by_name();
        if by_name.get(name).is_some_and(|(made, _)| made.elapsed() < RENEW_AFTER) {
            return;
        }
        if by_name.len() >= MAX_CERTIFICATES {
            by_name.clear();
        }
        match make(&self.authority) {
            Ok(certified) => {
                by_name.insert(name.to_owned(), (Instant::now(), certified));
            }
            Err(reason) => tracing::warn!(name, "no certificate could be made: {reason}"),
        }
    }

    fn by_name(&self) -> MutexGuard<'_, HashMap<String, (Instant, Arc<CertifiedKey>)>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the certificate for a handshake.
struct Resolver {
    store: Arc<Store>,
    absent: Absent,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("absent", &self.absent).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase).unwrap_or_default();
        self.store.find(&name, self.absent)
    }
}

/// Has no certificate for anybody.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
