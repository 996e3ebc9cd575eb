//! The words of the product: typed identifiers, specifications, states and what may happen when.
//!
//! This room is pure: no input or output, no clock, no runtime, no randomness. Whoever needs an
//! identifier passes the random bytes in, whoever needs a time passes it in, so planners and state
//! tables run unchanged in tests and simulations.

pub mod address;
pub mod id;
pub mod image;
pub mod log;
pub mod machine;
pub mod time;

pub use address::{Addresses, NetworkId};
pub use id::{AppName, HostId, Hostname, InstanceId, InvalidName, MachineId, OrgSlug, Region};
pub use image::{Digest, ImageConfig, ImageRef, ImageSpec, Reference};
pub use time::{GoDuration, Timestamp};
