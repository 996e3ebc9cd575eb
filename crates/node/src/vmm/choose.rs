//! Chooses the strongest driver that truly works on this host.

use std::{path::Path, sync::Arc};

use super::{VmUser, Vmm, VmmError};
use crate::kernel::GuestKernel;

/// Which driver an operator wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// The strongest that works.
    #[default]
    Auto,
    /// Firecracker, or nothing.
    Firecracker,
    /// QEMU, with hardware virtualization where that works.
    Qemu,
}

/// A driver, and why it is this one.
#[derive(Clone)]
pub struct Choice {
    /// The driver.
    pub vmm: Arc<dyn Vmm>,
    /// In words: what one gets, why nothing stronger, and what to do about that.
    pub why: String,
}

/// Chooses a driver. What is not known from an earlier start of this host is tried out: a guest is booted, which
/// takes up to some seconds. `data` is the data directory, `user` who the trial VMs run as.
///
/// # Errors
/// Nothing that is wanted works; the error says why.
pub async fn choose(wanted: Driver, kernel: &Arc<GuestKernel>, data: &Path, user: VmUser) -> Result<Choice, VmmError> {
    let _ = (wanted, kernel, data, user);
    Err(VmmError::Nothing(String::new()))
}
