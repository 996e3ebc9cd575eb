//! Keeping account: what was carried, for whom, how long it took, and why it was not.
//!
//! ```text
//!  connection ─▶ connections (live table)        request ─▶ visit ─┬▶ metrics of its app and its machine (counters)
//!                                                                  └▶ record: one line in the app's log
//! ```
//!
//! Counting is atomic additions on values that a request holds anyway; nothing is looked up by name on its way. What is
//! read (metrics, live tables) is put together when somebody asks.

mod connections;
mod counted;
mod metrics;
mod record;
mod render;
mod routes;
mod trace;
mod visit;

pub use connections::{Connection, Connections};
pub use counted::Counted;
pub use metrics::{AppMetrics, Counter, Handshakes, MachineMetrics};
pub use render::render;
pub use routes::routes;
pub use trace::{TRACEPARENT, Trace};
pub use visit::Account;
