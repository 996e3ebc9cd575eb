//! Whom a connection really comes from: its peer, or whoever a trusted peer says.

use std::{io, net::SocketAddr};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::peek::peek;
use crate::{
    context::Context,
    limits::Admitted,
    proxy_protocol::{self, Beginning, Demand, Header, MAX_HEADER, Route},
};

/// Whom a connection comes from, and where it was connected to.
pub struct Origin {
    /// The client.
    pub peer: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The client's place, if not the peer's own counts.
    pub admitted: Option<Admitted>,
}

/// Reads what a trusted peer says of a connection. Nothing may be taken from one that does not say it.
pub async fn origin(context: &Context, stream: &mut TcpStream, peer: SocketAddr, demand: Demand) -> Option<Origin> {
    let local = stream.local_addr().ok()?;
    let header = timeout(context.bounds.handshake, header(stream, demand)).await;
    let header = header.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let header = header.inspect_err(|error| tracing::warn!(%peer, "a trusted peer's PROXY header is missing: {error}"));
    let route = header.ok()?.route.unwrap_or(Route { source: peer, destination: local });
    // The bound on one source is meant for clients, whoever brings them.
    let Some(admitted) = context.limits.admit(route.source.ip()) else {
        tracing::debug!(peer = %route.source, "a connection is turned away: too many");
        return None;
    };
    Some(Origin { peer: route.source, local: route.destination, admitted: Some(admitted) })
}

async fn header(stream: &mut TcpStream, demand: Demand) -> io::Result<Header> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let beginning = peek(stream, MAX_HEADER, |bytes| match proxy_protocol::read(bytes) {
        Ok(Beginning::Incomplete) => Ok(None),
        Ok(beginning) => Ok(Some(beginning)),
        Err(bad) => Err(invalid(bad.to_string())),
    });
    match (beginning.await?, demand) {
        (Beginning::Header(header, length), _) => {
            stream.read_exact(&mut vec![0; length]).await?;
            Ok(header)
        }
        (_, Demand::Optional) => Ok(Header::default()),
        (_, Demand::Required) => Err(invalid("the connection begins with something else".into())),
    }
}
