//! Requests that an app sends elsewhere: `fly-replay`.
//!
//! ```text
//!            ┌──────────── remembered? ───────────┐
//!            │                                    ▼
//!  request ──┴─▶ machine ─▶ answer ─▶ order? ─▶ another machine, app, region ─▶ answer ─▶ client
//!                  ▲                    │ │            │
//!                  │                    │ └─ remember  │ not to be had
//!                  └────── fallback ────┴──────────────┘
//! ```
//!
//! What an app orders is parsed strictly (`order`), may be remembered for later requests (`cache`), and is carried out by
//! the request's [`Journey`]. The answer that held the order is thrown away. Only apps of the same organization and the
//! same private network send requests to each other.

mod cache;
mod journey;
mod json;
mod order;
mod pattern;

pub use cache::{Quota, ReplayCache};
pub use journey::{Head, Journey, Orderer, Recall};
pub use order::{BadOrder, CacheOrder, CacheRule, Fallback, MAX_JSON_BYTES, ReplayOrder, Transform};
pub use pattern::{BadPattern, Pattern};
