//! Commands under way in a guest.
//!
//! The connection puts what comes for a command into its mailbox and never waits; the command's pump brings that to
//! whoever reads, and grants the guest as much more as has been taken from the mailbox. So a mailbox holds at most one
//! window, and a slow reader stalls its own command only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::internal::{ExecEvent, ExecInput, ExecSession};
use bytes::{Bytes, BytesMut};
use guest::{HostMessage, INITIAL_WINDOW_BYTES, MAX_DATA_BYTES};
use tokio::sync::{Notify, mpsc};

use super::Command;

/// Pieces of input and of output that wait besides the windows.
const QUEUE: usize = 2;
/// The most input that a guest can ask for at a time, in bytes.
const MAX_INPUT_WINDOW: usize = 16 * 1024 * 1024;

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// How a command ended.
#[derive(Debug)]
pub(super) enum End {
    Exit { code: i32, signal: i32 },
    Failed(String),
}

/// The guest sent more than it was granted.
#[derive(Debug)]
pub(super) struct Overrun;

/// The connection's hold on a command. When it is dropped before the command's end, the command is lost.
#[derive(Debug)]
pub(super) struct ExecHandle(Arc<Mailbox>);

#[derive(Debug)]
struct Mailbox {
    state: Mutex<State>,
    output_changed: Notify,
    input_changed: Notify,
}

#[derive(Debug)]
struct State {
    stdout: BytesMut,
    stderr: BytesMut,
    /// What the guest may still send, in bytes.
    output_window: usize,
    /// What we may still send, in bytes.
    input_window: usize,
    end: Option<End>,
}

/// Makes the three ends of a command: the connection's, the caller's, and the pump between them.
pub(super) fn begin(
    stream: u32,
    inbox: mpsc::Sender<Command>,
) -> (ExecHandle, ExecSession, impl Future<Output = ()> + Send + 'static) {
    let window = INITIAL_WINDOW_BYTES as usize;
    let state = State {
        stdout: BytesMut::new(),
        stderr: BytesMut::new(),
        output_window: window,
        input_window: window,
        end: None,
    };
    let mailbox =
        Arc::new(Mailbox { state: Mutex::new(state), output_changed: Notify::new(), input_changed: Notify::new() });
    let (input, inputs) = mpsc::channel(QUEUE);
    let (outputs, output) = mpsc::channel(QUEUE);
    let pump = Pump { stream, mailbox: mailbox.clone(), inbox };
    (ExecHandle(mailbox), ExecSession { input, output }, pump.run(inputs, outputs))
}

impl ExecHandle {
    /// Output has come.
    pub(super) fn data(&self, stream: Stream, bytes: &[u8]) -> Result<(), Overrun> {
        let mut state = self.0.state();
        state.output_window = state.output_window.checked_sub(bytes.len()).ok_or(Overrun)?;
        match stream {
            Stream::Stdout => state.stdout.extend_from_slice(bytes),
            Stream::Stderr => state.stderr.extend_from_slice(bytes),
        }
        drop(state);
        self.0.output_changed.notify_one();
        Ok(())
    }

    /// The guest takes more input.
    pub(super) fn credit(&self, bytes: u32) {
        let mut state = self.0.state();
        state.input_window = state.input_window.saturating_add(bytes as usize).min(MAX_INPUT_WINDOW);
        drop(state);
        self.0.input_changed.notify_one();
    }

    /// The command ended.
    pub(super) fn end(self, end: End) {
        self.0.end(end);
    }
}

impl Drop for ExecHandle {
    fn drop(&mut self) {
        self.0.end(End::Failed("the connection to the guest was lost".into()));
    }
}

impl Mailbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first end counts.
    fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.output_changed.notify_one();
    }

    /// The next thing to tell: output while there is any, then the end.
    async fn next(&self) -> ExecEvent {
        loop {
            let event = self.state().take();
            if let Some(event) = event {
                return event;
            }
            self.output_changed.notified().await;
        }
    }

    /// Waits until input may be sent, and takes the right to send at most so many bytes.
    async fn take_input_window(&self, wanted: usize) -> usize {
        loop {
            let granted = self.state().take_input_window(wanted);
            if granted > 0 {
                return granted;
            }
            self.input_changed.notified().await;
        }
    }
}

impl State {
    fn take(&mut self) -> Option<ExecEvent> {
        if let Some(bytes) = piece(&mut self.stdout) {
            return Some(ExecEvent::Stdout(bytes));
        }
        if let Some(bytes) = piece(&mut self.stderr) {
            return Some(ExecEvent::Stderr(bytes));
        }
        self.end.take().map(|end| match end {
            End::Exit { code, signal } => ExecEvent::Exit { code, signal },
            End::Failed(reason) => ExecEvent::Failed(reason),
        })
    }

    fn take_input_window(&mut self, wanted: usize) -> usize {
        let granted = wanted.min(self.input_window);
        self.input_window -= granted;
        granted
    }
}

fn piece(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.len().min(MAX_DATA_BYTES);
    (length > 0).then(|| buffer.split_to(length).freeze())
}

/// Brings a command's input and output to where they belong.
struct Pump {
    stream: u32,
    mailbox: Arc<Mailbox>,
    inbox: mpsc::Sender<Command>,
}

impl Pump {
    async fn run(self, inputs: mpsc::Receiver<ExecInput>, outputs: mpsc::Sender<ExecEvent>) {
        let ended = tokio::select! {
            ended = self.outward(&outputs) => ended,
            () = self.inward(inputs) => false,
            () = outputs.closed() => false,
        };
        if !ended {
            self.send(HostMessage::ExecKill { stream: self.stream }).await;
        }
    }

    /// Tells all there is to tell. False if nobody listens any more.
    async fn outward(&self, outputs: &mpsc::Sender<ExecEvent>) -> bool {
        loop {
            let event = self.mailbox.next().await;
            let read = match &event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => bytes.len(),
                ExecEvent::Exit { .. } | ExecEvent::Failed(_) => 0,
            };
            if outputs.send(event).await.is_err() {
                return false;
            }
            if read == 0 {
                return true;
            }
            self.grant(read).await;
        }
    }

    async fn grant(&self, bytes: usize) {
        self.mailbox.state().output_window += bytes;
        let bytes = u32::try_from(bytes).expect("a piece is bounded");
        self.send(HostMessage::ExecCredit { stream: self.stream, bytes }).await;
    }

    /// Passes input on for as long as the command runs. A caller that drops its end has no more input.
    async fn inward(&self, mut inputs: mpsc::Receiver<ExecInput>) {
        let stream = self.stream;
        while let Some(input) = inputs.recv().await {
            match input {
                ExecInput::Stdin(bytes) => self.stdin(bytes).await,
                ExecInput::Eof => self.send(HostMessage::ExecEof { stream }).await,
                ExecInput::Resize(size) => {
                    let size = guest::TerminalSize { columns: size.columns, rows: size.rows };
                    self.send(HostMessage::ExecResize { stream, size }).await;
                }
                ExecInput::Signal(signal) => self.send(HostMessage::ExecSignal { stream, signal }).await,
            }
        }
        self.send(HostMessage::ExecEof { stream }).await;
        std::future::pending().await
    }

    async fn stdin(&self, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let length = self.mailbox.take_input_window(bytes.len().min(MAX_DATA_BYTES)).await;
            self.send(HostMessage::ExecStdin { stream: self.stream, bytes: bytes.split_to(length) }).await;
        }
    }

    /// The task that takes this ends only when nobody needs it any more.
    async fn send(&self, message: HostMessage) {
        let _ = self.inbox.send(Command::Send(message)).await;
    }
}
