//! The `dunlin` command: the platform (`serve`), what prepares a host for it (`setup`, `doctor`), and its client.

mod cli;
mod doctor;
mod host;
mod serve;
mod setup;

use std::process::ExitCode;

use clap::Parser;
use kit::allocator::Allocator;

use cli::{Cli, Command};

/// A request through the edge allocates some forty times; this one takes a third of the C library's time for it.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let Cli { globals, command } = Cli::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.global_queue_interval(edge::GLOBAL_QUEUE_INTERVAL).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime could not be started")),
    };
    let ended = match command {
        Command::Serve(options) => runtime.block_on(serve::run(*options)),
        Command::Upgrade(options) => runtime.block_on(serve::upgrade(&options, globals.json)),
        Command::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Doctor(options) => runtime.block_on(doctor::run(&options, globals.json)),
        Command::Client(command) => Ok(runtime.block_on(cli::run(globals, command)).into()),
    };
    ended.unwrap_or_else(|error| failed(&error))
}

/// Says what went wrong, with its causes, once.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
