//! Internal names: every guest's name server.
//!
//! ```text
//! guest ──UDP/TCP 53──▶ fdaa::3 on its own host ──▶ .internal: answered from the node's view, for the network
//!                                                │   that the guest's source address lies in
//!                                                └▶ anything else: forwarded to the host's own resolvers
//! ```
//!
//! An answer reads one immutable view: no database, no call to the control plane. Only machines of the asker's own
//! network exist for it; a stopped machine has no address.

mod server;
mod zone;

use std::{io, net::SocketAddr, sync::Arc};

use api::internal::NodeView;
use thiserror::Error;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

pub use zone::{Answer, lookup};

/// How the name server is set up.
#[derive(Debug, Clone)]
pub struct NamesOptions {
    /// Where it listens, on UDP and TCP both.
    pub listen: SocketAddr,
    /// Who answers for the outside world; the first that answers counts.
    pub upstream: Vec<SocketAddr>,
}

/// Why the name server did not start.
#[derive(Debug, Error)]
#[error("the name server cannot listen on {address}")]
pub struct NamesError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// A running name server. Dropping it stops it.
#[derive(Debug)]
pub struct Names {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Names {
    /// Starts answering from `view`.
    pub async fn start(options: NamesOptions, view: watch::Receiver<Arc<NodeView>>) -> Result<Self, NamesError> {
        let at = |address| move |source| NamesError { address, source };
        let udp = UdpSocket::bind(options.listen).await.map_err(at(options.listen))?;
        let address = udp.local_addr().map_err(at(options.listen))?;
        let tcp = TcpListener::bind(address).await.map_err(at(address))?;
        let resolver = Arc::new(server::Resolver { view, upstream: options.upstream });
        let mut tasks = JoinSet::new();
        tasks.spawn(server::serve_udp(Arc::new(udp), Arc::clone(&resolver)));
        tasks.spawn(server::serve_tcp(tcp, resolver));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
