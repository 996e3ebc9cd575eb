//! The `node` room.

pub mod kernel;
pub mod link;
pub mod vmm;
