//! One custom host name with its certificates, made ready for handshakes when the first one needs them.

use std::sync::{Arc, OnceLock};

use api::internal::{HostnameRow, SealedCertificate};
use kit::seal::SealingKey;
use model::{Hostname, Timestamp};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// A host name.
pub struct Entry {
    /// What the control plane said, or the disk.
    pub told: Arc<HostnameRow>,
    /// What is served.
    certificates: Vec<Served>,
}

/// A certificate, opened when it is first needed.
struct Served {
    sealed: SealedCertificate,
    ready: OnceLock<Option<Arc<CertifiedKey>>>,
}

impl Entry {
    /// What the disk says. Keys are opened later, so that a start does not wait for them.
    pub fn read(row: HostnameRow) -> Self {
        let told = Arc::new(row);
        Self { certificates: served(&told), told }
    }

    /// What the control plane says. Where none of the new certificates can be used, those of before go on.
    pub fn told(row: &Arc<HostnameRow>, before: Option<&Self>, key: &SealingKey) -> Self {
        let entry = Self { certificates: served(row), told: row.clone() };
        let usable = |entry: &Self| entry.certificates.iter().any(|it| it.ready(&entry.told.hostname, key).is_some());
        if entry.certificates.is_empty() || usable(&entry) {
            return entry;
        }
        match before.filter(|before| before.told.app == row.app && usable(before)) {
            Some(before) => {
                tracing::error!(hostname = %row.hostname, "its new certificate cannot be used; the last good one is served");
                let kept =
                    before.certificates.iter().map(|it| Served { sealed: it.sealed.clone(), ready: it.ready.clone() });
                Self { certificates: kept.collect(), told: row.clone() }
            }
            None => entry,
        }
    }

    /// The row of what is served, for the disk.
    pub fn served_row(&self) -> HostnameRow {
        let certificates = self.certificates.iter().map(|it| it.sealed.clone()).collect();
        HostnameRow { hostname: self.told.hostname.clone(), app: self.told.app.clone(), certificates }
    }

    /// The first certificate that is good now; else the one that was good last, since a client may know what to do
    /// about it.
    pub fn certificate(&self, now: Timestamp, key: &SealingKey) -> Option<Arc<CertifiedKey>> {
        let good = |it: &&Served| it.sealed.not_before <= now && now < it.sealed.not_after;
        let ready = |it: &Served| it.ready(&self.told.hostname, key);
        let first = self.certificates.iter().filter(good).find_map(ready);
        first.or_else(|| {
            let mut others: Vec<&Served> = self.certificates.iter().filter(|it| !good(it)).collect();
            others.sort_by_key(|it| std::cmp::Reverse(it.sealed.not_after));
            others.into_iter().find_map(ready)
        })
    }
}

fn served(row: &HostnameRow) -> Vec<Served> {
    let certificates = row.certificates.iter().cloned();
    certificates.map(|sealed| Served { sealed, ready: OnceLock::new() }).collect()
}

impl Served {
    fn ready(&self, hostname: &Hostname, key: &SealingKey) -> Option<Arc<CertifiedKey>> {
        let open = || {
            let opened = open(&self.sealed, hostname, key);
            opened.inspect_err(|reason| tracing::error!(%hostname, "a certificate cannot be used: {reason}")).ok()
        };
        self.ready.get_or_init(open).clone()
    }
}

fn open(sealed: &SealedCertificate, hostname: &Hostname, key: &SealingKey) -> Result<Arc<CertifiedKey>, String> {
    let pem = key.open(&SealedCertificate::place(hostname), &sealed.sealed_key).map_err(|error| error.to_string())?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(sealed.chain_pem.as_bytes()).collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| "its key is not PEM".to_owned())?;
    let key = any_supported_type(&key).map_err(|_| "its key is of no known kind".to_owned())?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().map_err(|error| error.to_string())?;
    Ok(Arc::new(certified))
}
