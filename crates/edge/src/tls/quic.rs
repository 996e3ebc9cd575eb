//! TLS inside QUIC. The server name says here too whose connection it is, but only HTTP/3 comes after: an app that wants
//! something else on the shared port, or a list of protocols without it, is not reached in this way.

use std::{fmt, net::SocketAddr, sync::Arc};

use catalog::{HTTPS_PORT, Handling};
use model::machine::{Port, TlsOptions};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    certificates::{Absent, HTTP3, TLS13_ONLY},
    handshake::tell,
};
use crate::{
    Refusal,
    context::{Context, Destination},
    http,
};

/// How TLS is spoken inside QUIC. Early data is refused.
pub fn for_quic(context: &Arc<Context>) -> Result<Arc<ServerConfig>, rustls::Error> {
    context.certificates.quic_config(Arc::new(ByName(context.clone())))
}

/// Whether an app can be reached by HTTP/3 on a port with these options.
pub fn allows_http3(port: &Port) -> bool {
    let none = TlsOptions::default();
    let TlsOptions { alpn, versions, .. } = port.tls_options.as_ref().unwrap_or(&none);
    let lists = |list: &[String], item: &str| list.is_empty() || list.iter().any(|it| it == item);
    lists(alpn, HTTP3) && lists(versions, TLS13_ONLY)
}

/// Why a handshake came to nothing.
pub enum QuicFailure {
    /// It broke, for this reason.
    Broken(String),
    /// It took too long.
    TooLong,
    /// There are too many.
    Refused(Refusal),
}

/// A handshake came to nothing.
pub fn failed(context: &Context, name: Option<&str>, failure: QuicFailure, peer: SocketAddr) {
    context.handshakes.failed(name);
    let waited = context.bounds.handshake;
    let refusal = name.map(str::to_owned).map(|name| match failure {
        QuicFailure::Broken(reason) => Refusal::Handshake { name, reason },
        QuicFailure::TooLong => Refusal::HandshakeTimeout { name, waited },
        QuicFailure::Refused(refusal) => refusal,
    });
    tell(context, refusal, name, peer, HTTPS_PORT);
}

/// Finds the certificate for a handshake.
struct ByName(Arc<Context>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByName").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = &self.0.certificates;
        // Without a name there is still a page to show.
        let Some(name) = hello.server_name().and_then(http::host_name) else {
            return certificates.find("", Absent::Refuse);
        };
        let absent = self.offers(&name)?;
        certificates.prepare(&name);
        certificates.find(&name, absent)
    }
}

impl ByName {
    /// What is shown for a name that has no certificate; nothing at all if HTTP/3 leads nowhere from here.
    fn offers(&self, name: &str) -> Option<Absent> {
        let app = match self.0.destination(name) {
            Destination::App(_, app) => app,
            Destination::Platform(_) | Destination::Nobody => return Some(Absent::Refuse),
            Destination::Elsewhere => return None,
        };
        let Some(offered) = app.as_ref().and_then(|app| app.port(HTTPS_PORT)) else {
            return Some(Absent::Refuse);
        };
        let reached = offered.handling == Handling::TlsHttp && allows_http3(&offered.options);
        reached.then(|| offered.options.tls_options.as_ref().map_or(Absent::Refuse, Absent::of))
    }
}
