//! A node, from outside: calls go in, the picture of its machines comes out, and the host is searched for leftovers.
//!
//! Virtual machines are stood in for by processes of this program ([`vm`]): separate processes that outlive the node and
//! speak the guest's protocol over the socket that QEMU would offer. Everything else is real: disks, taps, firewall,
//! control groups. Each test has a network of its own.

mod crash;
mod real;
mod semantics;
mod vm;
mod world;

/// The processes of the other tests begin here: a virtual machine, or a node that is going to be killed.
#[test]
fn process() {
    if let Some(directory) = std::env::var_os("DUNLIN_TEST_VM") {
        vm::run(directory.as_ref());
    } else if let Ok(script) = std::env::var("DUNLIN_TEST_SCRIPT") {
        crash::play(&script);
    }
}
