//! `dunlin completion`: what a shell needs to complete commands.

use clap::{Args, CommandFactory, ValueEnum};

use super::{Cli, context::Context, exit::Failure};

/// Which shell.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell; put `source <(dunlin completion bash)` into its start-up file
    shell: Shell,
}

/// A shell that completes commands.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    /// GNU Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// Prints the script.
pub fn run(context: &Context, command: &Completion) -> Result<(), Failure> {
    let mut script = Vec::new();
    let shell = match command.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    clap_complete::generate(shell, &mut Cli::command(), "dunlin", &mut script);
    context.out.emit(String::from_utf8_lossy(&script).trim_end())
}
