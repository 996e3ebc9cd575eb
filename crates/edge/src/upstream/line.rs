//! A connection to a machine, wherever it runs.

use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::{plain::Plain, splice::Stream, worker::Tunnel};

/// A stream of bytes to a machine: to one of this host, or to one of another host through the connection to its worker.
pub type Line = Either<Plain, Box<Tunnel>>;

impl Stream for Line {
    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Left(near) => Some(near.socket()),
            Self::Right(_) => None,
        }
    }
}
