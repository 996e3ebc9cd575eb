//! The `guest` room.
