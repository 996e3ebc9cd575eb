//! Why a program could not be started: the step, and the reason in words.

use std::fmt::Display;

use guest::BootFailure;

/// A failure of `step`.
pub fn failure(step: &str, reason: impl Display) -> BootFailure {
    BootFailure { step: step.into(), reason: reason.to_string(), exit_code: 1 }
}

/// Turns the errors of the system into failures that say what was tried.
pub trait OrFailure<T> {
    /// The value, or a failure of `step` that says `what` was tried and what the system said.
    fn or_failure(self, step: &str, what: impl Display) -> Result<T, BootFailure>;
}

impl<T, E: Display> OrFailure<T> for Result<T, E> {
    fn or_failure(self, step: &str, what: impl Display) -> Result<T, BootFailure> {
        self.map_err(|error| failure(step, format_args!("{what}: {error}")))
    }
}
