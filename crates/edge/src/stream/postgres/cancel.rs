//! Cancellations: each goes to the machine whose session it is about.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as Waker, Poll, ready},
};

use model::AppName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};

use super::{KeyScan, PATIENCE, keys::Scanned};
use crate::{
    context::Context,
    http::Client,
    machine::Target,
    splice::Stream,
    stream::{Socket, reach},
    upstream::Line,
};

/// The public port that a session came to, and its key.
type Session = (u16, Vec<u8>);

/// The keys of the sessions that live now. There are never more than connections of clients.
#[derive(Default)]
pub struct Cancels(Mutex<HashMap<Session, Whose>>);

/// Whose session it is.
#[derive(Clone)]
pub struct Whose {
    /// The app.
    pub app: AppName,
    /// Its machine.
    pub target: Arc<Target>,
}

impl Cancels {
    fn table(&self) -> MutexGuard<'_, HashMap<Session, Whose>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's key in the table, for as long as this lives.
struct Remembered {
    cancels: Arc<Cancels>,
    session: Session,
    whose: Whose,
}

impl Remembered {
    fn new(cancels: Arc<Cancels>, session: Session, whose: Whose) -> Self {
        cancels.table().insert(session.clone(), whose.clone());
        Self { cancels, session, whose }
    }
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let mut table = self.cancels.table();
        // Another machine may use the same key: then its session is the one that is meant.
        if table.get(&self.session).is_some_and(|whose| Arc::ptr_eq(&whose.target, &self.whose.target)) {
            table.remove(&self.session);
        }
    }
}

/// A connection to a machine whose session's key is noted when it comes by.
pub struct Watched {
    stream: Line,
    scan: Option<Box<KeyScan>>,
    cancels: Arc<Cancels>,
    port: u16,
    whose: Whose,
    remembered: Option<Remembered>,
}

impl Watched {
    /// Watches a new connection that came to a public port.
    pub fn new(stream: Line, cancels: Arc<Cancels>, port: u16, whose: Whose) -> Self {
        Self { stream, scan: Some(Box::default()), cancels, port, whose, remembered: None }
    }

    fn heard(&mut self, bytes: &[u8]) {
        let Some(scan) = &mut self.scan else { return };
        let found = scan.feed(bytes);
        if found != Scanned::More {
            self.scan = None;
        }
        if let Scanned::Key(key) = found {
            let session = (self.port, key);
            self.remembered = Some(Remembered::new(self.cancels.clone(), session, self.whose.clone()));
        }
    }
}

/// What passes has to be looked at, so nothing is moved past it.
impl Stream for Watched {}

impl Socket for Watched {
    fn break_off(&mut self) {
        self.stream.break_off();
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heard(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sends a cancellation to the machine whose session has its key. One that fits to none is dropped, as PostgreSQL
/// itself does. Returns when the machine has dealt with it.
pub async fn forward(context: &Context, client: &Client, message: &[u8]) {
    let whose = context.cancels.table().get(&(client.port, message[8..].to_vec())).cloned();
    let Some(Whose { app, target }) = whose else { return };
    let Some(lease) = target.lease(None) else { return };
    let dealt_with = async {
        let mut stream = reach(context, &app, &lease, true, client).await.ok()?;
        stream.write_all(message).await.ok()?;
        stream.take(1).read_to_end(&mut Vec::new()).await.ok()
    };
    let _ = timeout(PATIENCE, dealt_with).await;
}
