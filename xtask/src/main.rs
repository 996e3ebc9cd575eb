//! The chores of this repository. `cargo xtask --help` lists them.

mod bench;
mod demo;
mod hello;
mod images;
mod run;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the platform on this machine: install what it needs, start it, deploy examples/hello, print the URL
    Demo(demo::Options),
    /// Run every check and test; the last line counts passed, failed and skipped
    Test(test::Options),
    /// Print the promised figures, each beside what it is compared with, in one run (root)
    Bench {
        /// What is measured
        #[arg(value_enum, default_value = "platform")]
        what: bench::What,
        /// Of the edge: only the works whose name contains one of these, such as `http1` or `handshake`
        works: Vec<String>,
    },
    /// Check the rules of the house that a machine can check
    Tidy,
    /// Build examples/hello as a static binary and pack it as an OCI image layout
    Hello,
    /// Make the images of the scenarios from Debian packages
    Images,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().chore {
        Chore::Demo(options) => demo::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Bench { what, works } => bench::run(what, &works),
        Chore::Tidy => tidy::run(),
        Chore::Images => images::make(),
        Chore::Hello => hello::pack().map(|layout| println!("{}", layout.display())),
    }
}
