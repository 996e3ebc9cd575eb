//! The task that owns the channel: connects, greets, and passes on in both directions until the VM has ended.

use std::{collections::BTreeMap, io, time::Duration};

use api::internal::{ExecRequest, ExecSession, GuestProcess, GuestReport, ListenSocket};
use bytes::{Bytes, BytesMut};
use guest::{ExecSpec, GuestMessage, GuestState, HostChannel, HostEvent, HostMessage, LogRecord, LogSource, MAX_EXECS};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Command, GuestPhase, LinkError, LinkStatus, LogTaker, Session, StartTimes,
    exec::{self, ExecHandle},
};

/// Between two tries to connect: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// How often the greeting is said again while no answer has come.
const GREETING_PERIOD: Duration = Duration::from_secs(1);
/// How much is read at a time, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// While so much waits to be sent, no more commands are taken.
const OUT_BYTES: usize = 1024 * 1024;
/// No guest is busy for longer, unless it says so again.
const LONGEST_BUSY: Duration = Duration::from_secs(24 * 3600);
/// The most questions that wait for an answer.
const MAX_INSPECTS: usize = 16;

/// Where a guest is reached, and when its VM has ended.
pub(super) trait Peer: Send + 'static {
    /// Connects to the guest's channel.
    fn connect(&self) -> impl Future<Output = io::Result<UnixStream>> + Send;
    /// Whether the VM still runs.
    fn alive(&self) -> bool;
    /// Waits until the VM has ended.
    fn ended(&self) -> impl Future<Output = ()> + Send;
}

/// The task's state for as long as it lives.
pub(super) struct Task<P> {
    pub(super) peer: P,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Its own inbox, for the commands under way in the guest.
    pub(super) inbox: mpsc::WeakSender<Command>,
    pub(super) status: watch::Sender<LinkStatus>,
    pub(super) logs: LogTaker,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// What outlives a session.
#[derive(Default)]
struct Memory {
    sessions: u64,
    /// The number of the last log record that was taken.
    last_log: u64,
}

impl<P: Peer> Task<P> {
    /// Runs until the VM has ended or `stop` is given.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.keep_connected()).await;
    }

    async fn keep_connected(&mut self) {
        let mut memory = Memory::default();
        let mut retry = RETRY_MIN;
        while let Some(stream) = self.connect(&mut retry).await {
            let sessions = memory.sessions;
            Connection::new(self, &mut memory, stream).run().await;
            self.status.send_modify(|status| status.session = Session::Connecting);
            if memory.sessions > sessions {
                retry = RETRY_MIN;
            }
        }
        self.status.send_modify(|status| status.session = Session::Gone);
    }

    /// A connection; `None` once the VM has ended.
    async fn connect(&mut self, retry: &mut Duration) -> Option<UnixStream> {
        loop {
            if !self.peer.alive() {
                self.peer.ended().await;
                return None;
            }
            tokio::select! {
                stream = self.peer.connect() => match stream {
                    Ok(stream) => return Some(stream),
                    Err(error) => tracing::trace!(%error, "the guest is not reached yet"),
                },
                Some(command) = self.commands.recv() => command.lost(),
            }
            tokio::select! {
                () = sleep(*retry) => *retry = (*retry * 2).min(RETRY_MAX),
                () = self.peer.ended() => {}
                Some(command) = self.commands.recv() => command.lost(),
            }
        }
    }
}

impl Command {
    /// There is nobody to pass it on to.
    fn lost(self) {
        if let Self::Exec { reply, .. } = self {
            let _ = reply.send(Err(LinkError::Lost));
        }
        // The sender of a message looks for its effect; that of a question sees that its answer will not come.
    }
}

/// One connection, and the session on it.
struct Connection<'a, P> {
    task: &'a mut Task<P>,
    memory: &'a mut Memory,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    channel: HostChannel,
    /// What is to be sent.
    out: BytesMut,
    phase: Phase,
    /// Log records up to this one are to be acknowledged.
    ack: Option<u64>,
    execs: BTreeMap<u32, ExecHandle>,
    next_stream: u32,
    inspects: BTreeMap<u64, oneshot::Sender<GuestReport>>,
    next_request: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No answer has come.
    Greeting,
    /// The answer has come, the guest's state has not.
    Answered,
    /// Messages pass.
    Open,
    /// There is no version that both speak. Kept connected: nothing else would come of another connection.
    Incompatible,
}

impl<'a, P: Peer> Connection<'a, P> {
    fn new(task: &'a mut Task<P>, memory: &'a mut Memory, stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            task,
            memory,
            reader,
            writer,
            channel: HostChannel::new(kit::random::bytes()),
            out: BytesMut::new(),
            phase: Phase::Greeting,
            ack: None,
            execs: BTreeMap::new(),
            next_stream: 1,
            inspects: BTreeMap::new(),
            next_request: 1,
        }
    }

    /// Passes on until the stream ends. What the guest said before it ended is taken to its last byte.
    async fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        let mut greeting = ticks(GREETING_PERIOD);
        loop {
            self.acknowledge();
            tokio::select! {
                read = self.reader.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => self.receive(&buffer[..count]),
                },
                written = self.writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    // A guest that has ended may still have said something: that is read before its end.
                    if written.is_err() {
                        self.out.clear();
                    }
                }
                _ = greeting.tick(), if self.phase == Phase::Greeting && self.out.is_empty() => {
                    self.channel.greet(&mut self.out);
                }
                Some(command) = self.task.commands.recv(), if self.out.len() < OUT_BYTES => self.command(command),
            }
        }
    }

    /// Acknowledgements do not pile up: there is one, when there is room.
    fn acknowledge(&mut self) {
        if self.out.is_empty()
            && let Some(seq) = self.ack.take()
        {
            HostMessage::AckLogs { seq }.encode(&mut self.out);
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.channel.receive(&mut bytes) {
            match event {
                HostEvent::Open { version } => {
                    tracing::debug!(version, "the guest has answered");
                    self.phase = Phase::Answered;
                }
                HostEvent::Incompatible { versions } => self.incompatible(&versions),
                HostEvent::Message(message) => self.message(message),
                HostEvent::Malformed(error) => tracing::debug!(%error, "a message of the guest was dropped"),
            }
        }
    }

    fn incompatible(&mut self, theirs: &std::ops::RangeInclusive<u16>) {
        self.phase = Phase::Incompatible;
        let ours = guest::channel::VERSIONS;
        let why = format!(
            "it speaks versions {} to {} of the protocol, this host {} to {}; restart the machine",
            theirs.start(),
            theirs.end(),
            ours.start(),
            ours.end()
        );
        self.task.status.send_modify(|status| status.session = Session::Incompatible(why));
    }

    fn message(&mut self, message: GuestMessage) {
        match message {
            GuestMessage::Hello { state, .. } if self.phase == Phase::Answered => self.hello(state),
            _ if self.phase != Phase::Open => {}
            GuestMessage::Started { uptime_ms, init_us, .. } => {
                let start =
                    StartTimes { uptime: Duration::from_millis(uptime_ms), init: Duration::from_micros(init_us) };
                self.task.status.send_modify(|status| status.started(start));
            }
            GuestMessage::BootFailed(failure) => self.advance(GuestPhase::Failed(failure)),
            GuestMessage::Exited(exit) => self.advance(GuestPhase::Exited(exit)),
            GuestMessage::Busy { for_ms } => self.busy(Duration::from_millis(for_ms)),
            GuestMessage::Log(record) => self.log(record),
            GuestMessage::LogsDropped { count } => self.logs_dropped(count),
            GuestMessage::ExecCredit { stream, bytes } => self.exec(stream, |exec| exec.credit(bytes)),
            GuestMessage::ExecOut { stream, bytes } => self.exec_data(stream, exec::Stream::Stdout, &bytes),
            GuestMessage::ExecErr { stream, bytes } => self.exec_data(stream, exec::Stream::Stderr, &bytes),
            GuestMessage::ExecExit { stream, code, signal } => self.exec_end(stream, exec::End::Exit { code, signal }),
            GuestMessage::ExecFailed { stream, reason } => self.exec_end(stream, exec::End::Failed(reason)),
            GuestMessage::Report { request, processes, listening } => self.report(request, processes, listening),
            GuestMessage::Hello { .. } | GuestMessage::Unknown => {}
        }
    }

    fn hello(&mut self, state: GuestState) {
        self.phase = Phase::Open;
        self.memory.sessions += 1;
        let session = Session::Open(self.memory.sessions);
        let phase = match state {
            GuestState::Waiting => Some(GuestPhase::Waiting),
            GuestState::Running { .. } => Some(GuestPhase::Running),
            GuestState::Exited { exit, .. } => Some(GuestPhase::Exited(exit)),
            GuestState::Failed { failure, .. } => Some(GuestPhase::Failed(failure)),
            GuestState::Unknown => None,
        };
        self.task.status.send_modify(|status| {
            status.session = session;
            phase.into_iter().for_each(|phase| status.advance(phase));
        });
    }

    fn advance(&mut self, phase: GuestPhase) {
        self.task.status.send_modify(|status| status.advance(phase));
    }

    fn busy(&mut self, time: Duration) {
        let until = Instant::now() + time.min(LONGEST_BUSY);
        self.task.status.send_modify(|status| status.busy_until = (!time.is_zero()).then_some(until));
    }

    /// Takes a record unless it has been taken already in an earlier session.
    fn log(&mut self, record: LogRecord) {
        let seq = record.seq;
        if seq > self.memory.last_log {
            self.memory.last_log = seq;
            (self.task.logs)(record);
        }
        self.ack = Some(self.memory.last_log);
    }

    fn logs_dropped(&mut self, count: u64) {
        let text = format!("{count} log lines were dropped in the guest, for want of room");
        (self.task.logs)(LogRecord {
            seq: self.memory.last_log,
            timestamp_ns: kit::clock::unix_ns(),
            source: LogSource::Init,
            partial: false,
            bytes: Bytes::from(text),
        });
    }

    fn command(&mut self, command: Command) {
        match command {
            command if self.phase != Phase::Open => command.lost(),
            Command::Send(message) => self.send(&message),
            Command::Exec { request, reply } => drop(reply.send(self.start(request))),
            Command::Inspect { reply } => self.inspect(reply),
        }
    }

    fn send(&mut self, message: &HostMessage) {
        // Nothing is answered to this, so the command is over for us.
        if let HostMessage::ExecKill { stream } = message {
            self.execs.remove(stream);
        }
        message.encode(&mut self.out);
    }

    fn start(&mut self, request: ExecRequest) -> Result<ExecSession, LinkError> {
        let inbox = self.task.inbox.upgrade().ok_or(LinkError::Gone)?;
        if self.execs.len() >= MAX_EXECS {
            return Err(LinkError::TooMany(MAX_EXECS));
        }
        let stream = self.next_stream;
        self.next_stream += 1;
        HostMessage::ExecStart { stream, spec: exec_spec(request) }.encode(&mut self.out);
        let (handle, session, pump) = exec::begin(stream, inbox);
        let stop = self.task.stop.clone();
        self.task.tasks.spawn(async move { stop.run_until_cancelled(pump).await });
        self.execs.insert(stream, handle);
        Ok(session)
    }

    fn exec(&mut self, stream: u32, act: impl FnOnce(&ExecHandle)) {
        if let Some(exec) = self.execs.get(&stream) {
            act(exec);
        }
    }

    fn exec_data(&mut self, stream: u32, which: exec::Stream, bytes: &[u8]) {
        let Some(exec) = self.execs.get(&stream) else { return };
        if exec.data(which, bytes).is_err() {
            self.exec_end(stream, exec::End::Failed("the guest sent more than it may".into()));
            self.send(&HostMessage::ExecKill { stream });
        }
    }

    fn exec_end(&mut self, stream: u32, end: exec::End) {
        if let Some(exec) = self.execs.remove(&stream) {
            exec.end(end);
        }
    }

    fn inspect(&mut self, reply: oneshot::Sender<GuestReport>) {
        self.inspects.retain(|_, reply| !reply.is_closed());
        if self.inspects.len() < MAX_INSPECTS {
            let request = self.next_request;
            self.next_request += 1;
            HostMessage::Inspect { request }.encode(&mut self.out);
            self.inspects.insert(request, reply);
        }
    }

    fn report(&mut self, request: u64, processes: Vec<guest::Process>, listening: Vec<guest::ListenSocket>) {
        let Some(reply) = self.inspects.remove(&request) else { return };
        let process = |process: guest::Process| GuestProcess {
            pid: process.pid,
            command: process.command,
            rss_bytes: process.rss_bytes,
            cpu_ms: process.cpu_ms,
            age_ms: process.age_ms,
        };
        let socket = |socket: guest::ListenSocket| ListenSocket {
            protocol: socket.protocol,
            address: socket.address,
            port: socket.port,
        };
        let _ = reply.send(GuestReport {
            processes: processes.into_iter().map(process).collect(),
            listening: listening.into_iter().map(socket).collect(),
        });
    }
}

fn exec_spec(request: ExecRequest) -> ExecSpec {
    ExecSpec {
        argv: request.command,
        user: request.user,
        working_dir: request.working_dir,
        env: request.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        tty: request.tty.map(|size| guest::TerminalSize { columns: size.columns, rows: size.rows }),
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
