//! What crosses the channel between a host and the init of its guest. Shared by both ends; does no I/O.
//!
//! The channel is one stream of bytes in each direction: the virtio serial port [`VIRTIO_PORT`] under QEMU, a
//! connection to the vsock port [`VSOCK_PORT`] (where the guest listens) under Firecracker. Either end may be
//! replaced at any byte: the host's process may be killed and another one take over the stream.
//!
//! ```text
//!   host                                                    guest
//!     │  SYNC magic, nonce, versions min..=max                │  any number of times, at any moment
//!     │ ────────────────────────────────────────────────────▶ │
//!     │            ANSWER magic, nonce, the version chosen    │
//!     │ ◀──────────────────────────────────────────────────── │  what came before it is the tail of a dead session
//!     │                                                Hello  │  the guest's whole state
//!     │ ◀──────────────────────────────────────────────────── │
//!     │                              Log records not yet acknowledged
//!     │ ◀──────────────────────────────────────────────────── │
//!     │  Boot, Stop, Exec…                                    │
//!     │ ────────────────────────────────────────────────────▶ │
//! ```
//!
//! [`frame`] cuts the stream into frames, [`channel`] agrees on a session and a version, [`message`] says what is
//! told, [`spec`] what a guest is to run. An end ignores messages and JSON fields that it does not know, so that
//! a host and a guest of different releases work together.

pub mod argv;
pub mod channel;
pub mod frame;
pub mod message;
pub mod signal;
pub mod spec;

pub use argv::{ArgvSources, resolve_argv};
pub use channel::{GuestChannel, GuestEvent, HostChannel, HostEvent};
pub use message::{
    BootFailure, ExecSpec, Exit, GuestMessage, GuestState, HostMessage, ListenSocket, LogRecord, LogSource, Process,
    TerminalSize,
};
pub use spec::RunSpec;

/// The name of the virtio serial port that carries the channel.
pub const VIRTIO_PORT: &str = "dunlin.0";

/// The vsock port on which the guest listens for the channel.
pub const VSOCK_PORT: u32 = 10_000;

/// The TCP port of the guest's file server, at the address by which its host reaches it.
pub const STATICS_PORT: u16 = 10_875;

/// The most bytes that one data frame (standard input, output, log text) carries.
pub const MAX_DATA_BYTES: usize = 64 * 1024;

/// How many bytes of a command's output (or of its input) may be under way before the receiver has granted more
/// with a credit message. Each stream and direction starts with this much.
pub const INITIAL_WINDOW_BYTES: u32 = 256 * 1024;

/// The most commands that a guest runs at a time besides its program.
pub const MAX_EXECS: usize = 64;
