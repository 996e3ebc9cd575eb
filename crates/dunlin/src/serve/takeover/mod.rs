//! One process takes over from another without losing a request.
//!
//! ```text
//!  predecessor                        successor                           what clients see
//!  ───────────                        ─────────                           ────────────────
//!  serves                 ◀── Hello ── starts                              (nothing)
//!  copies of its sockets ── Sockets ─▶ keeps them, accepts nothing yet
//!                         ◀── LetGo ──
//!  closes the API, the control                                             API calls wait in the socket; apps are
//!  plane, the node, the database;                                          served as before, by the last good catalog
//!  gives the lock back   ── Released ▶ takes the lock, opens everything,
//!                                      adopts the machines
//!                         ◀── Ready ── lets clients in
//!  retires: lets in nobody,                                                new connections: the successor;
//!  whoever is here stays                                                   those that were open: the predecessor
//!         │   ── log records ──▶       writes them: it has the logs now
//!         │  ◀── which machine drains ─  a machine stops when both are done with it
//!         └ the last one went, or the time is up: ends
//! ```
//!
//! - Both listen on the same sockets, so a connection that nobody has accepted yet is never refused.
//! - A successor that dies, or says nothing for [`PATIENCE`], before it is ready has changed nothing: the predecessor takes
//!   the lock back and opens what it closed.
//! - `dunlin upgrade` asks a running process to start its own successor, from the program as it lies on the disk now and
//!   with the same options.

mod door;
mod elder;
mod give;
mod retire;
mod succeed;
mod wire;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    elder::Elders,
    give::{Succession, Successor, ask},
    retire::retire,
    succeed::succeed,
};

/// How long either side waits for the next word of the other.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where a running process is asked to hand over.
pub fn path(data: &Path) -> PathBuf {
    data.join("takeover.sock")
}
