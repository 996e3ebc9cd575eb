//! What the platform tells its operator, on standard error.

use std::io::{self, IsTerminal};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Starts telling what the filter lets through, in color where a person reads it.
pub fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?} is no filter"))?;
    let telling = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    telling.with_ansi(io::stderr().is_terminal()).compact().init();
    Ok(())
}
