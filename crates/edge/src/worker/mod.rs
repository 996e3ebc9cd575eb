//! The last hop to machines of another host: an edge speaks to that host's worker, which speaks to the machine.
//!
//! ```text
//!  client ─▶ edge ─▶ hop ══ one HTTP/2 connection, TLS on both sides ══▶ door ─▶ lease, hard limit ─▶ machine
//!                     ▲                                                   │
//!                     └─ another machine ◀── refusal, in a field of ours ─┘ full, unknown, asleep
//! ```
//!
//! A bare connection, or one that was upgraded, passes as the two bodies of such a request ([`Tunnel`]), and so do the
//! datagrams of all clients of the host's machines ([`letters`]); a machine is woken by one that has no answer.
//!
//! Every host runs the same proxy. Its door lets in whoever shows a certificate of the platform's own authority, and counts
//! what comes from all edges where it counts its own clients' requests, so that a hard limit holds wherever requests come
//! from.

mod door;
pub mod fields;
mod flows;
mod hop;
mod hops;
mod identity;
pub mod letters;
mod tunnel;

use std::{net::SocketAddr, sync::Arc};

use model::HostId;

pub use self::{
    door::open,
    fields::{Errand, Verdict, Want},
    hop::Hop,
    hops::Hops,
    identity::{Credentials, Identity},
    letters::Letter,
    tunnel::{Said, Tunnel, Voice, speak, speak_freely},
};

/// How the machines of other hosts are reached, and those of this one from there.
#[derive(Clone, Default)]
pub struct Backhaul {
    /// This host, whose machines are dialed directly; none of the machines that have a worker are on it otherwise.
    pub host: Option<HostId>,
    /// Where the door for other hosts is, if there is one.
    pub door: Option<SocketAddr>,
    /// By what both sides prove who they are.
    pub credentials: Arc<Credentials>,
}
