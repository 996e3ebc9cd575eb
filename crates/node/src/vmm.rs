//! Virtual machine monitors: the programs that run guests, behind one small trait.
//!
//! A [`Vmm`] turns a [`VmPlan`] into a process that outlives us, and returns a [`VmRecord`]: everything one needs to
//! find that process again, however often `dunlin` restarts. What can be done to a running VM hangs on its record, not
//! on the driver chosen today, so a VM that an earlier choice started is reached in the same way.
//!
//! ```text
//!   VmPlan ──launch──▶ process ──▶ Vm { VmRecord ─┬─ channel()   bytes to and from the guest's init
//!                                     outputs }   ├─ outputs()   what the guest's kernel and the VMM print
//!                                                 ├─ process.{alive, exited, kill}()
//!                                                 └─ (goes to the ledger; the next dunlin reads it back)
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use model::{MachineId, machine::Isolation};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::kernel::GuestKernel;

mod choose;
mod firecracker;
mod hardware;
mod output;
mod probe;
mod process;
mod qemu;
mod socket;
mod spawn;
mod tsc;

pub use choose::{Choice, Driver, choose};
pub use output::{Output, OutputStream};
pub use process::ProcessId;

/// Throws away memory that [`Vmm::suspend`] wrote, if there is any.
pub fn remove_memory(memory: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(memory) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(memory),
        Ok(_) => fs::remove_file(memory),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// What a VM is made of. Everything it names exists already, but for `dir`'s content.
#[derive(Debug, Clone)]
pub struct VmPlan {
    /// The machine.
    pub machine: MachineId,
    /// A directory of this VM alone, `machines/<id>/run`: sockets, logs, the jail. It is made if absent; what an
    /// earlier VM left in it is removed.
    pub dir: PathBuf,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory of the guest in MiB. The VMM itself needs [`Vmm::memory_overhead_mb`] on top.
    pub memory_mb: u32,
    /// The kernel to boot.
    pub kernel: Arc<GuestKernel>,
    /// More words for the kernel's command line, after our own.
    pub kernel_args: Vec<String>,
    /// The disks, in order: `/dev/vda`, `/dev/vdb`, …
    pub disks: Vec<Disk>,
    /// The network device, unless the guest gets none.
    pub nic: Option<Nic>,
    /// `cgroup.procs` files that the VMM is put into before it runs anything of the guest.
    pub cgroup_procs: Vec<PathBuf>,
    /// Who the VMM runs as.
    pub user: VmUser,
    /// Do not boot but go on with this memory, which [`Vmm::suspend`] wrote of a VM of the same plan.
    pub memory: Option<PathBuf>,
}

/// A disk of a VM: a raw image, or a block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image. A writable one belongs to this VM alone while it runs, and may be given to [`VmPlan::user`].
    pub path: PathBuf,
    /// The guest cannot write to it, and neither can the VMM.
    pub read_only: bool,
}

/// The network device of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// The host's side: an existing tap (IFF_NO_PI, IFF_VNET_HDR); none if the device leads nowhere.
    pub tap: Option<String>,
    /// The guest's address.
    pub mac: [u8; 6],
}

/// An unprivileged user of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmUser {
    /// User number; 0 only in tests that run without privilege to change it.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

/// A VM that was launched: enough to find it again after a restart, and never to take another process for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The machine.
    pub machine: MachineId,
    /// The driver that made it.
    pub isolation: Isolation,
    /// Its directory.
    pub dir: PathBuf,
    /// Its process.
    pub process: ProcessId,
}

/// A VM that runs: what to remember of it, and its outputs, connected since before the guest's first instruction
/// where this process launched it.
#[derive(Debug)]
pub struct Vm {
    /// What to write into the ledger.
    pub record: VmRecord,
    /// What it prints.
    pub(crate) outputs: Vec<(Output, Option<OutputStream>)>,
}

impl Vm {
    /// The VM of a record that an earlier process wrote.
    pub fn adopt(record: VmRecord) -> Self {
        let outputs = record.outputs().into_iter().map(|output| (output, None)).collect();
        Self { record, outputs }
    }
}

impl VmRecord {
    /// Connects to the channel of the guest's init. Under QEMU a second connection waits until the first is closed.
    /// Fails while the guest is not ready.
    pub async fn channel(&self) -> io::Result<UnixStream> {
        match self.isolation {
            Isolation::Firecracker => firecracker::channel(&self.machine, &self.dir).await,
            Isolation::QemuKvm | Isolation::QemuTcg => qemu::channel(&self.dir).await,
        }
    }

    /// What the guest's kernel prints, and the VMM itself.
    pub fn outputs(&self) -> Vec<Output> {
        let vmm = Output::of_vmm(&self.dir);
        match self.isolation {
            // Its own output is the serial port.
            Isolation::Firecracker => vec![vmm],
            Isolation::QemuKvm | Isolation::QemuTcg => vec![vmm, qemu::console(&self.dir)],
        }
    }
}

async fn connect_outputs(record: &VmRecord) -> Result<Vec<(Output, Option<OutputStream>)>, VmmError> {
    let mut connected = Vec::new();
    for output in record.outputs() {
        let stream = output.connect().await.map_err(setup_error("connect to the console in", &record.dir))?;
        connected.push((output, Some(stream)));
    }
    Ok(connected)
}

/// The VM of a machine that runs now, whoever launched it: for a ledger that was interrupted while it launched.
pub fn find(machine: &MachineId, dir: &Path) -> Option<VmRecord> {
    firecracker::find(machine, dir).or_else(|| qemu::find(machine, dir))
}

/// Removes what a VM that has ended left in its directory, and the directory.
pub fn clear(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Why a VM could not be launched or reached.
#[derive(Debug, Error)]
pub enum VmmError {
    /// The host did not let us prepare it.
    #[error("cannot {what}")]
    Setup {
        /// What was tried, such as `open tap dl0123`.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The plan cannot be run by this driver.
    #[error("this virtual machine cannot be run: {0}")]
    Plan(String),
    /// The VMM refused.
    #[error("{program} refused: {reason}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// The VMM ended before the guest ran.
    #[error("{program} ended before the guest ran: {output}")]
    Died {
        /// The program.
        program: &'static str,
        /// The last of what it printed.
        output: String,
    },
    /// The VMM did not answer in time.
    #[error("{program} did not answer within {} s", after.as_secs())]
    Silent {
        /// The program.
        program: &'static str,
        /// How long.
        after: Duration,
    },
    /// No driver works on this host.
    #[error("no virtual machine can be run here: {0}")]
    Nothing(String),
}

fn setup_error(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    let what = format!("{verb} {}", path.display());
    move |source| VmmError::Setup { what, source }
}

/// A driver: launches VMs.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// Which wall its VMs get.
    fn isolation(&self) -> Isolation;

    /// What the VMM needs beside the guest's own memory, in MiB, at most: add it to a memory limit.
    fn memory_overhead_mb(&self) -> u32;

    /// Starts a VM. When this returns, the guest runs; on an error, or when this is dropped half way, nothing of it is
    /// left. Should the caller die half way, [`find`] finds what was started.
    async fn launch(&self, plan: &VmPlan) -> Result<Vm, VmmError>;

    /// Does what makes later guests like this one start sooner. It takes up to some seconds, and is best begun when a
    /// guest of this plan is up; dropped half way, it leaves nothing that runs.
    ///
    /// # Errors
    /// It could not be done. Guests start all the same.
    async fn prepare_for(&self, _plan: &VmPlan) -> Result<(), VmmError> {
        Ok(())
    }

    /// Writes a running VM's memory, and what its devices know, to this place: a file or a directory, as the driver has it.
    /// When this has succeeded, the guest stands still and its process is to be killed; when it fails, the guest goes on.
    async fn suspend(&self, vm: &VmRecord, memory: &Path) -> Result<(), VmmError>;
}
