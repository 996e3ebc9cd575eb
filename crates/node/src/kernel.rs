//! The guest kernel: found on the host or fetched from the distribution, made bootable by either driver.
//!
//! ```text
//!   <data>/kernel/pkg/            what install() unpacked, untouched: boot/vmlinuz-<release>, lib/modules/<release>/
//!   <data>/kernel/<release>/      what prepare() made of it:
//!       vmlinux                     the kernel, expanded
//!       initramfs-qemu              init and the modules that guests of QEMU need
//!       initramfs-firecracker       the same for guests of Firecracker
//!       key                         the digest of what these were made of
//! ```

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use thiserror::Error;

mod compression;
mod cpio;
mod find;
mod install;
mod modules;
mod vmlinux;

use find::Found;
pub use install::install;
use modules::Needs;

/// A kernel that is ready to boot guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The digest of all it was made of: another kernel, other modules or another init make another key.
    pub key: String,
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
    /// The newest of those that [`install`] unpacked; failing that, the host's own.
    #[default]
    Auto,
    /// The newest below a directory that holds `boot` and `lib/modules`, such as an unpacked package.
    Directory(PathBuf),
    /// This one.
    Path {
        /// The kernel: a bzImage or an ELF file.
        image: PathBuf,
        /// Its modules: the directory that is named like its release.
        modules: PathBuf,
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

/// Devices that both drivers give, and the file systems of machines.
const OPTIONAL: &[&str] = &["ext4", "crc32c_generic", "crc32c_intel", "virtio_rng"];
const NEEDS_QEMU: Needs =
    Needs { required: &["virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "overlay"], optional: OPTIONAL };
const NEEDS_FIRECRACKER: Needs = Needs {
    required: &["virtio_mmio", "vmw_vsock_virtio_transport", "virtio_blk", "virtio_net", "overlay"],
    optional: OPTIONAL,
};

/// Changes whenever what is made of the same kernel changes.
const FORMAT: &[u8] = b"dunlin guest kernel 1";

impl GuestKernel {
    /// Finds the kernel and makes it bootable below `<data>/kernel/<release>`, unless that was done before with the
    /// same `init`, a static program that becomes process 1. Blocks, for up to a few seconds.
    ///
    /// # Errors
    /// There is none, or none of those found has what guests need.
    pub fn prepare(source: &KernelSource, data: &Path, init: &[u8]) -> Result<Arc<Self>, KernelError> {
        let mut reasons = Vec::new();
        for found in find::candidates(source, data)? {
            match Self::prepare_found(&found, data, init) {
                Ok(kernel) => return Ok(Arc::new(kernel)),
                Err(error @ KernelError::Io { .. }) => return Err(error),
                Err(error) => reasons.push(format!("{}: {error}", found.image.display())),
            }
        }
        Err(KernelError::Missing(reasons.join("; ")))
    }

    fn prepare_found(found: &Found, data: &Path, init: &[u8]) -> Result<Self, KernelError> {
        let image = fs::read(&found.image).map_err(|source| io_error("read", &found.image, source))?;
        let unusable = |reason| KernelError::Unusable { path: found.image.clone(), reason };
        let release = vmlinux::release(&image)
            .or_else(|| found.release())
            .ok_or_else(|| unusable("it does not say which release it is".into()))?;
        let key = key(&image, &found.modules, init);
        let directory = data.join("kernel").join(&release);
        let kernel = Self::at(&directory, release, key);
        if fs::read_to_string(directory.join("key")).ok().as_ref() != Some(&kernel.key) {
            kernel.make(image, &found.modules, init, unusable)?;
        }
        Ok(kernel)
    }

    fn at(directory: &Path, release: String, key: String) -> Self {
        Self {
            release,
            key,
            vmlinux: directory.join("vmlinux"),
            initramfs_qemu: directory.join("initramfs-qemu"),
            initramfs_firecracker: directory.join("initramfs-firecracker"),
        }
    }

    fn make(
        &self,
        image: Vec<u8>,
        modules: &Path,
        init: &[u8],
        unusable: impl Fn(String) -> KernelError,
    ) -> Result<(), KernelError> {
        let qemu = initramfs(modules, &NEEDS_QEMU, init)?;
        let firecracker = initramfs(modules, &NEEDS_FIRECRACKER, init)?;
        let vmlinux = vmlinux::extract(image).map_err(unusable)?;
        let directory = self.vmlinux.parent().expect("it was joined to a directory");
        fs::create_dir_all(directory).map_err(|source| io_error("make", directory, source))?;
        // The key comes last: it says that the others are whole.
        for (path, content) in [
            (&self.vmlinux, &vmlinux[..]),
            (&self.initramfs_qemu, &qemu),
            (&self.initramfs_firecracker, &firecracker),
            (&directory.join("key"), self.key.as_bytes()),
        ] {
            // VMMs run as users of their own and must be able to read it, whatever our own mask of permissions is.
            kit::durable::write(path, content, 0o644)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
                .map_err(|source| io_error("write", path, source))?;
        }
        Ok(())
    }
}

fn key(image: &[u8], modules: &Path, init: &[u8]) -> String {
    let mut digest = Sha256::new();
    for part in [FORMAT, image, modules.as_os_str().as_encoded_bytes(), init] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

/// The initial file system: `/init`, the modules, and `/modules/order`, which names them in the order of loading.
/// It is not compressed: that would save the host a few hundred kilobytes and cost every start the time to undo it.
fn initramfs(modules: &Path, needs: &Needs, init: &[u8]) -> Result<Vec<u8>, KernelError> {
    let modules = modules::resolve(modules, needs)?;
    let mut archive = cpio::Cpio::default();
    archive.file("init", 0o755, init);
    archive.directory("modules");
    let mut order = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        archive.file(&format!("modules/{file}"), 0o644, &module.object);
        order.push_str(&file);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

fn io_error(verb: &str, path: &Path, source: io::Error) -> KernelError {
    KernelError::Io { what: format!("{verb} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_kernel_becomes_bootable_once_and_again_for_another_init() {
        let name = "a_real_kernel_becomes_bootable_once_and_again_for_another_init";
        let Some(directory) = std::env::var_os("DUNLIN_TEST_KERNEL_DIR") else {
            eprintln!("skipped: {name}: DUNLIN_TEST_KERNEL_DIR names no directory with an unpacked kernel package");
            return;
        };
        let source = KernelSource::Directory(directory.into());
        let data = tempfile::tempdir().unwrap();
        let kernel = GuestKernel::prepare(&source, data.path(), b"init 1").unwrap();
        assert!(fs::read(&kernel.vmlinux).unwrap().starts_with(b"\x7fELF"));
        let made = || fs::metadata(&kernel.vmlinux).unwrap().modified().unwrap();
        let first = made();
        assert_eq!(GuestKernel::prepare(&source, data.path(), b"init 1").unwrap(), kernel);
        assert_eq!(made(), first, "it was made again");
        let other = GuestKernel::prepare(&source, data.path(), b"init 2").unwrap();
        assert_ne!(other.key, kernel.key);
        assert!(fs::read(&other.initramfs_qemu).unwrap().windows(6).any(|bytes| bytes == b"init 2"));
    }
}
