//! The local certificate authority, for development: made at the first start, good for the platform's own domain only
//! (name constraints, RFC 5280, 4.2.1.10), so that trusting it endangers nothing else.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::EdgeError;

/// For how many years the authority is good.
const AUTHORITY_YEARS: i32 = 10;

/// The authority: its key signs certificates for hosts.
pub struct Authority {
    /// Its certificate in PEM, for whoever shall trust it.
    pub path: PathBuf,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// The key of every host's certificate, made anew with each process.
    host_key: KeyPair,
}

impl Authority {
    /// Reads the authority of a directory; makes one if there is none, or if it is for another domain.
    pub fn load_or_create(keys: &Path, domain: &str) -> Result<Self, EdgeError> {
        let (path, key_path) = (keys.join("ca.pem"), keys.join("ca.key"));
        let failed = |reason: String| EdgeError::Authority { path: path.clone(), reason };
        let read = read_pair(&path, &key_path).map_err(|error| failed(error.to_string()))?;
        let (certificate, key) = match read.filter(|(certificate, _)| is_for(certificate, domain)) {
            Some((certificate, key)) => (certificate, key),
            None => create(&path, &key_path, domain).map_err(failed)?,
        };
        let unusable = |error: rcgen::Error| {
            failed(format!("{error}; remove {} and {} to have it made anew", path.display(), key_path.display()))
        };
        let key = KeyPair::from_pem(&key).map_err(unusable)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| failed(format!("it is no certificate: {error}")))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(unusable)?;
        let host_key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
        Ok(Self { path, certificate, issuer, host_key })
    }

    /// A certificate for host names; `*.…` stands for all names directly below one.
    pub fn certify(&self, names: &[String]) -> Result<Arc<CertifiedKey>, String> {
        let mut params = host_params(names)?;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.host_key, &self.issuer).map_err(|error| error.to_string())?;
        self.with_host_key(vec![certificate.der().clone(), self.certificate.clone()])
    }

    /// A certificate for a host name that nobody vouches for.
    pub fn self_sign(&self, name: &str) -> Result<Arc<CertifiedKey>, String> {
        let params = host_params(&[name.to_owned()])?;
        let certificate = params.self_signed(&self.host_key).map_err(|error| error.to_string())?;
        self.with_host_key(vec![certificate.der().clone()])
    }

    fn with_host_key(&self, chain: Vec<CertificateDer<'static>>) -> Result<Arc<CertifiedKey>, String> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.host_key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).map_err(|error| error.to_string())?;
        Ok(Arc::new(CertifiedKey::new(chain, key)))
    }
}

/// What a host's certificate says, whoever signs it.
fn host_params(names: &[String]) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
    params.distinguished_name = named("Dunlin edge");
    // Browsers refuse certificates that are good for much more than a year.
    set_validity(&mut params, 1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// The certificate and its key in PEM; `None` if either is missing.
fn read_pair(path: &Path, key_path: &Path) -> io::Result<Option<(String, String)>> {
    match (fs::read_to_string(path), fs::read_to_string(key_path)) {
        (Ok(certificate), Ok(key)) => Ok(Some((certificate, key))),
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

fn create(path: &Path, key_path: &Path, domain: &str) -> Result<(String, String), String> {
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&authority_name(domain));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: vec![],
    });
    set_validity(&mut params, AUTHORITY_YEARS);
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)
        .and_then(|()| kit::durable::write(key_path, key.as_bytes(), 0o600))
        .and_then(|()| kit::durable::write(path, certificate.as_bytes(), 0o644))
        .map_err(|error| format!("{error}; check that {} may be written", directory.display()))?;
    Ok((certificate, key))
}

/// Whether an authority was made for a domain: its name says so.
fn is_for(certificate: &str, domain: &str) -> bool {
    let name = authority_name(domain);
    let der = CertificateDer::from_pem_slice(certificate.as_bytes());
    der.is_ok_and(|der| der.windows(name.len()).any(|window| window == name.as_bytes()))
}

fn authority_name(domain: &str) -> String {
    format!("Dunlin local CA ({domain})")
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Good from two days ago, since clocks differ, for so many years.
fn set_validity(params: &mut CertificateParams, years: i32) {
    let text = kit::clock::rfc3339(kit::clock::unix_ms().saturating_sub(2 * 86_400_000));
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<u8>().ok());
    let year = text.get(..4).and_then(|digits| digits.parse().ok()).unwrap_or(1970);
    // The last days of a month are not there in every year.
    let (month, day) = (number(5..7).unwrap_or(1), number(8..10).unwrap_or(1).min(28));
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(year + years, month, day);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_authority_outlives_its_process_and_serves_one_domain() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        let first = Authority::load_or_create(&keys, "dunlin.localhost").unwrap().certificate;
        let again = Authority::load_or_create(&keys, "dunlin.localhost").unwrap();
        assert_eq!(first, again.certificate);
        assert_eq!(again.certify(&["shop.dunlin.localhost".into()]).unwrap().cert.len(), 2);
        let mode = fs::metadata(keys.join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = Authority::load_or_create(&keys, "localhost").unwrap();
        assert_ne!(first, other.certificate);
    }

    #[test]
    fn a_broken_key_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        Authority::load_or_create(directory.path(), "dunlin.localhost").unwrap();
        fs::write(directory.path().join("ca.key"), "nonsense").unwrap();
        let error = Authority::load_or_create(directory.path(), "dunlin.localhost").err().unwrap();
        assert!(error.to_string().contains("remove"), "{error}");
    }
}
