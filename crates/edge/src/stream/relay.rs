//! Passing bytes both ways.
//!
//! A connection on which nothing passes holds no buffer: bytes are read into one that the thread's connections share,
//! and only what the other side does not take at once is kept. While many pass, and both ends are bare sockets, they are
//! moved inside the kernel.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::splice::{Pipe, Stream, WORTHWHILE};

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// How it ended.
#[derive(Debug)]
pub enum End {
    /// Both directions to their end.
    Both,
    /// Nothing passed for too long.
    Idle,
    /// The client's connection broke.
    Client(io::Error),
    /// The machine's connection broke.
    Machine {
        /// How.
        error: io::Error,
        /// It had sent something before.
        answered: bool,
    },
}

/// Passes bytes both ways until both directions have ended, one of them breaks, or nothing passes for `idle`.
pub async fn relay(client: &mut impl Stream, machine: &mut impl Stream, idle: Option<Duration>) -> End {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut watch = idle.map(Watch::new);
    // A machine that takes no more may still have answered: what it said is passed on first.
    let mut refused = None;
    poll_fn(|cx| {
        let before = up.passed + down.passed;
        let sent = up.poll(cx, client, machine);
        let answered = down.poll(cx, machine, client);
        let sent = match sent {
            Poll::Ready(Err(Broken::Writing(error))) => {
                up.stage = Stage::Ended;
                // Where it has closed in good order, it did not want the rest.
                refused = answered.is_pending().then_some(error);
                Poll::Ready(())
            }
            Poll::Ready(Err(Broken::Reading(error))) => return Poll::Ready(End::Client(error)),
            sent => sent.map(drop),
        };
        let has_answered = down.passed > 0;
        match answered {
            Poll::Ready(Err(Broken::Reading(error))) => {
                return Poll::Ready(End::Machine { error, answered: has_answered });
            }
            Poll::Ready(Err(Broken::Writing(error))) => return Poll::Ready(End::Client(error)),
            Poll::Ready(Ok(())) if sent.is_ready() => {
                let broken = refused.take().map(|error| End::Machine { error, answered: has_answered });
                return Poll::Ready(broken.unwrap_or(End::Both));
            }
            _ => {}
        }
        match &mut watch {
            Some(watch) => watch.poll(cx, up.passed + down.passed > before).map(|()| End::Idle),
            None => Poll::Pending,
        }
    })
    .await
}

/// Which end of a direction broke.
enum Broken {
    Reading(io::Error),
    Writing(io::Error),
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// What has been read and not been taken yet, and how much of it has been taken.
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    stage: Stage,
    passed: u64,
    /// So many came at once that more are likely to follow.
    bulk: bool,
    pipe: Pipe,
}

#[derive(Default, PartialEq)]
enum Stage {
    #[default]
    Open,
    Ending,
    Ended,
}

impl Direction {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Stream, to: &mut impl Stream) -> Poll<Result<(), Broken>> {
        while self.stage == Stage::Open {
            ready!(self.poll_kept(cx, to)).map_err(Broken::Writing)?;
            if (self.bulk || !self.pipe.is_empty()) && from.bare().is_some() && to.bare().is_some() {
                ready!(self.poll_bulk(cx, from, to))?;
                continue;
            }
            match SCRATCH.with_borrow_mut(|scratch| self.poll_chunk(cx, from, to, scratch)) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(self.poll_flush(cx, to)).map_err(Broken::Writing)?;
                    return Poll::Pending;
                }
            }
        }
        if self.stage == Stage::Ending {
            ready!(Pin::new(to).poll_shutdown(cx)).map_err(Broken::Writing)?;
            self.stage = Stage::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what comes inside the kernel, for as long as it comes in bulk.
    fn poll_bulk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
    ) -> Poll<Result<(), Broken>> {
        if let Some(source) = from.bare().filter(|_| self.pipe.is_empty()) {
            let taken = ready!(self.pipe.poll_fill(cx, source, u64::MAX)).map_err(Broken::Reading)?;
            self.passed += taken as u64;
            from.came_past(taken);
            self.bulk = taken >= WORTHWHILE;
            if taken == 0 {
                self.stage = Stage::Ending;
            }
        }
        while let Some(sink) = to.bare().filter(|_| !self.pipe.is_empty()) {
            let given = ready!(self.pipe.poll_drain(cx, sink)).and_then(some).map_err(Broken::Writing)?;
            to.went_past(given);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what was read; keeps what is not taken.
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Stream,
        to: &mut impl Stream,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Broken>> {
        let mut buffer = ReadBuf::new(scratch);
        let read = ready!(Pin::new(from).poll_read(cx, &mut buffer));
        match read {
            Ok(()) => {}
            // A TLS peer that closes without saying so (RFC 8446, 6.1) is at its end all the same.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => buffer.clear(),
            Err(error) => return Poll::Ready(Err(Broken::Reading(error))),
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.stage = Stage::Ending;
            return Poll::Ready(Ok(()));
        }
        self.passed += bytes.len() as u64;
        self.bulk = bytes.len() == CHUNK;
        let taken = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken.and_then(some).map_err(Broken::Writing)?,
            Poll::Pending => 0,
        };
        self.unflushed = true;
        self.kept.extend_from_slice(&bytes[taken..]);
        Poll::Ready(Ok(()))
    }

    /// Writes what is kept.
    fn poll_kept(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while self.taken < self.kept.len() {
            self.taken += ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.taken..])).and_then(some)?;
        }
        if self.taken > 0 {
            (self.kept, self.taken) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Whoever takes nothing never will.
fn some(taken: usize) -> io::Result<usize> {
    if taken == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(taken) }
}

/// Notices that nothing passes.
struct Watch {
    idle: Duration,
    since: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(idle: Duration) -> Self {
        let since = Instant::now();
        Self { idle, since, alarm: Box::pin(sleep_until(since + idle)) }
    }

    /// Ready once nothing has passed for too long. Setting the alarm anew at every byte would cost more than looking at
    /// the clock when it rings.
    fn poll(&mut self, cx: &mut Context<'_>, passed: bool) -> Poll<()> {
        if passed {
            self.since = Instant::now();
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            let due = self.since + self.idle;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn more_than_any_buffer_holds_passes_both_ways_and_each_ends_by_itself() {
        let (mut client, mut near) = duplex(1000);
        let (mut far, mut machine) = duplex(70);
        let sent: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        let echo = tokio::spawn(async move {
            let mut all = Vec::new();
            machine.read_to_end(&mut all).await.unwrap();
            machine.write_all(&all).await.unwrap();
        });
        let carried = tokio::spawn(async move { relay(&mut near, &mut far, None).await });
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert!(back == sent);
        echo.await.unwrap();
        assert!(matches!(carried.await.unwrap(), End::Both));
    }

    #[tokio::test]
    async fn what_a_machine_said_arrives_though_it_takes_no_more() {
        let (mut client, mut near) = duplex(10);
        // It reads nothing: writing to it fails, reading from it goes on.
        let mut far = tokio::io::join(&b"a last answer, longer than a buffer"[..], Closed);
        client.write_all(b"more").await.unwrap();
        let carried = tokio::spawn(async move { relay(&mut near, &mut far, None).await });
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "a last answer, longer than a buffer");
        assert!(matches!(carried.await.unwrap(), End::Machine { answered: true, .. }));
    }

    struct Closed;

    impl Stream for tokio::io::Join<&'static [u8], Closed> {}

    impl AsyncWrite for Closed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_says_nothing_for_too_long_ends() {
        let (mut client, mut near) = duplex(100);
        let (mut far, _machine) = duplex(100);
        client.write_all(b"something").await.unwrap();
        let ended = relay(&mut near, &mut far, Some(Duration::from_millis(20))).await;
        assert!(matches!(ended, End::Idle));
    }
}
