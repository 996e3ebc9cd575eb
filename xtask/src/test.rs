//! Every check and test, one after the other, and a last line that counts them.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{images, run, tidy};

#[derive(Args)]
pub struct Options {
    /// Leave out the scenarios that boot virtual machines
    #[arg(long)]
    no_e2e: bool,
    /// Run the scenarios only
    #[arg(long, conflicts_with = "no_e2e")]
    only_e2e: bool,
    /// Run tests whose name holds this only
    filter: Option<String>,
}

/// What has been counted so far.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: Vec<String>,
    /// Skips whose runner has not yet counted them as passed.
    pending: u32,
}

/// Runs everything and fails if anything failed.
pub fn run(options: &Options) -> Result<()> {
    let mut tally = Tally::default();
    if !options.only_e2e && options.filter.is_none() {
        checks(&mut tally);
    }
    make_ready()?;
    if !options.only_e2e {
        let arguments = ["test", "--workspace", "--exclude", "e2e", "--no-fail-fast"];
        suite("unit and integration tests", test_command(&arguments, options), &mut tally)?;
    }
    if !options.no_e2e {
        scenarios(options, &mut tally)?;
    }
    for skipped in &tally.skipped {
        println!("{skipped}");
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped.len());
    if tally.failed > 0 {
        bail!("some tests failed; their output is above, and whole below {}", logs().display());
    }
    Ok(())
}

/// Checks that are not tests; each counts as one.
fn checks(tally: &mut Tally) {
    tally.check("tidy", tidy::run());
    tally.check("fmt", run::succeed(&mut run::cargo(&["fmt", "--all", "--check"])));
    let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    tally.check("clippy", run::succeed(&mut run::cargo(&clippy)));
    if run::is_on_path("cargo-deny") {
        let deny = ["deny", "--log-level", "error", "check", "licenses", "bans", "sources"];
        tally.check("deny", run::succeed(&mut run::cargo(&deny)));
    } else {
        tally.skip("skipped: deny: cargo-deny is not installed (cargo install cargo-deny --locked)");
    }
}

/// Makes the guest kernel and the images ready that tests with real virtual machines take. What is missing makes those
/// tests skip by name.
pub fn make_ready() -> Result<()> {
    run::succeed(&mut run::cargo(&["build", "--quiet", "--package", "dunlin"]))?;
    images::make()?;
    let mut setup = Command::new(run::target().join("debug/dunlin"));
    if let Err(error) = run::succeed(setup.args(["setup", "--yes", "--data-dir"]).arg(data())) {
        println!("the guest kernel could not be made ready: {error}");
    }
    Ok(())
}

/// The data directory that lends its guest kernel to tests.
fn data() -> PathBuf {
    run::target().join("e2e-data")
}

/// The scenarios: a whole platform with real virtual machines, in a network namespace of its own.
fn scenarios(options: &Options, tally: &mut Tally) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        tally.skip("skipped: e2e: virtual machines with their own network need root");
        return Ok(());
    }
    // Built outside: inside the namespace no registry can be reached.
    run::succeed(&mut run::cargo(&["test", "--quiet", "--package", "e2e", "--no-run"]))?;
    let inner = test_command(&["test", "--offline", "--package", "e2e", "--no-fail-fast"], options);
    let mut isolated = run::isolated();
    isolated.arg(inner.get_program()).args(inner.get_args()).arg("--test-threads=1").current_dir(run::root());
    suite("scenarios", isolated, tally)
}

fn test_command(arguments: &[&str], options: &Options) -> Command {
    let mut command = run::cargo(arguments);
    command.args(["--", "--show-output"]).args(&options.filter);
    command.env("DUNLIN_TEST_KERNEL_DIR", data().join("kernel/pkg"));
    let layouts = images::NAMES.map(|name| images::directory().join(name));
    let made = layouts.iter().filter(|layout| layout.is_dir());
    if let Ok(layouts) = std::env::join_paths(made) {
        command.env("DUNLIN_PARITY_LAYOUTS", layouts);
    }
    command
}

/// Runs a test command, shows what fails as it happens, and adds up what its runners say.
fn suite(name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
    println!("{name} …");
    let began = Instant::now();
    let path = logs().join(format!("{}.log", name.replace(' ', "-")));
    fs::create_dir_all(logs())?;
    let mut log = File::create(&path)?;
    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{command:?} could not be started"))?;
    drop(command);
    let failed_before = tally.failed;
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(log, "{line}")?;
        tally.read(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        show_failures(&fs::read_to_string(&path)?);
        if tally.failed == failed_before {
            tally.failed += 1;
            println!("{name} ended with {status} before its tests could say why");
        }
    }
    println!("{name}: {} s, whole output in {}", began.elapsed().as_secs(), path.display());
    Ok(())
}

fn logs() -> PathBuf {
    run::target().join("test-logs")
}

/// Prints what failed tests printed, or what the compiler said.
fn show_failures(log: &str) {
    let mut shown = false;
    for line in log.lines() {
        if line == "failures:" || line.starts_with("error") || line.starts_with("---- ") {
            shown = true;
        }
        if line.starts_with("test result:") || line == "successes:" {
            shown = false;
        }
        if shown {
            println!("  {line}");
        }
    }
}

impl Tally {
    fn check(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                println!("{name} failed: {error}");
            }
        }
    }

    fn skip(&mut self, line: &str) {
        self.skipped.push(line.to_owned());
    }

    /// Reads one line of a test runner. A test that skips counts as skipped, not as passed.
    fn read(&mut self, line: &str) {
        if line.starts_with("skipped: ") {
            self.skip(line);
            self.pending += 1;
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, " passed").saturating_sub(std::mem::take(&mut self.pending));
            self.failed += count(counts, " failed");
        } else if line.starts_with("test ") && line.ends_with("FAILED") {
            println!("  {line}");
        }
    }
}

/// The number that stands before a word.
fn count(line: &str, word: &str) -> u32 {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_not_a_pass() {
        let mut tally = Tally::default();
        tally.read("skipped: pulls: skopeo is not installed");
        tally.read("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        tally.read("test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s");
        assert_eq!((tally.passed, tally.failed, tally.skipped.len()), (6, 1, 1));
    }
}
