//! The `build` room.

pub mod layout;
