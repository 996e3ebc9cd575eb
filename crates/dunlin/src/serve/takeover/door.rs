//! Where a running process is asked to hand over.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::UnixListener;

use super::wire::{Channel, PROTOCOL, Said};

/// Listens in the data directory, which other users cannot enter.
pub struct Door(UnixListener);

/// Who asks.
pub enum Caller {
    /// A process that wants to succeed this one.
    Successor {
        /// The connection to it.
        channel: Channel,
        /// Its release.
        version: String,
    },
    /// `dunlin upgrade`.
    Upgrade(Channel),
}

impl Door {
    /// Opens the door of the process that has the data directory's lock: what a dead one left there is nobody's.
    pub fn open(data: &Path) -> Result<Self> {
        let path = super::path(data);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path);
        Ok(Self(listener.with_context(|| format!("{} cannot be listened on", path.display()))?))
    }

    /// The next one who asks.
    pub async fn next(&self) -> Caller {
        loop {
            match self.accept().await {
                Ok(caller) => return caller,
                Err(error) => {
                    tracing::warn!("somebody asked for a takeover in vain: {error:#}");
                    // What the system has too little of, it has again in a moment.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn accept(&self) -> Result<Caller> {
        let (stream, _) = self.0.accept().await.context("no connection")?;
        let channel = Channel::new(stream);
        ensure!(channel.is_trusted(), "it is another user");
        match channel.expect().await?.0 {
            Said::Upgrade => Ok(Caller::Upgrade(channel)),
            Said::Hello { protocol: PROTOCOL, version } => Ok(Caller::Successor { channel, version }),
            Said::Hello { protocol, version } => {
                let reason = format!(
                    "release {version} cannot take over from {}: they speak versions {protocol} and {PROTOCOL} of the \
                     takeover; end the running one and start the new one",
                    env!("CARGO_PKG_VERSION")
                );
                channel.say(&Said::Refused { reason: reason.clone() }).await?;
                bail!(reason)
            }
            other => bail!("it began with {other:?}"),
        }
    }
}
