//! The control plane as its clients see it, among fakes for the other rooms.

mod crashes;
mod deploys;
mod hostnames;
mod http;
mod machines;
mod secrets;
mod support;
