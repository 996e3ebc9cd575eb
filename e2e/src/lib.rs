//! What the scenarios stand on: a platform of their own, its command line, and clients.
//!
//! `cargo xtask test` runs them in a network namespace without a way out, one after the other. A scenario whose images
//! or tools are missing says so by name and returns.

pub mod acme;
pub mod edge_host;
pub mod emulated;
pub mod http;
pub mod load;
pub mod platform;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use platform::{Options, Outcome, Platform};

/// Longest wait for anything; virtual machines in software emulation take their time.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The top of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies one folder below the top")
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |target| root().join(target))
}

/// The image layout of a program, as `cargo xtask images` makes it.
pub fn image(name: &str) -> PathBuf {
    if name == "hello" { target().join("hello-oci") } else { target().join("e2e-images").join(name) }
}

/// Says by name why a scenario is skipped; the runner counts the line.
pub fn skip(scenario: &str, reason: &str) {
    eprintln!("skipped: {scenario}: {reason}");
}

/// Why scenarios cannot run here, if they cannot.
pub fn obstacle(images: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("virtual machines with their own network need root".into());
    }
    if !target().join("e2e-data/kernel").is_dir() {
        return Some("the guest kernel is missing (cargo xtask test makes it ready)".into());
    }
    let missing = images.iter().find(|name| !image(name).join("index.json").is_file())?;
    Some(format!("the image {missing} is missing (cargo xtask images makes it)"))
}

/// Waits until a predicate holds.
///
/// # Panics
/// If it does not within [`PATIENCE`]; `what` says what was waited for.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a program is on the PATH.
pub fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}
