//! Small common ground of the rooms. What has fewer than two users does not belong here.

pub mod allocator;
pub mod clock;
pub mod durable;
pub mod random;
pub mod report;
pub mod seal;
