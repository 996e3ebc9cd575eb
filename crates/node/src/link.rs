//! The host's end of the channel to one guest: a task that keeps a session open, however often either end is
//! replaced, and tells what it knows of the guest as one value that is swapped whole.
//!
//! ```text
//!             connect             ANSWER, Hello
//!   connecting ─────▶ greeting ───────────────▶ open ──stream ends, protocol broken──▶ connecting
//!        │                └─ no common version ─▶ incompatible
//!        └───────── the VM's process ends (from anywhere) ─▶ gone
//! ```
//!
//! The guest is hostile: what it sends is bounded in size, number and memory; what it repeats changes nothing; a slow
//! reader of a command's output stalls that command and nothing else.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use api::internal::{ExecRequest, ExecSession, GuestReport};
use guest::{BootFailure, Exit, HostMessage, LogRecord, RunSpec};
use thiserror::Error;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::vmm::{Vm, VmRecord};

mod console;
mod exec;
mod task;

pub use console::console_tail;
use task::{Peer, Task};

/// What is known of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The session.
    pub session: Session,
    /// The guest, as it last said.
    pub guest: GuestPhase,
    /// How long its start took, if it was this link that saw it.
    pub start: Option<StartTimes>,
    /// Until when its program is busy, as it says.
    pub busy_until: Option<Instant>,
}

/// How long it took until a guest's program ran, by the guest's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartTimes {
    /// Since its kernel started.
    pub uptime: Duration,
    /// Since its init started.
    pub init: Duration,
}

impl Default for LinkStatus {
    fn default() -> Self {
        Self { session: Session::Connecting, guest: GuestPhase::Silent, start: None, busy_until: None }
    }
}

impl LinkStatus {
    /// The program's end is final, whatever the guest says later.
    fn advance(&mut self, phase: GuestPhase) {
        if !matches!(self.guest, GuestPhase::Exited(_) | GuestPhase::Failed(_)) {
            self.guest = phase;
        }
    }

    fn started(&mut self, start: StartTimes) {
        self.advance(GuestPhase::Running);
        self.start.get_or_insert(start);
    }
}

/// Whether the guest can be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// Not now; it is being tried.
    Connecting,
    /// Yes. Each session has its own number.
    Open(u64),
    /// Its init speaks no version of the protocol that we speak.
    Incompatible(String),
    /// The VM has ended; nothing changes any more.
    Gone,
}

/// What the guest's program does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestPhase {
    /// The guest has not been heard of yet.
    Silent,
    /// Init waits for a spec.
    Waiting,
    /// The program runs.
    Running,
    /// The program ended.
    Exited(Exit),
    /// The program could not be started.
    Failed(BootFailure),
}

/// Why a guest did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The VM has ended.
    #[error("the virtual machine has ended")]
    Gone,
    /// No session came about in time.
    #[error("the guest does not answer")]
    Silent,
    /// The session broke off before the answer came.
    #[error("the connection to the guest was lost")]
    Lost,
    /// Other protocol versions.
    #[error("the guest's init is of another release: {0}")]
    Incompatible(String),
    /// Too many at a time.
    #[error("the guest runs {0} commands already")]
    TooMany(usize),
    /// The program could not be started.
    #[error("{} failed: {}", .0.step, .0.reason)]
    BootFailed(BootFailure),
}

/// Takes the log records of a guest: in order, each once. It must not block.
pub type LogTaker = Arc<dyn Fn(LogRecord) + Send + Sync>;

/// How long a command waits for a session to come about.
const SESSION_PATIENCE: Duration = Duration::from_secs(10);
/// How long a guest may take to answer a question.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Commands that wait for the task.
const INBOX: usize = 64;

/// The link to one guest. Dropping it ends its task; the VM goes on, and another link can take over.
#[derive(Debug)]
pub struct Link {
    inbox: mpsc::Sender<Command>,
    status: watch::Receiver<LinkStatus>,
    stop: DropGuard,
    tasks: TaskTracker,
}

impl Link {
    /// Begins to connect to a VM's guest. Its console is copied to `console_log`, which is bounded, and its log
    /// records are given to `logs`.
    pub fn open(vm: Vm, console_log: PathBuf, logs: LogTaker) -> Self {
        let Vm { record, outputs } = vm;
        let process = record.process.clone();
        let stop = CancellationToken::new();
        let link = Self::to(record, logs, stop.clone());
        link.tasks.spawn(console::copy(process, outputs, console_log, stop));
        link
    }

    fn to(peer: impl Peer, logs: LogTaker, stop: CancellationToken) -> Self {
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, status) = watch::channel(LinkStatus::default());
        let tasks = TaskTracker::new();
        let task = Task {
            peer,
            commands,
            inbox: inbox.downgrade(),
            status: publish,
            logs,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(task.run());
        Self { inbox, status, stop: stop.drop_guard(), tasks }
    }

    /// What is known of the guest, now and at every change.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// Hands the spec to the guest and waits until its program runs (or has already ended). A guest that has its
    /// spec already keeps it. The caller sets a deadline.
    pub async fn boot(&self, spec: RunSpec) -> Result<(), LinkError> {
        loop {
            let (session, guest) = self.session().await?;
            match guest {
                GuestPhase::Running | GuestPhase::Exited(_) => return Ok(()),
                GuestPhase::Failed(failure) => return Err(LinkError::BootFailed(failure)),
                GuestPhase::Waiting => self.send(HostMessage::Boot(Box::new(spec.clone()))).await?,
                GuestPhase::Silent => {}
            }
            let settled = |guest: &GuestPhase| !matches!(guest, GuestPhase::Silent | GuestPhase::Waiting);
            self.wait(|status| status.session != Session::Open(session) || settled(&status.guest)).await?;
        }
    }

    /// Asks the program to end with this signal (0: the spec's own), makes it end after `timeout`, and waits until
    /// it has. The caller sets a deadline of its own, since a guest can be beyond answering.
    pub async fn stop(&self, signal: i32, timeout: Duration) -> Result<Exit, LinkError> {
        let timeout_ms = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        loop {
            let (session, guest) = self.session().await?;
            match guest {
                GuestPhase::Exited(exit) => return Ok(exit),
                GuestPhase::Failed(failure) => return Err(LinkError::BootFailed(failure)),
                _ => self.send(HostMessage::Stop { signal, timeout_ms }).await?,
            }
            let ended = |guest: &GuestPhase| matches!(guest, GuestPhase::Exited(_) | GuestPhase::Failed(_));
            self.wait(|status| status.session != Session::Open(session) || ended(&status.guest)).await?;
        }
    }

    /// Sends the program a signal, by number.
    pub async fn signal(&self, signal: i32) -> Result<(), LinkError> {
        self.tell(HostMessage::Signal { signal }).await
    }

    /// Sets the guest's clock: nanoseconds since 1970.
    pub async fn set_clock(&self, unix_ns: u64) -> Result<(), LinkError> {
        self.tell(HostMessage::SetClock { unix_ns }).await
    }

    /// Tells the guest that its VM shall end: at once after its program has ended, else after killing everything.
    /// The end itself shows in the status as [`Session::Gone`].
    pub async fn power_off(&self) -> Result<(), LinkError> {
        self.tell(HostMessage::PowerOff).await
    }

    /// Runs a command beside the program.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecSession, LinkError> {
        self.session().await?;
        let (reply, answer) = oneshot::channel();
        self.command(Command::Exec { request, reply }).await?;
        answer.await.map_err(|_| LinkError::Gone)?
    }

    /// What runs and listens in the guest.
    pub async fn inspect(&self) -> Result<GuestReport, LinkError> {
        self.session().await?;
        let (reply, answer) = oneshot::channel();
        self.command(Command::Inspect { reply }).await?;
        let answer = timeout(ANSWER_PATIENCE, answer).await.map_err(|_| LinkError::Silent)?;
        answer.map_err(|_| LinkError::Lost)
    }

    /// Ends the task and waits for it; the guest is not told.
    pub async fn close(self) {
        let Self { stop, tasks, .. } = self;
        drop(stop);
        tasks.close();
        tasks.wait().await;
    }

    async fn tell(&self, message: HostMessage) -> Result<(), LinkError> {
        self.session().await?;
        self.send(message).await
    }

    async fn send(&self, message: HostMessage) -> Result<(), LinkError> {
        self.command(Command::Send(message)).await
    }

    async fn command(&self, command: Command) -> Result<(), LinkError> {
        self.inbox.send(command).await.map_err(|_| LinkError::Gone)
    }

    /// Waits for a session; its number and the guest's phase.
    async fn session(&self) -> Result<(u64, GuestPhase), LinkError> {
        let usable = |status: &LinkStatus| status.session != Session::Connecting;
        let status = timeout(SESSION_PATIENCE, self.wait(usable)).await.map_err(|_| LinkError::Silent)??;
        match status.session {
            Session::Open(number) => Ok((number, status.guest)),
            Session::Incompatible(why) => Err(LinkError::Incompatible(why)),
            Session::Connecting | Session::Gone => Err(LinkError::Gone),
        }
    }

    async fn wait(&self, reached: impl FnMut(&LinkStatus) -> bool) -> Result<LinkStatus, LinkError> {
        let mut status = self.status.clone();
        status.wait_for(reached).await.map(|status| status.clone()).map_err(|_| LinkError::Gone)
    }
}

impl Peer for VmRecord {
    async fn connect(&self) -> io::Result<UnixStream> {
        self.channel().await
    }

    fn alive(&self) -> bool {
        self.process.alive()
    }

    async fn ended(&self) {
        if let Err(error) = self.process.exited().await {
            tracing::error!(machine = %self.machine, %error, "the end of a virtual machine cannot be waited for");
            std::future::pending().await
        }
    }
}

/// What the task is asked.
#[derive(Debug)]
enum Command {
    Send(HostMessage),
    Exec { request: ExecRequest, reply: oneshot::Sender<Result<ExecSession, LinkError>> },
    Inspect { reply: oneshot::Sender<GuestReport> },
}

#[cfg(test)]
mod tests;
