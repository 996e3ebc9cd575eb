//! The loop: hears the host, the program, its commands and the kernel, and keeps the state of the guest.
//!
//! ```text
//!            Boot, all steps done                 program ends
//!   Waiting ──────────────────────▶ Running ───────────────────────▶ Ended ─── PowerOff, or nobody
//!      │                              │ Stop: signal, later kill ─▶    ▲       cares for a while ──▶ reboot
//!      └── Boot, a step fails ────────┴────────────────────────────────┘
//! ```
//!
//! In `Ended` every process is killed, and once all are gone the disks are put in order. The host is told how it
//! ended after the last log record, and answers with `PowerOff`; only then does the guest go.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use bytes::Bytes;
use guest::{BootFailure, GuestChannel, GuestEvent, GuestMessage, GuestState, HostMessage, LogSource, RunSpec};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};

use crate::{
    boot::{self, Program},
    busy::Busy,
    commands::Commands,
    console,
    disks::{self, Root},
    environment::CannotRun,
    failure::OrFailure,
    kmod,
    link::{Link, Received},
    logs::{Line, LogRing},
    processes,
    program::Process,
    sockets,
    uevents::Uevents,
};

/// Output waits while this much is on its way to the host.
const MAX_OUT_BYTES: usize = 256 * 1024;

/// The version of the protocol from which on the host understands that a program is busy.
const BUSY_SINCE: u16 = 2;

/// How long an ended guest waits for a host that has not taken note of it.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// How long a program has to end when the guest itself was told to.
const GUEST_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Signals to PID 1 that mean: end the guest (`poweroff`, `reboot`, `halt`, control-alt-delete).
const END_SIGNALS: [Signal; 5] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPWR];

/// The guest.
pub struct Supervisor {
    uevents: Uevents,
    link: Link,
    channel: GuestChannel,
    signals: SignalFd,
    logs: LogRing,
    phase: Phase,
    commands: Commands,
    root: Option<Root>,
    busy: Option<Busy>,
    /// Until when the program is busy, and whether the host of this session has been told.
    busy_until: Option<(Instant, bool)>,
    /// How long init worked before it waited for its spec.
    prepared_in: Duration,
    power_off: bool,
}

enum Phase {
    Waiting,
    Running(Running),
    Ended(Ended),
}

struct Running {
    boot_id: String,
    program: Program,
    process: Process,
    stop_signal: i32,
    kill_at: Option<Instant>,
}

struct Ended {
    state: GuestState,
    /// How it ended has been told in this session.
    told: bool,
    /// Nothing runs any more and the disks are in order.
    settled: bool,
    give_up_at: Instant,
}

impl Supervisor {
    /// Opens the channel.
    pub fn start(started: Instant) -> Result<Self, BootFailure> {
        let signals = watch_signals().or_failure("signals", "signalfd")?;
        let uevents = Uevents::open().or_failure("devices", "listening for device events")?;
        for complaint in kmod::load_all("/modules".as_ref()) {
            console::say(&format!("init: kernel module {complaint}"));
        }
        Ok(Self {
            link: Link::open(&uevents)?,
            uevents,
            channel: GuestChannel::default(),
            signals,
            logs: LogRing::default(),
            phase: Phase::Waiting,
            commands: Commands::default(),
            root: None,
            busy: None,
            busy_until: None,
            prepared_in: started.elapsed(),
            power_off: false,
        })
    }

    /// Runs the guest to its end.
    pub fn run(mut self) {
        while !self.is_over() {
            self.wait();
            if self.link.wake() {
                self.detach();
            }
            self.read_channel();
            self.read_signals();
            self.read_program();
            self.read_busy();
            self.kill_the_late();
            self.send_all();
            self.settle();
        }
    }

    /// A host that is there gets everything that it has been owed, even if it does not wait for it.
    fn is_over(&self) -> bool {
        let all_told = |ended: &Ended| !self.channel.is_open() || (ended.told && self.link.out.is_empty());
        match &self.phase {
            Phase::Waiting => self.power_off,
            Phase::Running(_) => false,
            Phase::Ended(ended) if Instant::now() >= ended.give_up_at => true,
            Phase::Ended(ended) => self.power_off && ended.settled && all_told(ended),
        }
    }

    /// Sleeps until something happens.
    fn wait(&mut self) {
        let now = Instant::now();
        let takes_more = self.logs.takes_more(self.channel.is_open(), now);
        let room = self.link.out.len() < MAX_OUT_BYTES;
        let deadline = [self.deadline(), self.logs.deadline().filter(|_| !takes_more)].into_iter().flatten().min();
        let timeout = match deadline {
            _ if self.link.is_readable() => PollTimeout::ZERO,
            Some(deadline) => poll_timeout(deadline.saturating_duration_since(now)),
            None => PollTimeout::NONE,
        };
        let mut polled = vec![readable(self.signals.as_fd()), readable(self.link.as_fd())];
        if let Phase::Running(running) = &self.phase
            && takes_more
        {
            polled.extend(running.process.outputs().map(readable));
        }
        polled.extend(self.busy.iter().map(|busy| readable(busy.as_fd())));
        polled.extend(self.commands.interests(room).map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        let _ = poll(&mut polled, timeout);
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Waiting => None,
            Phase::Running(running) => running.kill_at,
            Phase::Ended(ended) => Some(ended.give_up_at),
        }
    }

    // The host.

    fn read_channel(&mut self) {
        let mut buffer = [0; 32 * 1024];
        // Bounded, so that a busy host does not keep the rest waiting.
        for _ in 0..16 {
            match self.link.receive(&mut buffer) {
                Received::Bytes(length) => self.hear(&buffer[..length]),
                Received::Nothing => break,
                Received::Gone => self.detach(),
            }
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while let Some(event) = self.channel.receive(&mut bytes, &mut self.link.out) {
            match event {
                GuestEvent::Open { .. } => self.greet(),
                GuestEvent::Message(message) => self.obey(message),
                GuestEvent::Malformed(malformed) => self.note(&format!("from the host: {malformed}")),
                GuestEvent::Incompatible { versions } => {
                    self.note(&format!("no common version of the protocol: the host speaks {versions:?}"));
                }
            }
        }
    }

    fn detach(&mut self) {
        self.channel.detach();
        self.drop_session();
    }

    /// What was under way for one host process means nothing to the next.
    fn drop_session(&mut self) {
        self.commands.kill_all();
        self.logs.rewind();
        self.busy_until = self.busy_until.map(|(until, _)| (until, false));
        if let Phase::Ended(ended) = &mut self.phase {
            ended.told = false;
        }
    }

    fn greet(&mut self) {
        self.drop_session();
        let state = match &self.phase {
            Phase::Waiting => GuestState::Waiting,
            Phase::Running(running) => {
                GuestState::Running { boot_id: running.boot_id.clone(), pid: running.process.pid() as u32 }
            }
            Phase::Ended(ended) => ended.state.clone(),
        };
        self.send(&GuestMessage::Hello { init_version: env!("CARGO_PKG_VERSION").into(), state });
    }

    fn obey(&mut self, message: HostMessage) {
        match message {
            HostMessage::Boot(spec) => self.boot(*spec),
            HostMessage::Signal { signal } => self.signal(signal),
            HostMessage::Stop { signal, timeout_ms } => self.stop(signal, Duration::from_millis(timeout_ms)),
            HostMessage::ExecStart { stream, spec } => {
                let program = match &self.phase {
                    Phase::Running(running) => Some(&running.program),
                    Phase::Waiting | Phase::Ended(_) => None,
                };
                self.commands.start(stream, &spec, program, &mut self.link.out);
            }
            HostMessage::AckLogs { seq } => self.logs.acknowledge(seq),
            HostMessage::Inspect { request } => {
                let (processes, listening) = (processes::list(), sockets::list());
                self.send(&GuestMessage::Report { request, processes, listening });
            }
            HostMessage::SetClock { unix_ns } => boot::set_clock(unix_ns),
            HostMessage::PowerOff => {
                self.power_off = true;
                kill_all();
            }
            of_a_command => self.commands.obey(of_a_command, &mut self.link.out),
        }
    }

    fn send(&mut self, message: &GuestMessage) {
        if self.channel.is_open() {
            message.encode(&mut self.link.out);
        }
    }

    /// Sends what there is to send, as far as that goes without waiting.
    fn send_all(&mut self) {
        loop {
            self.commands.turn(&mut self.link.out, MAX_OUT_BYTES);
            self.queue_busy();
            self.queue_logs();
            self.queue_the_end();
            let queued = !self.link.out.is_empty();
            self.link.flush();
            if !queued || !self.link.out.is_empty() {
                return;
            }
        }
    }

    fn queue_logs(&mut self) {
        while self.channel.is_open() && self.link.out.len() < MAX_OUT_BYTES {
            match self.logs.next() {
                Some(message) => message.encode(&mut self.link.out),
                None => return,
            }
        }
    }

    fn queue_busy(&mut self) {
        if let Some((until, told @ false)) = &mut self.busy_until
            && self.channel.version() >= Some(BUSY_SINCE)
            && self.link.out.len() < MAX_OUT_BYTES
        {
            *told = true;
            let for_ms = until.saturating_duration_since(Instant::now()).as_millis() as u64;
            GuestMessage::Busy { for_ms }.encode(&mut self.link.out);
        }
    }

    /// After the last log record, how the program ended.
    fn queue_the_end(&mut self) {
        if let Phase::Ended(ended) = &mut self.phase
            && self.channel.is_open()
            && self.logs.all_sent()
            && !std::mem::replace(&mut ended.told, true)
        {
            match &ended.state {
                GuestState::Exited { exit, .. } => GuestMessage::Exited(*exit).encode(&mut self.link.out),
                GuestState::Failed { failure, .. } => {
                    GuestMessage::BootFailed(failure.clone()).encode(&mut self.link.out)
                }
                GuestState::Waiting | GuestState::Running { .. } | GuestState::Unknown => {}
            }
        }
    }

    /// A remark of init's own in the log.
    fn note(&mut self, text: &str) {
        let line = Line { text: Bytes::copy_from_slice(text.as_bytes()), partial: false };
        self.logs.push(LogSource::Init, line);
    }

    // The program.

    fn boot(&mut self, spec: RunSpec) {
        if !matches!(self.phase, Phase::Waiting) {
            return self.note("told to boot twice; the second time is ignored");
        }
        let asked = Instant::now();
        match self.start_program(&spec) {
            Ok(running) => {
                let (pid, worked) = (running.process.pid() as u32, self.prepared_in + asked.elapsed());
                self.phase = Phase::Running(running);
                let (uptime_ms, init_us) = (processes::uptime_ms(), worked.as_micros() as u64);
                self.send(&GuestMessage::Started { pid, uptime_ms, init_us });
            }
            Err(failure) => self.end(GuestState::Failed { boot_id: spec.boot_id, failure }),
        }
    }

    fn start_program(&mut self, spec: &RunSpec) -> Result<Running, BootFailure> {
        let program = boot::prepare(spec, &self.uevents, &mut self.root)?;
        match Busy::open() {
            Ok(busy) => self.busy = Some(busy),
            Err(error) => self.note(&format!("programs cannot say that they are busy: {error}")),
        }
        let missing = self.root.iter_mut().flat_map(|root| std::mem::take(&mut root.missing)).collect::<Vec<_>>();
        missing.iter().for_each(|what| self.note(what));
        let process = Process::start(&program).map_err(|CannotRun { reason, exit_code }| BootFailure {
            step: "exec".into(),
            reason,
            exit_code,
        })?;
        let stop_signal = if spec.stop_signal == 0 { libc::SIGTERM } else { spec.stop_signal };
        Ok(Running { boot_id: spec.boot_id.clone(), program, process, stop_signal, kill_at: None })
    }

    fn read_program(&mut self) {
        if let Phase::Running(running) = &mut self.phase
            && self.logs.takes_more(self.channel.is_open(), Instant::now())
        {
            running.process.read(&mut self.logs);
        }
    }

    fn read_busy(&mut self) {
        match self.busy.as_mut().and_then(Busy::read) {
            Some(Ok(time)) => self.busy_until = Some((Instant::now() + time, false)),
            Some(Err(reason)) => self.note(&format!("/.dunlin/busy: {reason}")),
            None => {}
        }
    }

    fn signal(&mut self, signal: i32) {
        if let Phase::Running(running) = &self.phase {
            // SAFETY: plain numbers; the process has not been reaped.
            unsafe { libc::kill(running.process.pid(), signal) };
        }
    }

    fn stop(&mut self, signal: i32, timeout: Duration) {
        if let Phase::Running(running) = &mut self.phase {
            running.kill_at = Instant::now().checked_add(timeout);
            let signal = if signal == 0 { running.stop_signal } else { signal };
            self.signal(signal);
        }
    }

    fn kill_the_late(&mut self) {
        if let Phase::Running(running) = &mut self.phase
            && running.kill_at.is_some_and(|kill_at| Instant::now() >= kill_at)
        {
            running.kill_at = None;
            kill_all();
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if END_SIGNALS.iter().any(|end| *end as u32 == signal.ssi_signo) {
                self.power_off |= matches!(self.phase, Phase::Waiting);
                self.stop(0, GUEST_STOP_TIMEOUT);
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.reaped(pid.as_raw(), code, 0),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.reaped(pid.as_raw(), 0, signal as i32),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn reaped(&mut self, pid: i32, code: i32, signal: i32) {
        if !self.commands.reaped(pid, code, signal)
            && let Phase::Running(running) = &mut self.phase
            && running.process.pid() == pid
        {
            running.process.last_words(&mut self.logs);
            let exit = running.process.exit(code, signal);
            let boot_id = std::mem::take(&mut running.boot_id);
            self.end(GuestState::Exited { boot_id, exit });
        }
    }

    fn end(&mut self, state: GuestState) {
        let give_up_at = Instant::now() + LAST_WAIT;
        self.phase = Phase::Ended(Ended { state, told: false, settled: false, give_up_at });
        kill_all();
    }

    /// Puts the disks in order once nothing runs any more.
    fn settle(&mut self) {
        if let Phase::Ended(ended) = &mut self.phase
            && !ended.settled
            && !has_children()
        {
            disks::close(self.root.as_ref());
            ended.settled = true;
        }
    }
}

/// Signals come through a descriptor. SIGPIPE is only blocked: a write to a closed pipe is an error like others.
fn watch_signals() -> nix::Result<SignalFd> {
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    END_SIGNALS.into_iter().for_each(|signal| watched.add(signal));
    let mut blocked = watched;
    blocked.add(Signal::SIGPIPE);
    blocked.thread_block()?;
    // Without this the kernel restarts the machine at once on control-alt-delete.
    nix::sys::reboot::set_cad_enabled(false)?;
    SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Kills every process but this one.
fn kill_all() {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

fn has_children() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, look) != Err(Errno::ECHILD)
}

fn readable(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(descriptor, PollFlags::POLLIN)
}

/// Rounded up, so that the loop does not wake too early and spin.
fn poll_timeout(duration: Duration) -> PollTimeout {
    PollTimeout::try_from(duration + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}
