//! Whether a chain of certificates and a private key can be used for a host name. Pure.
//!
//! Both come from users: sizes and counts are bounded, and nothing of the key is ever told.

use api::internal::{CertificateDefect, CertificateFacts};
use kit::clock::rfc3339;
use model::{Hostname, Timestamp};
use rustls::{
    SignatureAlgorithm,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time, x509::X509Name,
};

/// Longest chain, in certificates.
const MAX_CERTIFICATES: usize = 10;
/// Longest chain or key, in bytes of PEM.
const MAX_PEM_BYTES: usize = 64 * 1024;
/// How many names a message tells.
const MAX_NAMES_TOLD: usize = 8;

/// Whether a chain and a key can be used for a host name at a moment.
///
/// # Errors
/// If not, with the first reason.
pub fn inspect(
    hostname: &Hostname,
    chain_pem: &str,
    key_pem: &str,
    now: Timestamp,
) -> Result<CertificateFacts, CertificateDefect> {
    let chain = read_chain(chain_pem)?;
    let key_kind = check_key(&chain, key_pem)?;
    let parsed = chain.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    check_order(&parsed)?;
    let leaf = &parsed[0];
    check_names(hostname, leaf)?;
    let (not_before, not_after) = (milliseconds(leaf.validity.not_before), milliseconds(leaf.validity.not_after));
    if now >= not_after {
        return Err(CertificateDefect::Expired(rfc3339(not_after.0)));
    }
    if now < not_before {
        return Err(CertificateDefect::NotYet(rfc3339(not_before.0)));
    }
    Ok(CertificateFacts { not_before, not_after, issuer: name_of(&leaf.issuer), key_kind })
}

fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateDefect> {
    let broken = |reason: String| CertificateDefect::Chain(reason);
    if pem.len() > MAX_PEM_BYTES {
        return Err(broken(format!("it is longer than {MAX_PEM_BYTES} bytes")));
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    let chain = chain.map_err(|error| broken(error.to_string()))?;
    match chain.len() {
        0 => Err(broken("it holds no certificate (-----BEGIN CERTIFICATE-----)".into())),
        count if count > MAX_CERTIFICATES => Err(broken(format!("it holds more than {MAX_CERTIFICATES} certificates"))),
        _ => Ok(chain),
    }
}

/// Checks that the key is the first certificate's, and tells its kind.
fn check_key(chain: &[CertificateDer<'static>], key_pem: &str) -> Result<&'static str, CertificateDefect> {
    let broken = |reason: &str| CertificateDefect::Key(reason.to_owned());
    if key_pem.len() > MAX_PEM_BYTES {
        return Err(broken("it is too long"));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| broken("it holds no private key in PEM; take a passphrase off first"))?;
    let key =
        any_supported_type(&key).map_err(|_| broken("use ECDSA P-256 or P-384, RSA from 2048 bits, or Ed25519"))?;
    let kind = match key.algorithm() {
        SignatureAlgorithm::ECDSA => "ecdsa",
        SignatureAlgorithm::RSA => "rsa",
        _ => "ed25519",
    };
    let certified = CertifiedKey::new(chain.to_vec(), key);
    match certified.keys_match() {
        Ok(()) => Ok(kind),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateDefect::Mismatch),
        Err(error) => Err(CertificateDefect::Chain(error.to_string())),
    }
}

fn parse<'der>(der: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, CertificateDefect> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(CertificateDefect::Chain("there are bytes after a certificate".into())),
        Err(error) => Err(CertificateDefect::Chain(error.to_string())),
    }
}

/// Each certificate names the next one as its issuer.
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), CertificateDefect> {
    let broken = chain.windows(2).position(|pair| pair[0].issuer.as_raw() != pair[1].subject.as_raw());
    broken.map_or(Ok(()), |index| Err(CertificateDefect::Order(index + 2)))
}

/// The host name is among the certificate's (RFC 9525: the subject's common name does not count).
fn check_names(hostname: &Hostname, leaf: &X509Certificate<'_>) -> Result<(), CertificateDefect> {
    let names = dns_names(leaf);
    if names.iter().any(|name| covers(name, hostname)) {
        return Ok(());
    }
    let told = match names.len() {
        0 => "no host name at all".to_owned(),
        count if count > MAX_NAMES_TOLD => {
            format!("{} and {} more", names[..MAX_NAMES_TOLD].join(", "), count - MAX_NAMES_TOLD)
        }
        _ => names.join(", "),
    };
    Err(CertificateDefect::Names { hostname: hostname.to_string(), names: told })
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else { return Vec::new() };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

/// Whether a certificate's name stands for a host name; that of a wildcard is not proven by single names.
fn covers(name: &str, hostname: &Hostname) -> bool {
    name == hostname.as_str() || Hostname::wildcard_over(hostname.as_str()).is_some_and(|wildcard| wildcard == name)
}

fn milliseconds(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

fn name_of(name: &X509Name<'_>) -> String {
    let text = |attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        attribute.and_then(|attribute| attribute.as_str().ok()).map(|text| text.chars().take(100).collect())
    };
    let common = text(name.iter_common_name().next());
    common.or_else(|| text(name.iter_organization().next())).unwrap_or_default()
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
