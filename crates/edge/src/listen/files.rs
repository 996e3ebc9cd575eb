//! How many files this process may have open: a connection is a file, and so is a port.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Asks for as many as the system gives. Its default is meant for programs that look through all of them (select(2)).
pub fn allow_all() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(now, most)| if now < most { setrlimit(Resource::RLIMIT_NOFILE, most, most) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!("the bound on open files stays low: {error}");
    }
}
