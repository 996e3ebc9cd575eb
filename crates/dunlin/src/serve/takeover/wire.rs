//! What two processes of one platform say to each other: messages with files.
//!
//! ```text
//!  length (32 bits, big endian)   message (JSON)      files ride on the first byte (unix(7), SCM_RIGHTS)
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use model::{MachineId, log::LogRecord};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::{io::Interest, net::UnixStream, sync::mpsc};

/// The version of what is said here.
pub const PROTOCOL: u32 = 1;
/// Files in one message.
pub const MAX_FILES: usize = 64;
/// No message is longer: the longest is a log record.
const MAX_BYTES: usize = 1 << 20;
/// Messages that wait to be heard; whoever says more waits.
const QUEUE: usize = 64;

/// What one process says to the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// A successor: it speaks this protocol.
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
        /// Its release.
        version: String,
    },
    /// `dunlin upgrade`: start a successor.
    Upgrade,
    /// The answer to it: this release runs now.
    Upgraded {
        /// The release.
        version: String,
        /// The process.
        pid: u32,
    },
    /// It cannot be, and nothing has changed.
    Refused {
        /// Why.
        reason: String,
    },
    /// Some of the sockets, in the message's files.
    Sockets {
        /// Others follow.
        more: bool,
    },
    /// The successor has what it needs: close the rest.
    LetGo,
    /// Everything but the edge is closed.
    Released,
    /// The successor lets clients in.
    Ready,
    /// A record for an app's log.
    Log(Box<LogRecord>),
    /// How much is under way to a machine that is to stop?
    Drain {
        /// The number of the question.
        question: u64,
        /// The machine.
        machine: MachineId,
        /// How long to wait for it to become nothing.
        deadline_ms: u64,
    },
    /// So much.
    Drained {
        /// The number of the question.
        question: u64,
        /// How many requests and connections.
        under_way: usize,
    },
}

/// A connection between two processes.
#[derive(Clone)]
pub struct Channel(Arc<UnixStream>);

impl Channel {
    /// Connects to the process that uses a data directory.
    pub async fn connect(data: &Path) -> Result<Self> {
        let path = super::path(data);
        let stream = UnixStream::connect(&path).await;
        let stream = stream.with_context(|| {
            format!("no `dunlin serve` answers at {}: start one, or name its --data-dir", path.display())
        })?;
        Ok(Self::new(stream))
    }

    /// A connection that was accepted.
    pub fn new(stream: UnixStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Whether the peer is of the same user.
    pub fn is_trusted(&self) -> bool {
        self.0.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
    }

    /// The peer's process.
    pub fn peer_pid(&self) -> u32 {
        self.0.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default()
    }

    /// Says something.
    pub async fn say(&self, said: &Said) -> Result<()> {
        self.hand(said, &[]).await
    }

    /// Says something and hands files over with it.
    pub async fn hand(&self, said: &Said, files: &[OwnedFd]) -> Result<()> {
        let text = serde_json::to_vec(said).context("a message is plain data")?;
        let length = u32::try_from(text.len()).context("a message is short")?;
        let message = [&length.to_be_bytes()[..], &text].concat();
        let mut files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let mut sent = 0;
        while sent < message.len() {
            sent += self.0.async_io(Interest::WRITABLE, || send(&self.0, &message[sent..], &files)).await?;
            files.clear();
        }
        Ok(())
    }

    /// The next message with its files; an error once the peer has gone. Dropped in between, it loses its place.
    pub async fn next(&self) -> Result<(Said, Vec<OwnedFd>)> {
        let (mut length, mut files) = ([0; 4], Vec::new());
        self.read(&mut length, &mut files).await?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= MAX_BYTES, "the other process says something too long");
        let mut message = vec![0; length];
        self.read(&mut message, &mut files).await?;
        let said = serde_json::from_slice(&message).context("the other process says what is not understood")?;
        Ok((said, files))
    }

    async fn read(&self, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> Result<()> {
        let mut read = 0;
        while read < bytes.len() {
            let more = self.0.async_io(Interest::READABLE, || receive(&self.0, &mut bytes[read..], files)).await?;
            ensure!(more > 0, "the other process ended");
            read += more;
        }
        Ok(())
    }

    /// The next message, in time.
    pub async fn expect(&self) -> Result<(Said, Vec<OwnedFd>)> {
        self.expect_within(super::PATIENCE).await
    }

    /// The next message, in so much time.
    pub async fn expect_within(&self, patience: Duration) -> Result<(Said, Vec<OwnedFd>)> {
        let said = tokio::time::timeout(patience, self.next()).await;
        match said.unwrap_or_else(|_| bail!("the other process says nothing"))? {
            (Said::Refused { reason }, _) => bail!("{reason}"),
            said => Ok(said),
        }
    }

    /// Everything the peer says from here on, until it ends.
    pub fn listen(&self) -> mpsc::Receiver<Said> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let channel = self.clone();
        tokio::spawn(async move {
            while let Ok((said, _)) = channel.next().await {
                if sender.send(said).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

fn send(stream: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many files for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags)?)
}

fn receive(stream: &UnixStream, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            files.extend(received);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[tokio::test]
    async fn messages_come_whole_with_their_files() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, other) = (Channel::new(one), Channel::new(other));
        assert!(one.is_trusted());
        let files: Vec<OwnedFd> = (0..MAX_FILES).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
        one.hand(&Said::Sockets { more: false }, &files).await.unwrap();
        one.say(&Said::Upgraded { version: "x".repeat(100_000), pid: 7 }).await.unwrap();
        let (said, received) = other.next().await.unwrap();
        assert!(matches!(said, Said::Sockets { more: false }));
        assert_eq!(received.len(), MAX_FILES);
        assert_ne!(received[0].as_raw_fd(), files[0].as_raw_fd());
        let (said, received) = other.next().await.unwrap();
        assert!(matches!(said, Said::Upgraded { pid: 7, .. }) && received.is_empty());
        one.say(&Said::Refused { reason: "because".into() }).await.unwrap();
        assert_eq!(other.expect().await.unwrap_err().to_string(), "because");
        drop(one);
        assert!(other.next().await.is_err());
    }
}
