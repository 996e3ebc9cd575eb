//! What makes this host one of the platform's: its id, and a certificate that it replaces long before it ends.

use std::{fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use api::internal::{HostCertificate, HostCertifier, HostRequest};
use certs::{HostAuthority, HostKey};
use edge::{Backhaul, Credentials, Identity};
use kit::{durable, seal::SealingKey};
use model::HostId;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cli::Client;

/// The first pause after a certificate could not be had, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(60));
/// What the key is sealed for.
const PLACE: &str = "host-key";

/// A host of the platform.
pub struct Membership {
    /// Which.
    pub host: HostId,
    /// What it proves that with.
    credentials: Arc<Credentials>,
    path: PathBuf,
    sealing_key: SealingKey,
}

/// Who vouches for this host.
pub enum Authority {
    /// This process itself.
    Own(Arc<HostAuthority>),
    /// A control plane.
    Platform(Arc<Client>),
}

impl Authority {
    async fn certify(&self, host: &HostId, request_pem: String) -> Result<HostCertificate> {
        match self {
            Self::Own(authority) => Ok(authority.certify(host, &request_pem)?),
            Self::Platform(client) => {
                let path = format!("/internal/hosts/{host}/certificate");
                let asked = client.post(&path, &HostRequest { request_pem }).await;
                asked.map_err(|failure| anyhow!(failure.message))
            }
        }
    }
}

/// What lies on the disk, so that a host that starts while the control plane is away is a member all the same.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    certificate: HostCertificate,
    /// The key in PEM, sealed, in hexadecimal digits.
    sealed_key: String,
}

impl Membership {
    /// The host of a data directory. Its id is made at the first start and stays; so is the last certificate that is still
    /// there.
    pub fn open(data: &std::path::Path, sealing_key: SealingKey) -> Result<Self> {
        let path = data.join("host.id");
        let host = match fs::read_to_string(&path) {
            Ok(id) => id.trim().parse().with_context(|| format!("{}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let host = new_id();
                durable::write(&path, host.as_str().as_bytes(), 0o644)
                    .with_context(|| format!("{} cannot be written", path.display()))?;
                host
            }
            Err(error) => return Err(anyhow!("{} cannot be read: {error}", path.display())),
        };
        Ok(Self { host, credentials: Arc::default(), path: data.join("host.certificate"), sealing_key })
    }

    /// How the machines of other hosts are reached, and those of this one at its door.
    pub fn backhaul(&self, door: Option<SocketAddr>) -> Backhaul {
        Backhaul { host: Some(self.host.clone()), door, credentials: Arc::clone(&self.credentials) }
    }

    /// Uses the last certificate. Tells how long it may wait to be replaced; not at all if there is none.
    fn use_kept(&self) -> Option<Duration> {
        let kept: Kept = serde_json::from_slice(&fs::read(&self.path).ok()?).ok()?;
        let key = self.sealing_key.open(PLACE, &hex::decode(&kept.sealed_key).ok()?).ok()?;
        self.adopt(&kept.certificate, &String::from_utf8(key).ok()?).ok()
    }

    /// Uses a certificate from now on. Tells how long.
    fn adopt(&self, certificate: &HostCertificate, key: &str) -> Result<Duration> {
        let HostCertificate { certificate_pem, authority_pem, renew_at } = certificate;
        self.credentials.set(Identity::from_pem(authority_pem, certificate_pem, key)?);
        Ok(Duration::from_millis(renew_at.0.saturating_sub(kit::clock::unix_ms())))
    }

    /// Gets a certificate, and uses it. Tells how long.
    pub async fn renew(&self, authority: &Authority) -> Result<Duration> {
        let key = HostKey::generate()?;
        let certificate = authority.certify(&self.host, key.request_pem(&self.host)?).await?;
        let rest = self.adopt(&certificate, &key.to_pem())?;
        let sealed_key = hex::encode(self.sealing_key.seal(PLACE, key.to_pem().as_bytes()));
        let kept = serde_json::to_vec(&Kept { certificate, sealed_key })?;
        if let Err(error) = durable::write(&self.path, &kept, 0o600) {
            tracing::warn!("{} cannot be written: {error}", self.path.display());
        }
        Ok(rest)
    }

    /// Stays a member until `stop`.
    pub async fn keep(self: Arc<Self>, authority: Authority, stop: CancellationToken) {
        let keeping = async {
            let (mut pause, mut rest) = (PAUSE.0, self.use_kept().unwrap_or_default());
            loop {
                sleep(rest).await;
                (rest, pause) = match self.renew(&authority).await {
                    Ok(rest) => (rest.max(PAUSE.1), PAUSE.0),
                    Err(error) => {
                        tracing::warn!("this host has no new certificate yet: {error:#}");
                        (pause, (pause * 2).min(PAUSE.1))
                    }
                };
            }
        };
        stop.run_until_cancelled(keeping).await;
    }
}

/// A name that people recognize, and that no other host has.
fn new_id() -> HostId {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String =
        name.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(24).collect();
    let digits = hex::encode(kit::random::bytes::<4>());
    let id = format!("{}-{digits}", name.trim_matches('-'));
    id.trim_matches('-').parse().expect("letters, digits and dashes are a host's id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_stays_who_it_is_and_uses_its_last_certificate_when_nobody_gives_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let sealing_key = SealingKey::load_or_create(&data.join("sealing.key")).unwrap();
        let authority = Authority::Own(Arc::new(HostAuthority::load_or_create(data, &sealing_key).unwrap()));
        let first = Membership::open(data, sealing_key.clone()).unwrap();
        assert!(first.use_kept().is_none());
        let rest = first.renew(&authority).await.unwrap();
        assert!(rest > Duration::from_secs(24 * 3600));
        let again = Membership::open(data, sealing_key.clone()).unwrap();
        assert_eq!(again.host, first.host);
        assert!(again.use_kept().unwrap() > Duration::from_secs(24 * 3600));
        let nobody = Client::new("http://127.0.0.1:1", None).ok().unwrap();
        assert!(again.renew(&Authority::Platform(Arc::new(nobody))).await.is_err());
        assert!(again.use_kept().is_some(), "the last one stays");
        let key = SealingKey::load_or_create(&data.join("other.key")).unwrap();
        assert!(Membership::open(data, key).unwrap().use_kept().is_none());
    }
}
