//! The picture of who runs where: what the edge routes by and the name server answers from.
//!
//! ```text
//!  node ── NodeView ──▶ Publisher ── Snapshot ──▶ Reader (edge, names, …)
//!                          │  ▲
//!                          ▼  │ at start
//!                     catalog.jsonl
//! ```
//!
//! On another host there is no node: what a Publisher publishes goes there as lines (`feed`), all at first and then what
//! changes, and an [`Intake`] makes a Publisher of its own publish it.
//!
//! A [`Snapshot`] is an immutable value, numbered by the generation of the node's view that it was made from, and
//! swapped whole: a reader takes the one of this moment without a lock and keeps it as long as it likes. One shares with
//! the next what has not changed ([`Table`]), so that a change costs what it changes, and whoever follows looks only at
//! what differs ([`Table::changes`]). A row that cannot be read or contradicts an older one is left out and reported
//! ([`Quarantined`]); it never takes another row with it. The last good picture lies on the disk, so that traffic flows
//! after a restart before the node has spoken.

mod app;
mod build;
mod disk;
mod feed;
mod intake;
mod lines;
mod offer;
mod ports;
mod publish;
mod row;
mod snapshot;
mod table;

pub use disk::CatalogError;
pub use intake::{Intake, IntakeError};
pub use publish::{Publisher, Reader, RowChange};
pub use row::{MachineRoute, Standing, Worker};
pub use snapshot::{AppRoute, Backend, Door, HTTP_PORT, HTTPS_PORT, Handling, PortRoute, Quarantined, Snapshot};
pub use table::{Change, Named, Table};
