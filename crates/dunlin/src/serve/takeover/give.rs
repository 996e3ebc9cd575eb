//! The predecessor's side, until its successor is ready; and the start of one.

use std::{
    env,
    ffi::OsString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use super::{
    PATIENCE,
    door::{Caller, Door},
    wire::{Channel, MAX_FILES, Said},
};

/// Whoever may come next.
pub struct Succession {
    door: Door,
    /// This program, as it lies on the disk: after an upgrade that is another one.
    program: PathBuf,
    started: Option<Started>,
}

/// A successor that was started because somebody asked for it.
struct Started {
    child: Child,
    asked: Channel,
}

/// A process that wants to succeed this one.
pub struct Successor {
    channel: Channel,
    version: String,
}

impl Succession {
    /// Lets successors come to the process that has the data directory's lock. `program` is this one.
    pub fn open(data: &Path, program: PathBuf) -> Result<Self> {
        Ok(Self { door: Door::open(data)?, program, started: None })
    }

    /// The next one who wants to succeed.
    pub async fn next(&mut self) -> Successor {
        loop {
            tokio::select! {
                caller = self.door.next() => match caller {
                    Caller::Successor { channel, version } => return Successor { channel, version },
                    Caller::Upgrade(asked) => self.start(asked).await,
                },
                ended = ended(&mut self.started) => self.failed(&format!("the new process ended with {ended}")).await,
            }
        }
    }

    /// Starts a successor with the options of this process.
    async fn start(&mut self, asked: Channel) {
        if self.started.is_some() {
            let reason = "an upgrade is under way already".to_owned();
            let _ = asked.say(&Said::Refused { reason }).await;
            return;
        }
        let options = env::args_os().skip(1).filter(|option| option != "--takeover");
        let options = options.chain([OsString::from("--takeover")]);
        match Command::new(&self.program).args(options).spawn() {
            Ok(child) => self.started = Some(Started { child, asked }),
            Err(error) => {
                let reason = format!("{} cannot be started: {error}", self.program.display());
                let _ = asked.say(&Said::Refused { reason }).await;
            }
        }
    }

    /// Tells whoever asked for an upgrade that there is none.
    pub async fn failed(&mut self, reason: &str) {
        tracing::error!("nobody took over: {reason}");
        if let Some(Started { asked, mut child }) = self.started.take() {
            let _ = child.start_kill();
            let _ =
                asked.say(&Said::Refused { reason: format!("{reason}; what it said is in this platform's log") }).await;
        }
    }

    /// Tells whoever asked for an upgrade that it is done.
    pub async fn succeeded(self, successor: &Successor) {
        if let Some(Started { asked, .. }) = self.started {
            let (version, pid) = (successor.version.clone(), successor.pid());
            let _ = asked.say(&Said::Upgraded { version, pid }).await;
        }
    }
}

impl Successor {
    /// Hands it the sockets and waits until it wants everything else closed.
    pub async fn hand(&self, sockets: &[OwnedFd]) -> Result<()> {
        let mut parts = sockets.chunks(MAX_FILES).peekable();
        while let Some(part) = parts.next() {
            self.channel.hand(&Said::Sockets { more: parts.peek().is_some() }, part).await?;
        }
        match self.channel.expect().await?.0 {
            Said::LetGo => Ok(()),
            other => bail!("it said {other:?}"),
        }
    }

    /// Gives it the place, and waits until it has taken it.
    pub async fn give_way(&self) -> Result<()> {
        self.channel.say(&Said::Released).await?;
        match self.channel.expect().await.context("it did not become ready")?.0 {
            Said::Ready => Ok(()),
            other => bail!("it said {other:?}"),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.channel.peer_pid()
    }

    /// What follows.
    pub fn channel(self) -> Channel {
        self.channel
    }
}

/// Resolves when a successor that was started has ended.
async fn ended(started: &mut Option<Started>) -> String {
    let Some(started) = started else { return std::future::pending().await };
    let status: std::io::Result<ExitStatus> = started.child.wait().await;
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Asks the running process to be succeeded by the program that lies on the disk now. Returns the release that runs then,
/// and its process.
pub async fn ask(data: &Path) -> Result<(String, u32)> {
    let channel = Channel::connect(data).await?;
    channel.say(&Said::Upgrade).await?;
    match channel.expect_within(2 * PATIENCE).await?.0 {
        Said::Upgraded { version, pid } => Ok((version, pid)),
        other => bail!("the running process said {other:?}"),
    }
}
