//! The images room as its clients see it: a real registry on 127.0.0.1, real HTTP, real clients.

mod access;
mod collect;
mod docker;
mod interop;
mod pull;
mod push;
mod read;
mod support;
