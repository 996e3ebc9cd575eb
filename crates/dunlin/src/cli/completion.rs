//! `dunlin completion`: what a shell needs to complete commands.

use clap::{Args, CommandFactory, ValueEnum};

use super::{Cli, context::Context, exit::Failure};

/// Which shell.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
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

/// Prints the script. Its first lines say nothing of where it goes, so that is said here.
pub fn run(context: &Context, command: &Completion) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut cli = Cli::command();
    let (shell, line) = match command.shell {
        Shell::Bash => (clap_complete::Shell::Bash, "source <(dunlin completion bash)"),
        Shell::Zsh => (clap_complete::Shell::Zsh, "source <(dunlin completion zsh)"),
        Shell::Fish => (clap_complete::Shell::Fish, "dunlin completion fish | source"),
    };
    clap_complete::generate(shell, &mut cli, "dunlin", &mut script);
    context.out.say(format!("Put this line into your shell's start-up file: {line}"));
    context.out.emit(String::from_utf8_lossy(&script).trim_end())
}
