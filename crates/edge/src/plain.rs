//! A TCP stream by bare system calls.
//!
//! The C library's recv(2) and send(2) are cancellation points of its threads: in a process that has several, each turns
//! cancellation on and off around the call, with an atomic operation for both. Over the four calls of a small request that
//! is a hundredth of all it costs. Nobody cancels threads here, so the calls are made without.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// A TCP stream.
pub struct Plain(TcpStream);

impl Plain {
    /// This stream.
    pub fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// The stream as the runtime has it.
    pub fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Does something that moves up to `most` bytes, if the socket may be ready for it. Whoever moves fewer has come to
    /// the end of what there is, or of what there is room for, so that the system need not be asked again to learn that.
    /// Nothing if it is not ready.
    fn attempt(
        &self,
        interest: Interest,
        most: usize,
        act: impl FnOnce() -> rustix::io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let mut moved = None;
        let done = self.0.try_io(interest, || {
            let bytes = act()?;
            moved = Some(bytes);
            if (1..most).contains(&bytes) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (moved, done) {
            (Some(bytes), _) => Some(Ok(bytes)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => None,
            (None, done) => Some(done.map(|()| 0)),
        }
    }

    fn poll_out(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        act: impl Fn() -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            if let Some(sent) = self.attempt(Interest::WRITABLE, most, &act) {
                return Poll::Ready(sent);
            }
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = buf.remaining();
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            // SAFETY: it is only written to.
            let room = unsafe { buf.unfilled_mut() };
            let act = || recv(&self.0, room, RecvFlags::empty()).map(|((read, _), _)| read.len());
            let Some(read) = self.attempt(Interest::READABLE, most, act) else { continue };
            let read = read?;
            // SAFETY: the system has written so many bytes there.
            unsafe { buf.assume_init(read) };
            buf.advance(read);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_out(cx, bytes.len(), || send(&self.0, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let most = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_out(cx, most, || rustix::io::writev(&self.0, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (Plain, Plain) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Plain::new(near.unwrap()), Plain::new(far.unwrap().0))
    }

    #[tokio::test]
    async fn much_passes_both_ways_at_once_and_each_way_ends_by_itself() {
        let ((mut near, mut far), much) = (pair().await, vec![7; 8 << 20]);
        let echo = tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(&mut far);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let (mut read, mut write) = tokio::io::split(&mut near);
        let (said, mut heard) = (much.clone(), Vec::new());
        let say = async {
            write.write_all(&said).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, heard_all) = tokio::join!(say, read.read_to_end(&mut heard));
        assert_eq!(heard_all.unwrap(), much.len());
        assert!(heard == much);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn pieces_pass_in_order_and_small_reads_lose_nothing() {
        let (mut near, mut far) = pair().await;
        let pieces = [IoSlice::new(b"one "), IoSlice::new(b"two "), IoSlice::new(b"three")];
        assert_eq!(near.write_vectored(&pieces).await.unwrap(), 13);
        near.write_all(b".").await.unwrap();
        drop(near);
        let mut heard = Vec::new();
        let mut few = [0; 3];
        loop {
            match far.read(&mut few).await.unwrap() {
                0 => break,
                read => heard.extend_from_slice(&few[..read]),
            }
        }
        assert_eq!(heard, b"one two three.");
    }

    #[tokio::test]
    async fn a_connection_that_broke_off_is_an_error() {
        let (near, mut far) = pair().await;
        socket2::SockRef::from(near.socket()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(near);
        let error = far.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
