//! QEMU's `microvm` machine: virtio devices on memory-mapped transports, a serial port, nothing else.
//!
//! QEMU runs as an unprivileged user under its own system call filter, in a directory where it may only make its
//! sockets:
//!
//! ```text
//!   <dir>/vmm.out            what QEMU itself prints
//!   <dir>/vm/control.sock    QMP
//!   <dir>/vm/console.sock    the guest's serial port
//!   <dir>/vm/channel.sock    the guest's virtio serial port `dunlin.0`
//! ```

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use model::{MachineId, machine::Isolation};
use rustix::fs::Gid;
use tokio::{net::UnixStream, time::timeout};

use super::{
    Output, Vm, VmPlan, VmRecord, Vmm, VmmError, process, socket,
    spawn::{self, Newborn, Spawn},
};

pub(super) mod command;
mod qmp;
mod tap;

use command::Prepared;
use qmp::Qmp;

/// Where QEMU makes its sockets, below a VM's directory.
const PLACE: &str = "vm";
const CONTROL: &str = "control.sock";
const CONSOLE: &str = "console.sock";
const CHANNEL: &str = "channel.sock";

const PROGRAM: &str = "QEMU";
/// How long QEMU may take until it can be controlled.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// Memory of QEMU itself, its threads and its devices, in MiB.
const BASE_OVERHEAD_MB: u32 = 96;

/// The driver.
#[derive(Debug, Clone)]
pub(super) struct Qemu {
    program: PathBuf,
    isolation: Isolation,
}

impl Qemu {
    /// Guests in software emulation.
    pub(super) fn emulated(program: PathBuf) -> Self {
        Self { program, isolation: Isolation::QemuTcg }
    }

    /// Guests on the host's processors.
    pub(super) fn accelerated(program: PathBuf) -> Self {
        Self { program, isolation: Isolation::QemuKvm }
    }

    fn spawn(&self, plan: &VmPlan, place: &Path) -> Result<Newborn, VmmError> {
        spawn::give(place, plan.user)?;
        let Prepared { command, inherited } = command::prepare(&self.program, self.isolation, plan)?;
        let groups = if self.isolation == Isolation::QemuKvm { kvm_group() } else { None };
        let user = Some((plan.user, groups.into_iter().collect()));
        spawn::spawn(Spawn { command, dir: place, user, inherited, plan, isolation: self.isolation })
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn isolation(&self) -> Isolation {
        self.isolation
    }

    fn memory_overhead_mb(&self) -> u32 {
        match self.isolation {
            Isolation::QemuTcg => BASE_OVERHEAD_MB + command::TRANSLATION_CACHE_MB,
            _ => BASE_OVERHEAD_MB,
        }
    }

    async fn launch(&self, plan: &VmPlan) -> Result<Vm, VmmError> {
        let (driver, plan) = (self.clone(), plan.clone());
        let start = move || spawn::in_directory(&plan, PLACE, |place| driver.spawn(&plan, place));
        spawn::blocking(start).await?.bring_up(PROGRAM, begin).await
    }
}

/// Connects to what the guest will print, then lets it run.
async fn begin(record: VmRecord) -> Result<Vm, VmmError> {
    let place = record.dir.join(PLACE);
    let control = timeout(START_PATIENCE, socket::connect_to(&record.process, &place, CONTROL)).await;
    let control = control.map_err(|_| VmmError::Silent { program: PROGRAM, after: START_PATIENCE })?;
    let mut qmp = Qmp::negotiate(control.ok_or(VmmError::Died { program: PROGRAM, output: String::new() })?).await?;
    let outputs = super::connect_outputs(&record).await?;
    qmp.command("cont").await?;
    Ok(Vm { record, outputs })
}

/// The channel of the guest's init.
pub(super) async fn channel(dir: &Path) -> io::Result<UnixStream> {
    socket::connect(&dir.join(PLACE), CHANNEL).await
}

/// The guest's serial port.
pub(super) fn console(dir: &Path) -> Output {
    Output::Socket { directory: dir.join(PLACE), name: CONSOLE }
}

/// What a VM's process is called in its own command line.
fn name(machine: &MachineId) -> String {
    format!("dunlin-{machine}")
}

/// The QEMU that runs a machine now.
pub(super) fn find(machine: &MachineId, dir: &Path) -> Option<VmRecord> {
    let name = name(machine);
    let process = process::find(|arguments| arguments.windows(2).any(|pair| pair == ["-name", &name]))?;
    let software = |argument: &String| argument.starts_with("tcg");
    let isolation =
        if process::arguments(process.pid).iter().any(software) { Isolation::QemuTcg } else { Isolation::QemuKvm };
    Some(VmRecord { machine: machine.clone(), isolation, dir: dir.to_owned(), process })
}

/// The group that may use the host's virtualization, where not everybody may.
fn kvm_group() -> Option<Gid> {
    let device = fs::metadata("/dev/kvm").ok()?;
    let (group, everybody) = (device.mode() & 0o060 == 0o060, device.mode() & 0o006 == 0o006);
    (group && !everybody).then(|| Gid::from_raw(device.gid()))
}
