//! Moving bytes from socket to socket inside the kernel (splice(2)), for those who carry many: a byte that is not looked
//! at need not be copied to us and back.
//!
//! ```text
//!  from ──splice──▶ pipe ──splice──▶ to
//! ```
//!
//! A pipe is taken for as long as something lies in it; those that are empty are shared by the thread's connections.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Empty, Interest},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use crate::{account::Counted, limits::Guarded, plain::Plain, worker::Tunnel};

/// How much a pipe holds.
const CAPACITY: usize = 256 * 1024;
/// How many empty pipes a thread keeps.
const MAX_KEPT: usize = 16;
/// Fewer bytes than this are not worth a detour through a pipe.
pub const WORTHWHILE: usize = 64 * 1024;

/// A stream of bytes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The socket itself, if bytes pass through it as they are, so that they may be moved past the stream.
    fn bare(&self) -> Option<&TcpStream> {
        None
    }

    /// So many bytes were read past the stream.
    fn came_past(&mut self, _bytes: usize) {}

    /// So many bytes were written past the stream.
    fn went_past(&mut self, _bytes: usize) {}

    /// The socket takes nothing now. Ready once that has lasted too long.
    fn poll_stalled(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

impl Stream for Plain {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self.socket())
    }
}

impl Stream for TcpStream {
    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<S: Stream> Stream for Counted<S> {
    fn bare(&self) -> Option<&TcpStream> {
        self.inner().bare()
    }

    fn came_past(&mut self, bytes: usize) {
        self.connection().passed_alone(bytes, 0);
        self.inner_mut().came_past(bytes);
    }

    fn went_past(&mut self, bytes: usize) {
        self.connection().passed_alone(0, bytes);
        self.inner_mut().went_past(bytes);
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner_mut().poll_stalled(cx)
    }
}

impl<S: Stream> Stream for Guarded<S> {
    fn bare(&self) -> Option<&TcpStream> {
        self.inner().bare()
    }

    fn went_past(&mut self, bytes: usize) {
        self.moved(bytes);
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stalled(cx)
    }
}

impl Stream for TlsStream<Plain> {}
/// A stream of a connection over HTTP/2, as a tunnel.
impl Stream for DuplexStream {}
impl Stream for Tunnel {}
/// In the place of a connection that was handed over.
impl Stream for Empty {}

thread_local! {
    static KEPT: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A way through a pipe.
#[derive(Default)]
pub struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

impl Pipe {
    /// Whether nothing is on the way.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `at_most` bytes from a socket; nothing at its end.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream, at_most: u64) -> Poll<io::Result<usize>> {
        let at_most = usize::try_from(at_most).unwrap_or(CAPACITY).min(CAPACITY);
        loop {
            if from.poll_read_ready(cx)?.is_pending() {
                self.rest();
                return Poll::Pending;
            }
            let ends = match &mut self.ends {
                Some(ends) => ends,
                none => none.insert(ends()?),
            };
            let taken = from.try_io(Interest::READABLE, || Ok(splice(from, None, &ends.write, None, at_most, FLAGS)?));
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => {
                    self.held += *taken.as_ref().unwrap_or(&0);
                    self.rest();
                    return Poll::Ready(taken);
                }
            }
        }
    }

    /// Gives what is on the way to a socket. Tells how much of it was taken.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            let given = to.try_io(Interest::WRITABLE, || Ok(splice(&ends.read, None, to, None, self.held, FLAGS)?));
            match given {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => {
                    self.held -= *given.as_ref().unwrap_or(&0);
                    self.rest();
                    return Poll::Ready(given);
                }
            }
        }
    }

    /// Gives the pipe back once it is empty.
    fn rest(&mut self) {
        if self.held == 0
            && let Some(ends) = self.ends.take()
        {
            KEPT.with_borrow_mut(|kept| {
                if kept.len() < MAX_KEPT {
                    kept.push(ends);
                }
            });
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// An empty pipe.
fn ends() -> io::Result<Ends> {
    if let Some(ends) = KEPT.with_borrow_mut(Vec::pop) {
        return Ok(ends);
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Where the system gives no more, its own measure will do.
    let _ = fcntl_setpipe_size(&write, CAPACITY);
    Ok(Ends { read, write })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out() {
        let ((mut source, from), (to, mut sink)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 7) as u8).collect();
        let expected = sent.clone();
        tokio::spawn(async move { source.write_all(&sent).await.unwrap() });
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            sink.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut pipe = Pipe::default();
        while poll_fn(|cx| pipe.poll_fill(cx, &from, u64::MAX)).await.unwrap() > 0 {
            while !pipe.is_empty() {
                poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap();
            }
        }
        drop(to);
        assert!(reading.await.unwrap() == expected);
    }
}
