//! This host: what it has, what it lacks.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Where the platform keeps its data unless told otherwise.
pub const DATA_DIRECTORY: &str = "/var/lib/dunlin";

/// A program that the platform runs.
#[derive(Debug)]
pub struct Tool {
    /// Its name on the PATH.
    pub program: &'static str,
    /// The package of Debian and Ubuntu that holds it.
    pub package: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

/// Every program that the platform runs.
pub const TOOLS: &[Tool] = &[
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", purpose: "runs the virtual machines" },
    Tool { program: "nft", package: "nftables", purpose: "keeps the machines' networks apart" },
    Tool { program: "mke2fs", package: "e2fsprogs", purpose: "formats writable layers and volumes" },
    Tool { program: "xz", package: "xz-utils", purpose: "unpacks the guest kernel's modules" },
];

/// The path of a program, looked up as a shell does, and where administration programs lie.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether this process may do what the platform must.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
