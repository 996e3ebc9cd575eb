//! The guest kernel: found on the host or fetched from the distribution, made bootable by either driver.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

/// A kernel that is ready to boot guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The uncompressed kernel (ELF).
    pub vmlinux: PathBuf,
    /// The initial file system for guests of QEMU: our init, and the modules that they need.
    pub initramfs_qemu: PathBuf,
    /// The same for guests of Firecracker.
    pub initramfs_firecracker: PathBuf,
}

/// Where the kernel comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelSource {
    /// The newest package that [`install`] unpacked; failing that, the host's own kernel if it fits.
    #[default]
    Auto,
    /// This one.
    Path {
        /// The kernel: a bzImage or an ELF file.
        image: PathBuf,
        /// Its modules, the directory that is named like its release; none if it needs none.
        modules: Option<PathBuf>,
    },
}

/// Why there is no kernel to boot.
#[derive(Debug, Error)]
pub enum KernelError {
    /// None was found.
    #[error("no guest kernel: run `dunlin setup`, which fetches the distribution's cloud kernel ({0})")]
    Missing(String),
    /// It cannot be used.
    #[error("the guest kernel {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The host's disk.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program of the distribution failed.
    #[error("{command} failed: {output}")]
    Command {
        /// The command.
        command: String,
        /// The end of what it printed, or why it did not start.
        output: String,
    },
}

impl GuestKernel {
    /// Finds the kernel and makes it bootable below `<data>/kernel/<release>`, unless that was done before with the
    /// same `init`. Blocks, for up to a few seconds.
    pub fn prepare(source: &KernelSource, data: &Path, init: &[u8]) -> Result<Arc<Self>, KernelError> {
        let _ = (source, data, init);
        Err(KernelError::Missing(String::new()))
    }
}

/// Fetches the distribution's cloud kernel package with `apt-get` and unpacks it below `<data>/kernel/pkg`: nothing is
/// installed. Each line of progress goes to `progress`. Returns the release. Blocks, for as long as a download takes.
pub fn install(data: &Path, progress: &mut dyn FnMut(&str)) -> Result<String, KernelError> {
    let _ = (data, progress);
    Err(KernelError::Missing(String::new()))
}
