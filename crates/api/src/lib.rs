//! Words on the wire.
//!
//! - [`public`]: what clients say to the control plane over REST (the Machines API's shapes and our own).
//! - [`internal`]: what rooms of one platform say to each other. Rooms never import one another; each speaks
//!   through a trait of this module, and only the binary joins them.

pub mod internal;
pub mod public;
