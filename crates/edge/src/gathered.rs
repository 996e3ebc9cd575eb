//! Writes that are gathered: what the streams of one connection have to say at the same time goes out at once.
//!
//! An HTTP/2 connection is written to and flushed whenever one of its streams has something to say, and after each frame
//! of data, so that every answer would be a record of TLS and a system call of its own. Here a flush first lets whatever
//! else is ready to run go before it, once; then it lets the connection write all that has come meanwhile:
//!
//! ```text
//!  write, flush ─▶ wait ─▶ write, flush ─▶ write, flush ─▶ flush ─▶ out
//!                  others   not yet         not yet         nothing was written since the last one
//!                  run
//! ```
//!
//! The other side may have said all that it had to say and closed, so that it takes no more before all of that was read. The
//! library would give up both ways then. Here what is said to a side that has closed goes nowhere, until its own words end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is passed on without waiting for more: the content of one TLS record (RFC 8446, 5.1).
const ENOUGH: usize = 16 * 1024;

/// A stream whose writes are gathered.
pub struct Gathered<S> {
    stream: S,
    /// What was said and has not been passed on.
    said: BytesMut,
    /// The others have been let go first.
    has_waited: bool,
    /// Something was said since the last flush.
    has_more: bool,
    /// The other side takes no more.
    has_closed: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Gathers what is written to `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, said: BytesMut::new(), has_waited: false, has_more: false, has_closed: false }
    }

    /// Writes by `write`, of what has this length, unless the other side has closed.
    fn poll_out(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.has_closed {
            return Poll::Ready(Ok(length));
        }
        match ready!(write(Pin::new(&mut self.stream))) {
            Err(error) if is_closed(&error) => {
                self.has_closed = true;
                Poll::Ready(Ok(length))
            }
            written => Poll::Ready(written),
        }
    }

    /// Passes on all that was said.
    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.said.is_empty() {
            let said = std::mem::take(&mut self.said);
            let passed = self.poll_out(said.len(), |stream| stream.poll_write(cx, &said));
            self.said = said;
            match ready!(passed)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                passed => self.said.advance(passed),
            }
        }
        // A connection that says nothing holds no room for it.
        self.said = BytesMut::new();
        self.has_waited = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes more, which then are said. A little that does not fit beside what was said before
    /// goes out after it, so that nothing is copied again and no record is cut in two.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<()>> {
        let said = self.said.len();
        if said >= ENOUGH || (wanted < ENOUGH / 2 && said + wanted > ENOUGH) {
            ready!(self.poll_pass(cx))?;
        }
        if self.said.capacity() == 0 {
            self.said.reserve(ENOUGH);
        }
        self.has_more = true;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.said.is_empty() && buf.len() >= ENOUGH / 2 {
            return self.poll_out(buf.len(), |stream| stream.poll_write(cx, buf));
        }
        ready!(self.poll_room(cx, buf.len()))?;
        self.said.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        if self.said.is_empty() && all >= ENOUGH / 2 {
            return self.poll_out(all, |stream| stream.poll_write_vectored(cx, bufs));
        }
        ready!(self.poll_room(cx, all))?;
        bufs.iter().for_each(|buf| self.said.extend_from_slice(buf));
        Poll::Ready(Ok(all))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_more = std::mem::take(&mut self.has_more);
        if !self.said.is_empty() && self.said.len() < ENOUGH && (has_more || !self.has_waited) {
            // A task that wakes itself goes behind all that are ready.
            cx.waker().wake_by_ref();
            return if std::mem::replace(&mut self.has_waited, true) { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        ready!(self.poll_pass(cx))?;
        self.poll_out(0, |stream| stream.poll_flush(cx).map_ok(|()| 0)).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass(cx))?;
        self.poll_out(0, |stream| stream.poll_shutdown(cx).map_ok(|()| 0)).map_ok(drop)
    }
}

/// Whether the other side of a connection is gone, so that reading from it comes to an end, too.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Takes all that is written, and counts how often.
    #[derive(Clone, Default)]
    struct Sink(Arc<(AtomicUsize, AtomicUsize)>);

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.0.fetch_add(1, Relaxed);
            self.0.1.fetch_add(buf.len(), Relaxed);
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn seen(sink: &Sink) -> (usize, usize) {
        (sink.0.0.load(Relaxed), sink.0.1.load(Relaxed))
    }

    #[tokio::test]
    async fn what_several_say_at_the_same_time_goes_out_at_once() {
        let sink = Sink::default();
        let stream = Arc::new(tokio::sync::Mutex::new(Gathered::new(sink.clone())));
        let speakers = (0..10).map(|_| {
            let stream = stream.clone();
            tokio::spawn(async move { stream.lock().await.write_all(b"0123456789").await.unwrap() })
        });
        let flush = || std::future::poll_fn(|cx| Pin::new(&mut *stream.try_lock().unwrap()).poll_flush(cx));
        let speakers: Vec<_> = speakers.collect();
        stream.lock().await.write_all(b"!").await.unwrap();
        flush().await.unwrap();
        assert_eq!(seen(&sink), (0, 0), "more was said meanwhile: it may not be all");
        flush().await.unwrap();
        assert_eq!(seen(&sink), (1, 101));
        for speaker in speakers {
            speaker.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_little_that_would_cut_a_record_in_two_goes_after_it() {
        let sink = Sink::default();
        let mut stream = Gathered::new(sink.clone());
        for _ in 0..5 {
            stream.write_all(&[0; 4000]).await.unwrap();
        }
        assert_eq!(seen(&sink), (1, 16_000));
        stream.shutdown().await.unwrap();
        assert_eq!(seen(&sink), (2, 20_000));
    }

    #[tokio::test]
    async fn what_a_side_has_said_that_takes_no_more_is_still_read() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let mut stream = Gathered::new(ours);
        theirs.write_all(b"goodbye").await.unwrap();
        drop(theirs);
        for length in [3, ENOUGH, 5] {
            stream.write_all(&vec![0; length]).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "goodbye");
        stream.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_kept_back_and_much_is_not_copied() {
        let sink = Sink::default();
        let mut stream = Gathered::new(sink.clone());
        stream.write_all(&vec![0; ENOUGH]).await.unwrap();
        assert_eq!(seen(&sink), (1, ENOUGH));
        stream.write_all(b"a").await.unwrap();
        stream.write_all(&vec![0; ENOUGH]).await.unwrap();
        stream.write_all(b"b").await.unwrap();
        assert_eq!(seen(&sink), (2, 2 * ENOUGH + 1));
        stream.shutdown().await.unwrap();
        assert_eq!(seen(&sink), (3, 2 * ENOUGH + 2));
        assert_eq!(stream.said.capacity(), 0);
    }
}
