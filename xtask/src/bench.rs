//! The promised figures, each beside what it is compared with, in one run.

use std::fs;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::{run, test};

/// What is measured.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// Machines, images and the platform at rest: `e2e/src/bin/bench.rs`
    Platform,
    /// The edge amid 100,000 apps with 1,000,000 machines: `crates/edge/examples/catalog_bench.rs`
    Catalog,
    /// What the edge costs beside HAProxy, nginx and Caddy (Debian packages haproxy, nginx-light, libnginx-mod-stream,
    /// caddy and nghttp2-client): `crates/edge/examples/edge_bench`
    Edge,
}

/// Apps of the large catalog, and machines of each.
const APPS: &str = "100000";
const MACHINES: &str = "10";

/// What the edge is compared with, and what makes the load.
const EDGE_TOOLS: [&str; 4] = ["haproxy", "nginx", "h2load", "taskset"];

/// Prints the figures.
pub fn run(what: What, works: &[String]) -> Result<()> {
    match what {
        What::Platform => platform(),
        What::Catalog => catalog(),
        What::Edge => edge(works),
    }
}

/// In a network namespace of its own, beside the same tests' platform.
fn platform() -> Result<()> {
    test::make_ready()?;
    build_release("images", "rootfs_bench")?;
    run::succeed(&mut run::cargo(&["build", "--quiet", "--package", "e2e", "--bin", "bench"]))?;
    let mut bench = run::isolated();
    run::succeed(bench.arg(run::target().join("debug/bench")))
}

fn catalog() -> Result<()> {
    build_release("edge", "catalog_bench")?;
    let work = run::target().join("bench/catalog");
    let _ = fs::remove_dir_all(&work);
    let mut bench = run::isolated();
    run::succeed(bench.arg(run::target().join("release/examples/catalog_bench")).args([APPS, MACHINES]).arg(&work))?;
    Ok(fs::remove_dir_all(&work)?)
}

fn edge(works: &[String]) -> Result<()> {
    let missing: Vec<_> = EDGE_TOOLS.into_iter().filter(|tool| !run::is_on_path(tool)).collect();
    ensure!(missing.is_empty(), "the edge is compared by programs that are not here: {}", missing.join(", "));
    build_release("edge", "edge_bench")?;
    run::succeed(run::isolated().arg(run::target().join("release/examples/edge_bench")).args(works))
}

fn build_release(package: &str, example: &str) -> Result<()> {
    run::succeed(&mut run::cargo(&["build", "--quiet", "--release", "--package", package, "--example", example]))
}
