//! The `logs` room.
