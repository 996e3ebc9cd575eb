//! The successor's side, until it is ready.

use std::{os::fd::OwnedFd, path::Path};

use anyhow::{Context, Result, bail};

use super::wire::{Channel, PROTOCOL, Said};

/// The process that was there before. It has closed everything but its edge, and waits to hear that this one is ready.
pub struct Predecessor(Channel);

/// Takes over from the process that uses a data directory: its sockets, then its place.
pub async fn succeed(data: &Path) -> Result<(Vec<OwnedFd>, Predecessor)> {
    let channel = Channel::connect(data).await?;
    channel.say(&Said::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").into() }).await?;
    let mut sockets = Vec::new();
    loop {
        let (said, files) = channel.expect().await.context("the running process hands nothing over")?;
        let Said::Sockets { more } = said else { bail!("the running process said {said:?} instead of its sockets") };
        sockets.extend(files);
        if !more {
            break;
        }
    }
    channel.say(&Said::LetGo).await?;
    match channel.expect().await.context("the running process does not let go")?.0 {
        Said::Released => Ok((sockets, Predecessor(channel))),
        other => bail!("the running process said {other:?} instead of letting go"),
    }
}

impl Predecessor {
    /// This process serves from here on. What the other one still says comes over the channel.
    pub async fn ready(self) -> Result<Channel> {
        self.0.say(&Said::Ready).await.context("the process that was there before is gone")?;
        Ok(self.0)
    }
}
