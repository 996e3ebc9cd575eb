//! The port of the node: it owns its machines, takes whole wanted states and tells what it observes.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use model::{
    AppName, MachineId,
    machine::{Isolation, MachineSpec, MachineState, Observed},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

/// Why a node did not do what it was asked.
#[derive(Debug, Clone, Error)]
pub enum NodeError {
    /// No such machine on this node.
    #[error("machine not found: this host has no machine {0}")]
    NotFound(MachineId),
    /// The state table says no.
    #[error("machine {machine} is {state}: {reason}")]
    Denied {
        /// The machine.
        machine: MachineId,
        /// Its state.
        state: MachineState,
        /// Why, and what to do instead.
        reason: String,
    },
    /// The spec cannot be run here.
    #[error("invalid machine configuration: {0}")]
    Invalid(String),
    /// The host has no room.
    #[error("could not reserve resource for machine: {0}")]
    Capacity(String),
    /// The machine was made or started, and that failed.
    #[error("machine failed to reach desired state: {0}")]
    Failed(String),
    /// It took longer than it may.
    #[error("timed out after {} s: {what}", after.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The node itself is at fault.
    #[error("the host could not do it: {0}")]
    Internal(String),
}

/// How a new machine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Start it once it is complete.
    pub start: bool,
    /// Keep traffic away from it until it is uncordoned.
    pub cordoned: bool,
}

/// How to stop a machine, where that differs from its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// The signal, such as `SIGTERM`.
    pub signal: Option<String>,
    /// How long to wait before the virtual machine is killed.
    pub timeout: Option<Duration>,
}

/// A command to run in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The program and its arguments. No shell takes part.
    pub command: Vec<String>,
    /// Who runs it, as `user[:group]`; the machine's own user if absent.
    pub user: Option<String>,
    /// Where; the machine's own working directory if absent.
    pub working_dir: Option<String>,
    /// Environment on top of the machine's own.
    pub env: BTreeMap<String, String>,
    /// Give it a terminal of this size.
    pub tty: Option<TerminalSize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What goes into a running command.
#[derive(Debug)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// Its standard input ends.
    Eof,
    /// Its terminal has another size.
    Resize(TerminalSize),
    /// A signal, by number.
    Signal(i32),
}

/// What comes out of a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Bytes of its standard output (or of its terminal).
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended; nothing follows.
    Exit {
        /// Its exit code; 0 if a signal ended it.
        code: i32,
        /// The signal that ended it, or 0.
        signal: i32,
    },
    /// It could not be run, or was lost; nothing follows.
    Failed(String),
}

/// A command under way. Dropping it kills the command.
#[derive(Debug)]
pub struct ExecSession {
    /// What goes in.
    pub input: mpsc::Sender<ExecInput>,
    /// What comes out.
    pub output: mpsc::Receiver<ExecEvent>,
}

/// What a command that has ended said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecReply {
    /// Its exit code; 0 if a signal ended it.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub exit_signal: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// What runs and listens inside a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Processes of the guest's own program, kernel threads left out.
    pub processes: Vec<GuestProcess>,
    /// Sockets that listen.
    pub listening: Vec<ListenSocket>,
}

/// A process in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcess {
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

/// A socket that listens in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenSocket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// Everything a node knows about its machines at one moment: immutable, numbered, swapped whole.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Grows with each change; never repeats in the life of a data directory.
    pub generation: u64,
    /// The machines, those destroyed in the last minutes included.
    pub machines: BTreeMap<MachineId, Arc<Observed>>,
}

/// A host that runs machines.
///
/// Every operation that is accepted is first written to the node's ledger and finishes even if the process is
/// killed in between. An operation returns when the machine has reached the state it leads to, or has failed to.
#[async_trait]
pub trait Node: Send + Sync {
    /// Makes a machine: disks, addresses, and with [`Launch::start`] its first start. Returns as soon as it is in
    /// the ledger, in state `creating`. The same spec a second time changes nothing.
    async fn create(&self, spec: MachineSpec, launch: Launch) -> Result<Arc<Observed>, NodeError>;

    /// Gives a machine another version of its configuration. Returns once that is in the ledger. A machine that
    /// runs is stopped in the orderly way, made anew (its writable layer is reset) and started again. The spec that it
    /// has, or is about to get, a second time changes nothing.
    async fn update(&self, spec: MachineSpec) -> Result<Arc<Observed>, NodeError>;

    /// Starts a machine and returns when its program runs. The state before is returned.
    async fn start(&self, id: &MachineId) -> Result<MachineState, NodeError>;

    /// Stops a machine and returns when it has stopped.
    async fn stop(&self, id: &MachineId, how: StopRequest) -> Result<(), NodeError>;

    /// Ends a machine's virtual machine and keeps its memory, and returns when that is so. Where memory cannot be kept,
    /// the machine is stopped instead; its log says why.
    async fn suspend(&self, id: &MachineId) -> Result<(), NodeError>;

    /// Stops and starts a machine and returns when its program runs again.
    async fn restart(&self, id: &MachineId, how: StopRequest) -> Result<(), NodeError>;

    /// Sends a signal, by name, to a machine's program.
    async fn signal(&self, id: &MachineId, signal: &str) -> Result<(), NodeError>;

    /// Removes everything of a machine but its volumes and returns when it is gone.
    async fn destroy(&self, id: &MachineId, force: bool) -> Result<(), NodeError>;

    /// Takes a machine out of the edge's choice, or puts it back. Its observation tells when that is so.
    async fn cordon(&self, id: &MachineId, cordoned: bool) -> Result<(), NodeError>;

    /// Replaces a machine's metadata. This makes no new version.
    async fn set_metadata(&self, id: &MachineId, metadata: BTreeMap<String, String>) -> Result<(), NodeError>;

    /// Runs a command in a guest.
    async fn exec(&self, id: &MachineId, request: ExecRequest) -> Result<ExecSession, NodeError>;

    /// What runs and listens in a guest.
    async fn inspect(&self, id: &MachineId) -> Result<GuestReport, NodeError>;

    /// Removes every volume of an app and returns when they are gone. Called when the app is destroyed, once none of
    /// its machines is left: its name may be used again, and what comes then must not find old data.
    async fn destroy_volumes(&self, app: &AppName) -> Result<(), NodeError>;

    /// The node's machines, now and at every change.
    fn observe(&self) -> watch::Receiver<Arc<NodeView>>;

    /// Which wall new machines get on this host, and in words why not a stronger one.
    fn isolation(&self) -> (Isolation, String);
}
