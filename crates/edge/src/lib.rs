//! The edge: carries traffic from clients to machines.
//!
//! ```text
//!  client ─▶ listen ─▶ tls ─▶ http ─▶ choose ─▶ upstream ─▶ machine
//!              │        │      │        │  ▲
//!              │        │      │        │  ├ routing: the catalog's picture joined with what is under way
//!              │        │      │        │  └ wake: machines that sleep
//!              │        │      │        └ hold: wait while a machine is on its way up, queue while all are full
//!              │        │      └ route by host, edit header fields, answer refusals with a page
//!              │        └ end TLS by server name
//!              └ accept within limits, on the shared ports and on those that apps ask for
//!
//!  client ─▶ http3 (QUIC, TLS inside) ─▶ the same from `http` on
//! ```
//!
//! - A request passes through phases, each a function: identify, route, gate, edit, choose, forward, edit, answer
//!   (`http::request`).
//! - Everything that can go wrong is a [`Refusal`]: a stable code, whose fault it is, what to do. The client gets it as
//!   a page, the app's log as a line.
//! - Which machine takes a request is a pure function (`pick`); waiting for one is `choose`.
//! - What was carried is counted and told (`account`): metrics, access records, live tables.
//! - Sources and apps share the edge (`limits`): a flood takes its own share and no other's.
//! - A request reads one immutable picture; none of it waits for the control plane.

mod account;
mod choose;
mod context;
mod distance;
mod edge;
mod error;
mod gathered;
pub mod geography;
mod hostnames;
mod http;
pub mod http1;
pub mod http2;
mod http3;
mod journal;
mod limits;
mod listen;
mod machine;
mod maintenance;
mod options;
pub mod outlier;
pub mod pick;
mod plain;
pub mod proxy_protocol;
mod refusal;
mod replay;
mod routing;
mod signal;
mod splice;
mod statics;
mod stream;
mod subnet;
mod tls;
mod tunnel;
mod udp;
mod upstream;
mod wake;
pub mod warmup;
mod websocket;
mod wish;
mod worker;

pub use edge::Edge;
pub use error::EdgeError;
pub use hostnames::Hostnames;
pub use http::InboundBody;
pub use http3::{BadFrames, FrameFilter};
pub use limits::{Pace, Rate};
pub use listen::Sockets;
pub use maintenance::Maintenance;
pub use options::{Bounds, EdgeOptions, GLOBAL_QUEUE_INTERVAL, PlatformHost};
pub use refusal::{Fault, Refusal};
pub use replay::{BadOrder, BadPattern, CacheOrder, CacheRule, Fallback, Pattern, ReplayOrder, Transform};
pub use stream::postgres::keys::{KeyScan, Scanned};
pub use subnet::{BadSubnet, Subnet};
pub use websocket::Frames as WebSocketFrames;
pub use wish::Place;
pub use worker::{Backhaul, Credentials, Identity, letters};
