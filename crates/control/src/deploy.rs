//! Deployments: durable workflows that roll a release out, machine by machine, and undo themselves when they fail.
//!
//! ```text
//!  request ─▶ parse, resolve image ─▶ release + deployment + plan, one transaction ─▶ (client only watches)
//!                                                  │ its turn: one at a time per app
//!                                                  ▼
//!  pending ──▶ running: step 1, step 2, … Commit … ──▶ complete
//!                 │ a step before Commit fails: why is written down first
//!                 ▼
//!              undoing: … step 2, step 1 in reverse ──▶ failed
//! ```
//!
//! The steps are chosen when the deployment begins, with every new identifier in them, and stored with a cursor. After
//! each step the cursor is stored; a control plane that is killed goes on with the step at the cursor, which may have
//! been done in part or in full, so doing and undoing a step are both idempotent. Before `Commit` nothing is destroyed:
//! replaced machines are only stopped, so undoing leads back to exactly the machines there were. After `Commit` the
//! deployment cannot fail any more; it only cleans up.
//!
//! A machine without a volume is replaced start-first:
//!
//! ```text
//! Launch new (cordoned) ─▶ AwaitReady new ─▶ Admit new ─▶ Retire old (cordon, drain, stop) … Commit … Destroy old
//! ```
//!
//! The edge hears of `Admit` before it hears of `Retire` (one ordered stream of views), and `Retire` waits until the
//! edge has caught up, so at every moment some machine is there to be chosen. A machine with a volume is updated in
//! place, because a volume can be used by one machine at a time; the edge holds requests meanwhile.

mod definition;
mod failure;
mod plan;
mod ready;
mod request;
mod runner;
mod steps;
mod view;

pub use ready::Tempo;

pub(crate) use definition::Definition;
pub(crate) use plan::Step;
