//! `dunlin version`.

use serde_json::json;

use super::{context::Context, exit::Failure};

/// Prints the version of this program.
pub fn run(context: &Context) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    context.out.data(&json!({"version": version}), || format!("dunlin {version}"))
}
