//! The authority of the platform's own hosts: it vouches to edges and workers for each other, and for nothing else.
//!
//! Its certificates are good for days and are replaced long before, so that nobody has to revoke one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use api::internal::{BadHostRequest, HostCertificate, HostCertifier};
use jiff::{Span, ToSpan, civil::Date, tz::TimeZone};
use kit::seal::SealingKey;
use model::{HostId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, date_time_ymd,
};
use thiserror::Error;

/// For how many days a host's certificate is good, and after how many it is to be replaced.
const DAYS: (i64, i64) = (8, 2);
/// For how many years the authority is good.
const AUTHORITY_YEARS: i64 = 20;
/// What its key is sealed for.
const PLACE: &str = "hosts-authority";

/// The authority cannot be used.
#[derive(Debug, Error)]
#[error("the authority of this platform's hosts, {}: {reason}", path.display())]
pub struct AuthorityError {
    path: PathBuf,
    reason: String,
}

/// The authority of one platform.
pub struct HostAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl HostAuthority {
    /// Reads the authority of a directory; makes one if there is none.
    ///
    /// # Errors
    /// If what is there cannot be read: it is not made anew, since every other host trusts the old one.
    pub fn load_or_create(directory: &Path, sealing_key: &SealingKey) -> Result<Self, AuthorityError> {
        let (path, key_path) = (directory.join("hosts-ca.pem"), directory.join("hosts-ca.sealed"));
        let failed = |reason: String| AuthorityError { path: path.clone(), reason };
        let (certificate_pem, key) = match (read(&path), read(&key_path)) {
            (Ok(Some(certificate)), Ok(Some(sealed))) => {
                let key = sealing_key.open(PLACE, &sealed).map_err(|error| failed(error.to_string()))?;
                (text(certificate).map_err(failed)?, text(key).map_err(failed)?)
            }
            (Err(error), _) | (_, Err(error)) => return Err(failed(error.to_string())),
            _ => {
                let (certificate, key) = create().map_err(|error| failed(error.to_string()))?;
                fs::create_dir_all(directory)
                    .and_then(|()| kit::durable::write(&key_path, &sealing_key.seal(PLACE, key.as_bytes()), 0o600))
                    .and_then(|()| kit::durable::write(&path, certificate.as_bytes(), 0o644))
                    .map_err(|error| failed(error.to_string()))?;
                (certificate, key)
            }
        };
        let unusable = |error: rcgen::Error| failed(error.to_string());
        let key = KeyPair::from_pem(&key).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(unusable)?;
        Ok(Self { certificate_pem, issuer })
    }
}

impl HostCertifier for HostAuthority {
    fn certify(&self, host: &HostId, request_pem: &str) -> Result<HostCertificate, BadHostRequest> {
        let bad = |error: rcgen::Error| BadHostRequest(error.to_string());
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(bad)?;
        // Whatever else was asked for: a host gets what a host needs.
        let mut params = CertificateParams::new(vec![host.certificate_name()]).map_err(bad)?;
        params.distinguished_name = named("Dunlin host");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        set_validity(&mut params, DAYS.0.days());
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(bad)?;
        let renew_at = jiff::Timestamp::now() + (24 * DAYS.1).hours();
        Ok(HostCertificate {
            certificate_pem: certificate.pem(),
            authority_pem: self.certificate_pem.clone(),
            renew_at: Timestamp(renew_at.as_millisecond().unsigned_abs()),
        })
    }
}

/// A host's key, which proves that its certificate is its own.
pub struct HostKey(KeyPair);

impl HostKey {
    /// A new one (ECDSA P-256).
    ///
    /// # Errors
    /// If the library makes none.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// The key in PEM (PKCS #8).
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Asks for a certificate, in PEM.
    ///
    /// # Errors
    /// If the library makes none.
    pub fn request_pem(&self, host: &HostId) -> Result<String, rcgen::Error> {
        CertificateParams::new(vec![host.certificate_name()])?.serialize_request(&self.0)?.pem()
    }
}

fn create() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Dunlin hosts");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let permitted_subtrees = vec![GeneralSubtree::DnsName(HostId::CERTIFICATE_DOMAIN.into())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    set_validity(&mut params, AUTHORITY_YEARS.years());
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Good for so long from now on; since clocks differ, it was good yesterday already.
fn set_validity(params: &mut CertificateParams, span: Span) {
    let today = jiff::Timestamp::now().to_zoned(TimeZone::UTC).date();
    let moment = |date: Date| date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs());
    (params.not_before, params.not_after) = (moment(today - 1.day()), moment(today + span));
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "it is no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(directory: &Path) -> HostAuthority {
        let sealing_key = SealingKey::load_or_create(&directory.join("sealing.key")).unwrap();
        HostAuthority::load_or_create(directory, &sealing_key).unwrap()
    }

    #[test]
    fn a_host_gets_a_certificate_for_its_own_name_whatever_it_asks_for() {
        let directory = tempfile::tempdir().unwrap();
        let (host, key): (HostId, _) = ("ams-1".parse().unwrap(), HostKey::generate().unwrap());
        let request = key.request_pem(&"other".parse().unwrap()).unwrap();
        let given = authority(directory.path()).certify(&host, &request).unwrap();
        // The same authority after a restart.
        let again = authority(directory.path()).certify(&host, &request).unwrap();
        assert_eq!(given.authority_pem, again.authority_pem);
        let pem = x509_parser::pem::parse_x509_pem(given.certificate_pem.as_bytes()).unwrap().1;
        let certificate = pem.parse_x509().unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["DNSName(ams-1.worker.dunlin.internal)"]);
        let pem = x509_parser::pem::parse_x509_pem(given.authority_pem.as_bytes()).unwrap().1;
        certificate.verify_signature(Some(pem.parse_x509().unwrap().public_key())).unwrap();
        let good_until = certificate.validity().not_after.timestamp();
        assert!(good_until > jiff::Timestamp::now().as_second() + 7 * 24 * 3600);
        assert!(given.renew_at < Timestamp(good_until.unsigned_abs() * 1000));
    }

    #[test]
    fn what_is_no_request_is_refused_and_an_authority_that_does_not_open_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (authority, host) = (authority(directory.path()), "one".parse().unwrap());
        assert!(authority.certify(&host, "").is_err());
        assert!(
            authority
                .certify(&host, "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----")
                .is_err()
        );
        let other = SealingKey::load_or_create(&directory.path().join("other.key")).unwrap();
        let before = fs::read(directory.path().join("hosts-ca.sealed")).unwrap();
        assert!(HostAuthority::load_or_create(directory.path(), &other).is_err());
        assert_eq!(fs::read(directory.path().join("hosts-ca.sealed")).unwrap(), before);
    }
}
