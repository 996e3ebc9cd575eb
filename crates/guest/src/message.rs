//! What host and guest tell each other.

use std::net::IpAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    frame::{self, Frame, kind},
    spec::RunSpec,
};

/// A known kind of message whose content cannot be read.
#[derive(Debug, Error)]
pub enum Malformed {
    /// The JSON does not fit.
    #[error("unreadable control message: {0}")]
    Json(#[from] serde_json::Error),
    /// A log record is too short.
    #[error("unreadable log record of {0} bytes")]
    Log(usize),
    /// More data than a frame may carry.
    #[error("a data frame of {0} bytes, more than is allowed")]
    TooLong(usize),
}

/// From the host to the guest. `stream` names a command; the host chooses it and never uses it twice in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// Run this. Obeyed once in the life of a guest; a second one is ignored.
    Boot(Box<RunSpec>),
    /// Sends the program a signal, by number.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Asks the program to end, and makes it end after a while. Answered by [`GuestMessage::Exited`].
    Stop {
        /// The signal that asks, by number; 0 means the spec's own.
        signal: i32,
        /// When everything is killed, in milliseconds.
        timeout_ms: u64,
    },
    /// Runs a command.
    ExecStart {
        /// The command's stream.
        stream: u32,
        /// The command.
        spec: ExecSpec,
    },
    /// Bytes for a command's standard input: never more at a time than were credited.
    #[serde(skip)]
    ExecStdin {
        /// The command's stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// A command's standard input ends.
    ExecEof {
        /// The command's stream.
        stream: u32,
    },
    /// A command's terminal has another size.
    ExecResize {
        /// The command's stream.
        stream: u32,
        /// The size.
        size: TerminalSize,
    },
    /// Sends a command a signal.
    ExecSignal {
        /// The command's stream.
        stream: u32,
        /// The signal's number.
        signal: i32,
    },
    /// Nobody waits for a command any more: kill it and all of its session. Nothing is answered.
    ExecKill {
        /// The command's stream.
        stream: u32,
    },
    /// So many more bytes of a command's output may be sent.
    ExecCredit {
        /// The command's stream.
        stream: u32,
        /// The bytes.
        bytes: u32,
    },
    /// Log records up to this one, itself included, are safe and need not be sent again.
    AckLogs {
        /// The last record's number.
        seq: u64,
    },
    /// What runs and listens? Answered by [`GuestMessage::Report`].
    Inspect {
        /// Comes back in the answer.
        request: u64,
    },
    /// The wall clock: nanoseconds since 1970 (UTC).
    SetClock {
        /// The time.
        unix_ns: u64,
    },
    /// End the virtual machine. After [`GuestMessage::Exited`] or [`GuestMessage::BootFailed`] this says that the
    /// host knows; before, everything is killed first.
    PowerOff,
    /// A message of a later release.
    #[serde(other)]
    Unknown,
}

/// From the guest to the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The first message of a session: the guest's whole state.
    Hello {
        /// The release of the guest's init.
        init_version: String,
        /// Its state.
        state: GuestState,
    },
    /// The program runs.
    Started {
        /// Its process number.
        pid: u32,
        /// How long after the kernel's start that was, in milliseconds.
        uptime_ms: u64,
        /// How long after the start of init that was, in microseconds.
        init_us: u64,
    },
    /// The program could not be started. Told in each session, after all log records. The guest ends on
    /// [`HostMessage::PowerOff`], or by itself after a minute.
    BootFailed(BootFailure),
    /// A line that the program or init wrote.
    #[serde(skip)]
    Log(LogRecord),
    /// Log records were dropped before the next one, for want of room.
    LogsDropped {
        /// How many.
        count: u64,
    },
    /// The program ended; all it wrote has been told before. Told in each session. The guest puts its disks in order
    /// and ends on [`HostMessage::PowerOff`], or by itself after a minute.
    Exited(Exit),
    /// The program says that it is busy for so long from now, and is not to be put to sleep meanwhile; 0 ends it. Told
    /// again in each session while it holds. Since version 2.
    Busy {
        /// How long, in milliseconds.
        for_ms: u64,
    },
    /// So many more bytes of a command's input may be sent.
    ExecCredit {
        /// The command's stream.
        stream: u32,
        /// The bytes.
        bytes: u32,
    },
    /// A command's standard output, or its terminal.
    #[serde(skip)]
    ExecOut {
        /// The command's stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// A command's standard error.
    #[serde(skip)]
    ExecErr {
        /// The command's stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// A command ended; nothing follows on its stream.
    ExecExit {
        /// The command's stream.
        stream: u32,
        /// Its exit code; 0 if a signal ended it.
        code: i32,
        /// The signal that ended it, or 0.
        signal: i32,
    },
    /// A command could not be run; nothing follows on its stream.
    ExecFailed {
        /// The command's stream.
        stream: u32,
        /// Why.
        reason: String,
    },
    /// The answer to [`HostMessage::Inspect`].
    Report {
        /// The question's number.
        request: u64,
        /// Processes of the guest's own, kernel threads and init left out.
        processes: Vec<Process>,
        /// Sockets that listen.
        listening: Vec<ListenSocket>,
    },
    /// A message of a later release.
    #[serde(other)]
    Unknown,
}

/// What a guest is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GuestState {
    /// It waits for [`HostMessage::Boot`].
    Waiting,
    /// The program runs.
    Running {
        /// The boot.
        boot_id: String,
        /// The program's process number.
        pid: u32,
    },
    /// The program ended.
    Exited {
        /// The boot.
        boot_id: String,
        /// How.
        exit: Exit,
    },
    /// The program could not be started.
    Failed {
        /// The boot.
        boot_id: String,
        /// Why.
        failure: BootFailure,
    },
    /// A state of a later release.
    #[serde(other)]
    Unknown,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Its exit code; 0 if a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// The guest's kernel killed it for want of memory.
    pub oom_killed: bool,
}

/// Why a program could not be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootFailure {
    /// The step that failed, such as `root`, `user` or `exec`.
    pub step: String,
    /// Why, in words.
    pub reason: String,
    /// The status as a shell would give it: 127 where the program was not found, 126 where it cannot be run,
    /// 1 otherwise.
    pub exit_code: i32,
}

/// A command to run beside the program, in the same file system and network.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// The command and its arguments. No shell takes part.
    pub argv: Vec<String>,
    /// `user[:group]`; the program's own user if absent.
    pub user: Option<String>,
    /// Where; the program's own working directory if absent.
    pub working_dir: Option<String>,
    /// `NAME=value`, on top of the program's own environment.
    pub env: Vec<String>,
    /// Give it a terminal of this size.
    pub tty: Option<TerminalSize>,
}

impl std::fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecSpec").field("argv", &self.argv).field("user", &self.user).finish_non_exhaustive()
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// Who wrote a log record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// The guest's init.
    Init,
}

/// A line that the program or init wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Its number: grows by one with each record of a guest's life, begins at 1. A record may come again after a
    /// session has been lost; its number is then the same. A gap means dropped records.
    pub seq: u64,
    /// When it was written: nanoseconds since 1970 (UTC), by the guest's clock.
    pub timestamp_ns: u64,
    /// Who wrote it.
    pub source: LogSource,
    /// The line goes on in the next record of the same source.
    pub partial: bool,
    /// The text, without its line end. Any bytes.
    pub bytes: Bytes,
}

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// CPU time it has used, in milliseconds.
    pub cpu_ms: u64,
    /// How long it has run, in milliseconds.
    pub age_ms: u64,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSocket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl HostMessage {
    /// Appends the message, as a frame, to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::ExecStdin { stream, bytes } => frame::encode(kind::STDIN, *stream, &[bytes], out),
            Self::Unknown => {}
            control => encode_control(control, out),
        }
    }

    /// The message that a frame holds; [`HostMessage::Unknown`] if it is one of a later release.
    ///
    /// # Errors
    /// The frame is of a known kind but cannot be read.
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        match frame.kind {
            kind::CONTROL => Ok(serde_json::from_slice(&frame.payload)?),
            kind::STDIN => Ok(Self::ExecStdin { stream: frame.stream, bytes: data(frame.payload)? }),
            _ => Ok(Self::Unknown),
        }
    }
}

impl GuestMessage {
    /// Appends the message, as a frame, to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::ExecOut { stream, bytes } => frame::encode(kind::STDOUT, *stream, &[bytes], out),
            Self::ExecErr { stream, bytes } => frame::encode(kind::STDERR, *stream, &[bytes], out),
            Self::Log(record) => frame::encode(kind::LOG, 0, &[&record.header(), &record.bytes], out),
            Self::Unknown => {}
            control => encode_control(control, out),
        }
    }

    /// The message that a frame holds; [`GuestMessage::Unknown`] if it is one of a later release.
    ///
    /// # Errors
    /// The frame is of a known kind but cannot be read.
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        match frame.kind {
            kind::CONTROL => Ok(serde_json::from_slice(&frame.payload)?),
            kind::STDOUT => Ok(Self::ExecOut { stream: frame.stream, bytes: data(frame.payload)? }),
            kind::STDERR => Ok(Self::ExecErr { stream: frame.stream, bytes: data(frame.payload)? }),
            kind::LOG => LogRecord::decode(data(frame.payload)?).map(Self::Log),
            _ => Ok(Self::Unknown),
        }
    }
}

fn encode_control(message: &impl Serialize, out: &mut BytesMut) {
    let json = serde_json::to_vec(message).expect("messages are plain data with string keys");
    frame::encode(kind::CONTROL, 0, &[&json], out);
}

fn data(payload: Bytes) -> Result<Bytes, Malformed> {
    if payload.len() > crate::MAX_DATA_BYTES { Err(Malformed::TooLong(payload.len())) } else { Ok(payload) }
}

impl LogRecord {
    /// `seq: u64 │ timestamp_ns: u64 │ source: u8 │ flags: u8`, then the text. Flag 1: the line goes on.
    const HEADER_BYTES: usize = 18;

    fn header(&self) -> [u8; Self::HEADER_BYTES] {
        let mut header = [0; Self::HEADER_BYTES];
        let mut rest = &mut header[..];
        rest.put_u64(self.seq);
        rest.put_u64(self.timestamp_ns);
        rest.put_u8(match self.source {
            LogSource::Stdout => 1,
            LogSource::Stderr => 2,
            LogSource::Init => 3,
        });
        rest.put_u8(u8::from(self.partial));
        header
    }

    fn decode(mut payload: Bytes) -> Result<Self, Malformed> {
        if payload.len() < Self::HEADER_BYTES {
            return Err(Malformed::Log(payload.len()));
        }
        let (seq, timestamp_ns) = (payload.get_u64(), payload.get_u64());
        let source = match payload.get_u8() {
            1 => LogSource::Stdout,
            2 => LogSource::Stderr,
            _ => LogSource::Init,
        };
        let partial = payload.get_u8() & 1 != 0;
        Ok(Self { seq, timestamp_ns, source, partial, bytes: payload })
    }
}
