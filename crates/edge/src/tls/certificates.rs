//! Which certificate a client gets, and how TLS is spoken.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
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
use crate::EdgeError;

/// How many certificates are kept at a time.
const MAX_CERTIFICATES: usize = 10_000;
/// How many ways of speaking TLS are kept at a time.
const MAX_CONFIGS: usize = 256;
/// How long a certificate is used before a fresh one is made.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// What is offered by default: HTTP in both versions.
pub const HTTP_ALPN: [&str; 2] = ["h2", "http/1.1"];

/// Certificates by name, and TLS configurations by options.
pub struct Certificates {
    authority: Authority,
    store: Arc<Store>,
    refusing: Arc<ServerConfig>,
    configs: Mutex<HashMap<Options, Arc<ServerConfig>>>,
    provider: Arc<CryptoProvider>,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

/// Application protocols and versions.
type Options = (Vec<String>, Vec<String>);

/// The certificates that are ready.
#[derive(Debug)]
struct Store {
    by_name: Mutex<HashMap<String, (Instant, Arc<CertifiedKey>)>>,
    /// For the domain and every name directly under it: enough to show a page that says that nobody answers to it.
    fallback: Arc<CertifiedKey>,
}

impl Certificates {
    /// The certificates of a platform domain, signed by the local authority in `keys`.
    pub fn open(keys: &Path, domain: &str) -> Result<Self, EdgeError> {
        let authority = Authority::load_or_create(keys, domain)?;
        let failed = |reason: String| EdgeError::Authority { path: authority.path.clone(), reason };
        let fallback = authority.certify(&[format!("*.{domain}"), domain.to_owned()]).map_err(failed)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let store = Arc::new(Store { by_name: Mutex::default(), fallback });
        let tickets = aws_lc_rs::Ticketer::new().ok();
        let refusing = config(&provider, Arc::new(Nobody), &[], None);
        let refusing = refusing.map_err(|error| failed(error.to_string()))?;
        Ok(Self { store, refusing, configs: Mutex::default(), provider, tickets, authority })
    }

    /// The authority's certificate, in PEM.
    pub fn authority_path(&self) -> PathBuf {
        self.authority.path.clone()
    }

    /// Makes sure that there is a certificate for a name. Only names that lead somewhere are asked for, so their number
    /// is that of the apps.
    pub fn prepare(&self, name: &str) {
        let fresh = |made: &Instant| made.elapsed() < RENEW_AFTER;
        let mut by_name = self.store.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if by_name.get(name).is_some_and(|(made, _)| fresh(made)) {
            return;
        }
        if by_name.len() >= MAX_CERTIFICATES {
            by_name.clear();
        }
        match self.authority.certify(&[name.to_owned()]) {
            Ok(certified) => {
                by_name.insert(name.to_owned(), (Instant::now(), certified));
            }
            Err(reason) => tracing::warn!(name, "no certificate could be made: {reason}"),
        }
    }

    /// How TLS is spoken with these options; `alpn` is offered if the options name none.
    pub fn config(&self, options: &TlsOptions, alpn: &[&str]) -> Arc<ServerConfig> {
        let alpn = if options.alpn.is_empty() {
            alpn.iter().map(|protocol| (*protocol).to_owned()).collect()
        } else {
            options.alpn.clone()
        };
        let key = (alpn, options.versions.clone());
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&key) {
            return config.clone();
        }
        let Ok(mut config) = config(&self.provider, self.store.clone(), &options.versions, self.tickets.clone()) else {
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

impl ResolvesServerCert for Store {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase).unwrap_or_default();
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        Some(by_name.get(&name).map_or_else(|| self.fallback.clone(), |(_, certified)| certified.clone()))
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
