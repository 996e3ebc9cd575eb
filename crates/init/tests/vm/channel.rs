//! The host's end of the channel, as simple as can be: one socket, read until what is waited for has come.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use guest::{ExecSpec, GuestMessage, GuestState, HostChannel, HostEvent, HostMessage, LogRecord};

/// A host process's session with a guest.
pub struct Host {
    stream: UnixStream,
    channel: HostChannel,
    deadline: Instant,
    /// What came and was not waited for yet.
    inbox: Vec<GuestMessage>,
    /// The guest's state as it greeted.
    pub state: GuestState,
}

/// How a command ended, and what it said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ExecResult {
    pub code: i32,
    pub signal: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Host {
    /// Waits for the guest's greeting.
    pub fn connect(path: &Path, patience: Duration) -> Self {
        static SESSION: AtomicU8 = AtomicU8::new(1);
        let deadline = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
        };
        let channel = HostChannel::new([SESSION.fetch_add(1, Ordering::Relaxed); 16]);
        let mut host = Self { stream, channel, deadline, inbox: Vec::new(), state: GuestState::Unknown };
        let mut greeting = BytesMut::new();
        host.channel.greet(&mut greeting);
        host.stream.write_all(&greeting).unwrap();
        host.state = host.wait(|message| match message {
            GuestMessage::Hello { state, .. } => Some(state.clone()),
            _ => None,
        });
        host
    }

    /// Sends a message.
    pub fn send(&mut self, message: HostMessage) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Sends only the first half of a message, and dies.
    pub fn die_in_the_middle_of(mut self, message: HostMessage) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
    }

    /// Takes the first message that `wanted` makes something of, sooner or later; others stay where they are.
    pub fn wait<T>(&mut self, wanted: impl Fn(&GuestMessage) -> Option<T>) -> T {
        loop {
            if let Some(at) = self.inbox.iter().position(|message| wanted(message).is_some()) {
                return wanted(&self.inbox.remove(at)).unwrap();
            }
            self.receive();
        }
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_for_log(&mut self, text: &str) -> LogRecord {
        self.wait(|message| match message {
            GuestMessage::Log(record) if String::from_utf8_lossy(&record.bytes).contains(text) => Some(record.clone()),
            _ => None,
        })
    }

    /// The text of all log lines that have come and were not waited for.
    pub fn logs(&self) -> Vec<String> {
        let text = |message: &GuestMessage| match message {
            GuestMessage::Log(record) => Some(String::from_utf8_lossy(&record.bytes).into_owned()),
            _ => None,
        };
        self.inbox.iter().filter_map(text).collect()
    }

    /// Starts a command.
    pub fn start(&mut self, stream: u32, spec: ExecSpec) {
        self.send(HostMessage::ExecStart { stream, spec });
    }

    /// Runs a shell script beside the program to its end.
    pub fn shell(&mut self, stream: u32, script: &str) -> ExecResult {
        let argv = ["busybox", "sh", "-c", script].map(str::to_owned).into();
        self.start(stream, ExecSpec { argv, ..ExecSpec::default() });
        self.finish(stream, &[])
    }

    /// Gives a command its input, as far as it is granted, and takes its output, granting more, up to its end.
    pub fn finish(&mut self, stream: u32, mut input: &[u8]) -> ExecResult {
        let mut granted = guest::INITIAL_WINDOW_BYTES as usize;
        let (mut result, mut ended_input) = (ExecResult::default(), false);
        loop {
            while granted > 0 && !input.is_empty() {
                let (chunk, rest) = input.split_at(input.len().min(granted).min(guest::MAX_DATA_BYTES));
                self.send(HostMessage::ExecStdin { stream, bytes: Bytes::copy_from_slice(chunk) });
                granted -= chunk.len();
                input = rest;
            }
            if input.is_empty() && !std::mem::replace(&mut ended_input, true) {
                self.send(HostMessage::ExecEof { stream });
            }
            match self.wait(|message| of_stream(message, stream)) {
                GuestMessage::ExecCredit { bytes, .. } => granted += bytes as usize,
                GuestMessage::ExecOut { bytes, .. } => {
                    result.stdout.extend_from_slice(&bytes);
                    self.send(HostMessage::ExecCredit { stream, bytes: bytes.len() as u32 });
                }
                GuestMessage::ExecErr { bytes, .. } => {
                    result.stderr.extend_from_slice(&bytes);
                    self.send(HostMessage::ExecCredit { stream, bytes: bytes.len() as u32 });
                }
                GuestMessage::ExecExit { code, signal, .. } => return ExecResult { code, signal, ..result },
                other => panic!("{other:?}"),
            }
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 64 * 1024];
        let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        let length = match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the guest has gone; unread: {:?}", self.inbox),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nothing comes; unread: {:?}", self.inbox),
            Err(error) => panic!("{error}"),
        };
        let mut bytes = &buffer[..length];
        while let Some(event) = self.channel.receive(&mut bytes) {
            match event {
                HostEvent::Open { .. } => {}
                HostEvent::Message(message) => self.inbox.push(message),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn of_stream(message: &GuestMessage, wanted: u32) -> Option<GuestMessage> {
    match message {
        GuestMessage::ExecOut { stream, .. }
        | GuestMessage::ExecErr { stream, .. }
        | GuestMessage::ExecExit { stream, .. }
        | GuestMessage::ExecFailed { stream, .. }
        | GuestMessage::ExecCredit { stream, .. }
            if *stream == wanted =>
        {
            Some(message.clone())
        }
        _ => None,
    }
}
