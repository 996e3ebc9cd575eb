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
//!
//! A guest whose like has come up before does not boot: it goes on where a [`template`] was frozen.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kit::report::Report;
use model::{MachineId, machine::Isolation};
use rustix::fs::Gid;
use serde_json::json;
use tokio::{
    net::UnixStream,
    time::{sleep, timeout},
};

use super::{
    Output, Vm, VmPlan, VmRecord, Vmm, VmmError, process, socket,
    spawn::{self, Newborn, Spawn},
};

pub(super) mod command;
mod memory;
mod qmp;
mod tap;
pub(super) mod template;

use command::{Prepared, Start};
use qmp::Qmp;
use template::Templates;

/// Where QEMU makes its sockets, below a VM's directory.
const PLACE: &str = "vm";
const CONTROL: &str = "control.sock";
const CONSOLE: &str = "console.sock";
const CHANNEL: &str = "channel.sock";

const PROGRAM: &str = "QEMU";
/// How long QEMU may take until it can be controlled.
const START_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to write down or to read a guest's memory.
const STATE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked whether it is done with that.
const LOOK: Duration = Duration::from_millis(3);
/// Memory of QEMU itself, its threads and its devices, in MiB.
const BASE_OVERHEAD_MB: u32 = 96;

/// The driver.
#[derive(Debug, Clone)]
pub(super) struct Qemu {
    program: PathBuf,
    isolation: Isolation,
    templates: Arc<Templates>,
}

impl Qemu {
    /// Guests in software emulation.
    pub(super) fn emulated(program: PathBuf, templates: Arc<Templates>) -> Self {
        Self { program, isolation: Isolation::QemuTcg, templates }
    }

    /// Guests on the host's processors.
    pub(super) fn accelerated(program: PathBuf, templates: Arc<Templates>) -> Self {
        Self { program, isolation: Isolation::QemuKvm, templates }
    }

    /// Starts a VM with its kernel.
    async fn boot(&self, plan: &VmPlan) -> Result<Vm, VmmError> {
        self.start(plan, Start::Kernel).await?.bring_up(PROGRAM, begin).await
    }

    /// Starts a VM where another was frozen.
    async fn go_on(&self, plan: &VmPlan, state: File) -> Result<Vm, VmmError> {
        self.start(plan, Start::Frozen(state)).await?.bring_up(PROGRAM, go_on).await
    }

    async fn start(&self, plan: &VmPlan, start: Start) -> Result<Newborn, VmmError> {
        let (driver, plan) = (self.clone(), plan.clone());
        spawn::blocking(move || spawn::in_directory(&plan, PLACE, |place| driver.spawn(&plan, place, start))).await
    }

    fn spawn(&self, plan: &VmPlan, place: &Path, start: Start) -> Result<Newborn, VmmError> {
        spawn::give(place, plan.user)?;
        let Prepared { command, inherited } = command::prepare(&self.program, self.isolation, plan, start)?;
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
        if let Some(memory) = &plan.memory {
            return self.go_on(plan, memory::open(memory)?).await;
        }
        if let Some(state) = self.templates.fitting(plan, self) {
            match self.go_on(plan, state).await {
                Ok(vm) => return Ok(vm),
                Err(error) => {
                    let error = Report(&error).to_string();
                    tracing::warn!(machine = %plan.machine, %error, "a template is of no use and is given up");
                    self.templates.give_up(plan, self);
                }
            }
        }
        self.boot(plan).await
    }

    async fn suspend(&self, vm: &VmRecord, memory: &Path) -> Result<(), VmmError> {
        memory::write(vm, memory).await
    }

    async fn prepare_for(&self, plan: &VmPlan) -> Result<(), VmmError> {
        self.templates.prepare_for(plan, self).await
    }
}

/// Connects to what the guest will print, then lets it run.
async fn begin(record: VmRecord) -> Result<Vm, VmmError> {
    let mut qmp = control(&record).await?;
    let outputs = super::connect_outputs(&record).await?;
    qmp.command("cont").await?;
    Ok(Vm { record, outputs })
}

/// The same with one that was frozen: once all of it has been read.
async fn go_on(record: VmRecord) -> Result<Vm, VmmError> {
    let mut qmp = control(&record).await?;
    let outputs = super::connect_outputs(&record).await?;
    let read = async {
        while qmp.command("query-status").await?["status"] == "inmigrate" {
            sleep(LOOK).await;
        }
        Ok(())
    };
    timeout(STATE_PATIENCE, read).await.unwrap_or(Err(VmmError::Silent { program: PROGRAM, after: STATE_PATIENCE }))?;
    qmp.command("cont").await?;
    Ok(Vm { record, outputs })
}

/// Stops a guest and writes all of it into a file. It does not go on.
async fn freeze(record: &VmRecord, state: &File) -> Result<(), VmmError> {
    let mut qmp = control(record).await?;
    qmp.command("stop").await?;
    qmp.command_with("migrate-set-parameters", json!({ "max-bandwidth": u32::MAX })).await?;
    qmp.give_file("state", state.as_fd()).await?;
    qmp.command_with("migrate", json!({ "uri": "fd:state" })).await?;
    let written = async {
        loop {
            let progress = qmp.command("query-migrate").await?;
            match progress["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let reason = progress["error-desc"].as_str().unwrap_or("it does not say why");
                    return Err(VmmError::Refused { program: PROGRAM, reason: format!("to freeze a guest: {reason}") });
                }
                _ => sleep(LOOK).await,
            }
        }
    };
    timeout(STATE_PATIENCE, written).await.unwrap_or(Err(VmmError::Silent { program: PROGRAM, after: STATE_PATIENCE }))
}

/// Connects to QEMU itself as soon as it can be controlled.
async fn control(record: &VmRecord) -> Result<Qmp, VmmError> {
    let place = record.dir.join(PLACE);
    let control = timeout(START_PATIENCE, socket::connect_to(&record.process, &place, CONTROL)).await;
    let control = control.map_err(|_| VmmError::Silent { program: PROGRAM, after: START_PATIENCE })?;
    Qmp::negotiate(control.ok_or(VmmError::Died { program: PROGRAM, output: String::new() })?).await
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
