//! What the edge costs, beside HAProxy, nginx and (for HTTP/3) Caddy, in one run: `cargo xtask bench edge`.
//!
//! ```text
//!   core 1                     core 0                    core 1
//!   load (h2load, ours) ─▶ one proxy at a time ─▶ origin (nginx, ours)
//! ```
//!
//! Each proxy is a process of its own with one thread for its work, and does the same: the same certificate type, the
//! same fields added to requests, connections to the origin used again, no log on the disk. They take turns, several
//! rounds; what is printed is the median of the ratios of each round, to the peer that does best by it, since a machine's
//! speed drifts. CPU time is what the kernel accounts to the proxy's processes, so whatever else the machine does hardly
//! touches it.

mod load;
mod origin;
mod peers;
mod quic;
mod subject;
mod works;

use std::{env, process::ExitCode};

use anyhow::{Context, Result};

const ROUNDS: usize = 9;

/// The allocator of the `dunlin` program.
#[global_allocator]
static ALLOCATOR: kit::allocator::Allocator = kit::allocator::Allocator;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("serve") => subject::serve(arguments.get(1).map_or("", String::as_str)),
        _ => compare(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge_bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the works whose names contain one of `wanted`; all of them if nothing is wanted.
fn compare(wanted: &[String]) -> Result<()> {
    load::allow_all_files();
    let scratch = tempfile::tempdir()?;
    let _origin = origin::Origin::start(scratch.path()).context("the origin")?;
    let fleet = peers::Fleet::new(scratch.path())?;
    for missing in fleet.missing() {
        println!("skipped: {missing}: the program is not on this machine");
    }
    for work in works::all() {
        let is_wanted = wanted.is_empty() || wanted.iter().any(|part| work.name.contains(part.as_str()));
        if is_wanted {
            report(&work, &fleet)?;
        }
    }
    Ok(())
}

/// Does one work with every proxy in turns and prints what it cost.
fn report(work: &works::Work, fleet: &peers::Fleet) -> Result<()> {
    println!("\n{}", work.name);
    let able: Vec<_> = fleet.peers.iter().filter(|peer| work.is_for(peer.kind)).collect();
    let mut rounds: Vec<Vec<works::Figures>> = vec![Vec::new(); able.len()];
    for _ in 0..ROUNDS {
        for (peer, figures) in able.iter().zip(&mut rounds) {
            let running = peer.start(&fleet.ports).with_context(|| format!("{} does not start", peer.kind))?;
            figures.push((work.run)(&running, &fleet.ports).with_context(|| format!("{} under load", peer.kind))?);
        }
    }
    for (peer, figures) in able.iter().zip(&rounds) {
        println!("  {:<8} {}", peer.kind.to_string(), works::summary(figures));
    }
    let (ours, others) = rounds.split_first().context("nothing was run")?;
    let mut best: Option<(f64, &peers::Peer)> = None;
    for (peer, theirs) in able.iter().skip(1).zip(others) {
        // Of what was measured one after the other: the machine is about as fast for both.
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| ours.cost / theirs.cost);
        let Some(ratio) = works::median(ratios.collect()) else { continue };
        best = best.filter(|(so_far, _)| *so_far >= ratio).or(Some((ratio, peer)));
    }
    match best {
        Some((ratio, peer)) => println!("  dunlin / {}, {}: {ratio:.2}", peer.kind, work.unit),
        None => println!("  nothing to compare with"),
    }
    Ok(())
}
