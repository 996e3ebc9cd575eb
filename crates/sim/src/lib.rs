//! A global network in one process: edges and workers in several regions, time and distance made up, faults drawn from a
//! seed. The same seed gives the same run.
//!
//! ```text
//!  clients ─▶ edge of their region ─▶ pick ─── distance ───▶ worker ─▶ machine: takes it, for a while
//!                  ▲  ▲                                        │  └ dead or cut off: the edge hears of a failure
//!                  │  │                                        └ at its hard limit: bounced, the edge picks another
//!                  │  └─── the answer, a failure or the bounce, after the distance back
//!                  └ the catalog, after the distance from where it is made
//! ```
//!
//! What decides is what decides in the platform: the catalog's pictures (`catalog`), the choice of a machine, outliers,
//! slow start and distances (`edge`). What carries is replaced by a queue of events, so that minutes of a network take
//! a moment and every run can be repeated. An edge knows only what is under way from itself; how busy a machine really
//! is, its worker knows.

mod edges;
mod events;
mod fault;
mod network;
mod random;
mod report;
mod workers;

pub use fault::{Fault, Trouble};
pub use network::{Network, Plan};
pub use random::Random;
pub use report::{Outcome, Report, Served};
