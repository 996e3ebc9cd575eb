//! Answers to ACME servers: only for proofs that are pending, each for its own name and token.
//!
//! - TLS-ALPN-01 (RFC 8737): a handshake that offers `acme-tls/1` and nothing else is for us. It gets a self-signed
//!   certificate with the proof inside, and the connection ends.
//! - HTTP-01 (RFC 8555, 8.3): a text under `/.well-known/acme-challenge/<token>`. Every other path there is the app's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::internal::ChallengeAnswer;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The protocol of the handshake.
const ACME_TLS: &[u8] = b"acme-tls/1";
/// Where tokens are asked for.
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";
/// How many proofs of each kind may be pending: more than are ever ordered at a time.
const MAX_PENDING: usize = 1_000;

/// The digest that a handshake has to show, and how it is shown.
type Pending = ([u8; 32], Arc<ServerConfig>);

/// The pending proofs.
#[derive(Default)]
pub struct Challenges {
    /// Texts by name and token.
    http: Mutex<HashMap<(String, String), String>>,
    /// Configurations by name.
    tls: Mutex<HashMap<String, Pending>>,
}

impl Challenges {
    /// Gives this answer from now on.
    pub fn present(&self, answer: &ChallengeAnswer) -> Result<(), String> {
        let full = |pending: usize| (pending >= MAX_PENDING).then(|| "too many proofs are pending".to_owned());
        match answer {
            ChallengeAnswer::Http { hostname, token, key_authorization } => {
                let mut pending = lock(&self.http);
                full(pending.len()).map_or(Ok(()), Err)?;
                pending.insert((hostname.to_string(), token.clone()), key_authorization.clone());
            }
            ChallengeAnswer::TlsAlpn { hostname, digest } => {
                let config = config(hostname.as_str(), digest)?;
                let mut pending = lock(&self.tls);
                full(pending.len()).map_or(Ok(()), Err)?;
                pending.insert(hostname.to_string(), (*digest, config));
            }
        }
        Ok(())
    }

    /// Gives it no longer. A newer proof of the same name stays.
    pub fn withdraw(&self, answer: &ChallengeAnswer) {
        match answer {
            ChallengeAnswer::Http { hostname, token, .. } => {
                lock(&self.http).remove(&(hostname.to_string(), token.clone()));
            }
            ChallengeAnswer::TlsAlpn { hostname, digest } => {
                let mut pending = lock(&self.tls);
                if pending.get(hostname.as_str()).is_some_and(|(pending, _)| pending == digest) {
                    pending.remove(hostname.as_str());
                }
            }
        }
    }

    /// How to answer a handshake, if it asks for a proof that is pending.
    pub fn tls(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let mut offered = hello.alpn()?;
        let asks = offered.next() == Some(ACME_TLS) && offered.next().is_none();
        let name = hello.server_name().filter(|_| asks)?.to_ascii_lowercase();
        lock(&self.tls).get(&name).map(|(_, config)| config.clone())
    }

    /// The text at a path, if it is a proof that is pending.
    pub fn http(&self, host: &str, path: &str) -> Option<String> {
        let token = path.strip_prefix(WELL_KNOWN)?;
        lock(&self.http).get(&(host.to_owned(), token.to_owned())).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(name: &str, digest: &[u8; 32]) -> Result<Arc<ServerConfig>, String> {
    let proof = Proof(certificate(name, digest)?);
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(proof));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(Arc::new(config))
}

/// A certificate for the name alone, with the digest in a critical extension.
fn certificate(name: &str, digest: &[u8; 32]) -> Result<Arc<CertifiedKey>, String> {
    let words = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(words)?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(words)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(words)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = aws_lc_rs::sign::any_ecdsa_type(&key).map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
struct Proof(Arc<CertifiedKey>);

impl ResolvesServerCert for Proof {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
