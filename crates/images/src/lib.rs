//! The `images` room.
