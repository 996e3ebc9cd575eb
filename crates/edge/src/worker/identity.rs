//! By what hosts prove to each other who they are.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use model::HostId;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
    version::TLS13,
};

use crate::EdgeError;

/// The protocol of multiplexed requests.
pub const ALPN: &[u8] = b"dunlin-h2";

/// The identity of this host, as long as it is good. It can be replaced at any time: connections that are open go on.
#[derive(Default)]
pub struct Credentials(ArcSwapOption<Identity>);

impl Credentials {
    /// From now on.
    pub fn set(&self, identity: Identity) {
        self.0.store(Some(Arc::new(identity)));
    }

    pub(crate) fn get(&self) -> Option<Arc<Identity>> {
        self.0.load_full()
    }
}

/// A certificate with its key, and the authority that both sides trust.
pub struct Identity {
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Identity {
    /// This certificate; peers show one of the same authority.
    ///
    /// # Errors
    /// If the certificate and its key do not fit, or cannot be used.
    pub fn new(
        authority: CertificateDer<'static>,
        certificate: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, EdgeError> {
        let unusable = |reason: String| EdgeError::Identity { reason };
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(|error| unusable(error.to_string()))?;
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.build().map_err(|error| unusable(error.to_string()))?;
        let configs = || -> Result<_, rustls::Error> {
            let client = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
            let client = client.with_root_certificates(roots);
            let mut client = client.with_client_auth_cert(vec![certificate.clone()], key.clone_key())?;
            let server = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
            let server = server.with_client_cert_verifier(verifier);
            let mut server = server.with_single_cert(vec![certificate], key)?;
            client.alpn_protocols = vec![ALPN.to_vec()];
            server.alpn_protocols = vec![ALPN.to_vec()];
            Ok((client, server))
        };
        let (client, server) = configs().map_err(|error| unusable(error.to_string()))?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// The same, all in PEM.
    ///
    /// # Errors
    /// If one of them is something else, or they do not fit.
    pub fn from_pem(authority: &str, certificate: &str, key: &str) -> Result<Self, EdgeError> {
        let unreadable = |error: pem::Error| EdgeError::Identity { reason: error.to_string() };
        let authority = CertificateDer::from_pem_slice(authority.as_bytes()).map_err(unreadable)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(unreadable)?;
        Self::new(authority, certificate, key)
    }
}

/// The same, as TLS asks for it.
pub(super) fn server_name(host: &HostId) -> ServerName<'static> {
    ServerName::try_from(host.certificate_name()).expect("a host id is a label of a domain name")
}
