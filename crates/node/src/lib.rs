//! The `node` room: runs machines on one host.
//!
//! [`LocalNode`] is the door. Each machine has one owner task ([`machine`]) that brings it up and down step by step,
//! writes what it is about to do into the [`ledger`], and finds the next step with a pure planner. Beside it: the host's
//! [`net`]work, [`disk`]s, [`cgroup`]s, health [`checks`], memory ([`capacity`]), and the virtual machine monitors
//! ([`vmm`]), the guest kernel ([`kernel`]) and the channel to a guest ([`link`]).

mod capacity;
mod cgroup;
mod checks;
mod disk;
pub mod kernel;
mod ledger;
pub mod link;
mod machine;
mod net;
mod node;
mod options;
mod view;
pub mod vmm;

pub use net::{InvalidPool, Ipv4Pool};
pub use node::{LocalNode, OpenError};
pub use options::{FIRST_UID, InvalidTag, Machinery, NodeOptions, StepProbe, Tag};

/// The guest's init: a static program that this crate's build script makes.
pub const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
