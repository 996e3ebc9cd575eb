//! How a command ends: the exit statuses, and what goes wrong.

use std::{fmt, process::ExitCode};

use serde::Serialize;

/// How a command ended. The statuses are a promise: scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Success,
    /// Something failed that has no status of its own.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// There is no such app, machine, release, …
    NotFound,
    /// No token, or one that does not reach so far.
    Unauthorized,
    /// A name is taken, a lease is held, or things have changed meanwhile.
    Conflict,
    /// A deployment failed and was undone.
    DeployFailed,
    /// The platform does not answer.
    Unreachable,
    /// The configuration file has errors.
    InvalidConfig,
    /// A wait was in vain.
    Timeout,
    /// Interrupted; a deployment that was watched goes on.
    Interrupted,
    /// What a command in a machine ended with.
    Remote(u8),
}

/// The statuses with what they mean, as `dunlin --help` shows them.
const MEANINGS: [(Exit, &str); 11] = [
    (Exit::Success, "all is done"),
    (Exit::Failure, "something failed that has no status of its own"),
    (Exit::Usage, "the command line makes no sense"),
    (Exit::NotFound, "there is no such app, machine or release"),
    (Exit::Unauthorized, "no token, or one that does not reach so far"),
    (Exit::Conflict, "a name is taken, a lease is held, or things have changed meanwhile"),
    (Exit::DeployFailed, "a deployment failed and was undone"),
    (Exit::Unreachable, "the platform does not answer"),
    (Exit::InvalidConfig, "the configuration file has errors"),
    (Exit::Timeout, "a wait was in vain"),
    (Exit::Interrupted, "interrupted; a deployment that was watched goes on"),
];

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unauthorized => 4,
            Self::Conflict => 5,
            Self::DeployFailed => 6,
            Self::Unreachable => 7,
            Self::InvalidConfig => 8,
            Self::Timeout => 124,
            Self::Interrupted => 130,
            Self::Remote(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The part of the help that tells the exit statuses.
pub(super) fn help() -> String {
    let lines = MEANINGS.map(|(exit, meaning)| format!("  {:>3}  {meaning}\n", exit.code()));
    format!("Exit status:\n{}       `machine exec` ends with the status of the command it ran\n", lines.concat())
}

/// What went wrong, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What happened, and why. Empty if it has been said already.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// Something went wrong.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// Something went wrong that has no status of its own.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The same, with what to do next.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Nothing is left to be said.
    pub fn said(exit: Exit) -> Self {
        Self::new(exit, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A failure as JSON.
#[derive(Serialize)]
pub(super) struct FailureBody<'f> {
    pub error: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'f str>,
    pub exit: u8,
}

impl Failure {
    /// The failure as JSON.
    pub(super) fn body(&self) -> FailureBody<'_> {
        FailureBody { error: &self.message, hint: self.hint.as_deref(), exit: self.exit.code() }
    }
}
