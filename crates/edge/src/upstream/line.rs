//! A connection to a machine, wherever it runs.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{splice::Stream, worker::Tunnel};

/// A stream of bytes to a machine.
pub enum Line {
    /// To one of this host.
    Near(TcpStream),
    /// To one of another host, through the connection to its worker.
    Far(Box<Tunnel>),
}

/// The stream itself, of whichever kind.
macro_rules! stream {
    ($line:expr, $stream:ident => $does:expr) => {
        match $line.get_mut() {
            Self::Near(near) => {
                let $stream = Pin::new(near);
                $does
            }
            Self::Far(far) => {
                let $stream = Pin::new(far.as_mut());
                $does
            }
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        stream!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        stream!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Near(near) => near.is_write_vectored(),
            Self::Far(far) => far.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_shutdown(cx))
    }
}

impl Stream for Line {
    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Near(near) => Some(near),
            Self::Far(_) => None,
        }
    }
}
