//! The `names` room.
