//! An issuer and a DNS in memory. A certificate is a text that names its host; its key is `key of <host>`.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::internal::{
    AcmeService, CertificateDefect, CertificateFacts, CertificateOrder, Certifier, ChallengeAnswer, ChallengeDoor,
    DnsQuestion, DnsSeen, IssueError, IssuedCertificate,
};
use async_trait::async_trait;
use model::{Hostname, Timestamp};

/// What is said of a host name that DNS does not know is nothing.
#[derive(Default)]
pub struct Issuer {
    pub dns: Mutex<HashMap<String, DnsSeen>>,
    /// Why nothing is issued.
    pub refuses: Mutex<Option<IssueError>>,
    pub orders: AtomicUsize,
    pub looks: AtomicUsize,
    /// For how many milliseconds certificates are good; a year unless given.
    pub life: Mutex<Option<u64>>,
}

impl Issuer {
    /// DNS says this from now on.
    pub fn says(&self, hostname: &str, change: impl FnOnce(&mut DnsSeen)) {
        change(self.dns.lock().unwrap().entry(hostname.to_owned()).or_default());
    }

    pub fn orders(&self) -> usize {
        self.orders.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Certifier for Issuer {
    fn service(&self) -> AcmeService {
        AcmeService::On { by_dns: false }
    }

    async fn look_up(&self, question: &DnsQuestion) -> DnsSeen {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.dns.lock().unwrap().get(question.hostname.as_str()).cloned().unwrap_or_default()
    }

    fn inspect(
        &self,
        hostname: &Hostname,
        chain_pem: &str,
        key_pem: &str,
        now: Timestamp,
    ) -> Result<CertificateFacts, CertificateDefect> {
        if chain_pem != hostname.as_str() {
            let (hostname, names) = (hostname.to_string(), chain_pem.to_owned());
            return Err(CertificateDefect::Names { hostname, names });
        }
        if key_pem != format!("key of {hostname}") {
            return Err(CertificateDefect::Mismatch);
        }
        let life = self.life.lock().unwrap().unwrap_or(365 * 24 * 3_600_000);
        let (not_before, not_after) = (now, Timestamp(now.0 + life));
        Ok(CertificateFacts { not_before, not_after, issuer: "Memory".into(), key_kind: "ecdsa" })
    }

    async fn issue(&self, order: &CertificateOrder) -> Result<IssuedCertificate, IssueError> {
        self.orders.fetch_add(1, Ordering::SeqCst);
        let refuses = self.refuses.lock().unwrap().clone();
        if let Some(error) = refuses {
            return Err(error);
        }
        let hostname = &order.hostname;
        Ok(IssuedCertificate { chain_pem: hostname.to_string(), key_pem: format!("key of {hostname}") })
    }

    async fn renewal_window(&self, _: &str) -> Option<(Timestamp, Timestamp)> {
        None
    }
}

/// Whoever asks here is told nothing: this issuer wants no proof.
impl ChallengeDoor for Issuer {
    fn present(&self, _: &ChallengeAnswer) -> Result<(), String> {
        Ok(())
    }

    fn withdraw(&self, _: &ChallengeAnswer) {}
}
