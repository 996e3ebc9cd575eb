//! Commands under way in a guest.
