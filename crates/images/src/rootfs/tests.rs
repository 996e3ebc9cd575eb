//! What the room promises, rule by rule. Archives are written by the `tar` crate or by GNU tar, images are read by
//! `ext4-view` and checked by e2fsck: nothing here trusts the code that it tests.

mod archive;
mod hostile;
mod image;
mod property;
mod rules;
mod sparse;
mod store;
