//! The promised figures: `e2e/src/bin/bench.rs` in a network namespace of its own, beside the same tests' platform.

use anyhow::Result;

use crate::{run, test};

/// Prints the figures.
pub fn run() -> Result<()> {
    test::make_ready()?;
    run::succeed(&mut run::cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package",
        "images",
        "--example",
        "rootfs_bench",
    ]))?;
    run::succeed(&mut run::cargo(&["build", "--quiet", "--package", "e2e", "--bin", "bench"]))?;
    let mut bench = run::isolated();
    run::succeed(bench.arg(run::target().join("debug/bench")))
}
