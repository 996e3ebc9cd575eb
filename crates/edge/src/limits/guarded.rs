//! A client's connection that must not be abused by answers that are asked for and not read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::pace::Patience;
use crate::{Refusal, account::Connection, context::Context};

/// A connection that ends when it is abused; the app it is for is told.
pub struct Guarded<IO> {
    inner: IO,
    context: Arc<Context>,
    connection: Arc<Connection>,
    patience: Patience,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<IO> Guarded<IO> {
    /// Guards a connection.
    pub fn new(inner: IO, context: &Arc<Context>, connection: &Arc<Connection>) -> Self {
        let (context, connection) = (context.clone(), connection.clone());
        let patience = Patience::new(context.bounds.answer_pace);
        Self { inner, context, connection, patience, alarm: None }
    }

    /// The connection that is guarded.
    pub fn inner(&self) -> &IO {
        &self.inner
    }

    /// So many bytes were taken, beside what was written here.
    pub fn moved(&mut self, bytes: usize) {
        if self.alarm.is_some() {
            self.patience.moved(bytes, Instant::now());
        }
    }

    /// The client takes nothing now. Ready once that has lasted too long.
    pub fn stalled(&mut self, task: &mut Task<'_>) -> Poll<io::Error> {
        self.written(task, Poll::Pending).map(|refused| match refused {
            Err(error) => error,
            Ok(_) => io::ErrorKind::TimedOut.into(),
        })
    }

    /// What a write came to; a client that takes nothing is waited for, but not for ever.
    fn written(&mut self, task: &mut Task<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.moved(written.as_ref().copied().unwrap_or_default());
                Poll::Ready(written)
            }
            Poll::Pending => {
                let end = self.patience.wait(Instant::now());
                let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
                if alarm.deadline() != end {
                    alarm.as_mut().reset(end);
                }
                let late = alarm.as_mut().poll(task);
                late.map(|()| Err(self.end(&Refusal::SlowReader)))
            }
        }
    }

    fn end(&self, refusal: &Refusal) -> io::Error {
        self.context.limits.abused(&self.context.journal, &self.connection, refusal);
        io::Error::new(io::ErrorKind::QuotaExceeded, refusal.to_string())
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(task, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(task, buf);
        self.written(task, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(task, bufs);
        self.written(task, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(task).map_ok(|()| 0);
        self.written(task, flushed).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(task)
    }
}
