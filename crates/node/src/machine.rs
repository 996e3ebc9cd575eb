//! One machine: a task that owns it, and the way to ask it something.
//!
//! ```text
//!   calls ──▶ inbox (bounded) ──▶ ┌───────── owner task ─────────┐ ──▶ ledger (before each step)
//!                                 │ record ─▶ plan::next ─▶ step │ ──▶ host: disk, net, cgroup, VMM
//!   guest (link) ────────────────▶│    ▲                    │    │ ──▶ view, log records
//!   health checks ───────────────▶│    └──── facts ◀────────┘    │ ──▶ answers to calls
//!                                 └──────────────────────────────┘
//! ```
//!
//! A call changes the record (its goal, an order to go down, another spec) and waits; the planner finds what to do.
//! Steps that may take long (a root filesystem is made, a guest starts, a program is asked to end) run beside the
//! task, which goes on to answer and to change its mind; the others are short and run to their end.

mod actor;
mod commands;
mod guest_events;
mod history;
mod plan;
mod restart;
mod run_spec;
mod sleep;
mod steps;
mod validate;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use api::internal::{Drain, Idleness, LogSink, Nap, NodeError, RootfsSource, StopRequest};
use kit::{clock, seal::SealingKey};
use model::{
    Addresses, MachineId, Region, Timestamp,
    log::{LogRecord, LogSource},
    machine::{Action, MachineSpec, MachineState, Observed, Sleep},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use history::Source;
pub use plan::Vm;
pub use validate::validate;

use crate::{
    capacity::Capacity,
    cgroup::{self, Cgroups},
    disk::Disks,
    kernel::GuestKernel,
    ledger::{Ledger, Record},
    link::Link,
    net::Network,
    options::StepProbe,
    view::View,
    vmm::{self, VmPlan, VmRecord, Vmm},
};

/// Calls that wait for one machine. A caller beyond that waits to be let in.
const INBOX: usize = 64;

/// The host, as every machine's task uses it.
pub struct Host {
    /// Where machines are recorded.
    pub ledger: Ledger,
    /// Disks.
    pub disks: Disks,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Network.
    pub network: Network,
    /// Memory.
    pub capacity: Arc<Capacity>,
    /// What runs virtual machines.
    pub vmm: Arc<dyn Vmm>,
    /// What they boot.
    pub kernel: Arc<GuestKernel>,
    /// The picture of all machines.
    pub view: View,
    /// Makes root filesystems.
    pub rootfs: Arc<dyn RootfsSource>,
    /// Takes log records.
    pub logs: Arc<dyn LogSink>,
    /// Knows when nothing is under way to a machine.
    pub drain: Arc<dyn Drain>,
    /// Opens secrets.
    pub sealing_key: SealingKey,
    /// Where the host stands.
    pub region: Region,
    /// What guests ask for names.
    pub name_servers: Vec<IpAddr>,
    /// The first user of virtual machine monitors.
    pub first_uid: u32,
    /// How long a guest may take to start.
    pub boot_timeout: Duration,
    /// Is told of steps.
    pub probe: StepProbe,
    /// What is done beside the machines' tasks; it ends with them.
    pub beside: TaskTracker,
    /// Every machine's task ends soon after; virtual machines go on.
    pub leave: CancellationToken,
    /// Every machine is stopped before its task ends.
    pub stop_all: CancellationToken,
}

impl Host {
    /// The addresses of a machine.
    pub fn addresses(&self, spec: &MachineSpec, slot: u32) -> Addresses {
        Addresses { private: spec.network.machine_address(&spec.id), host_local: self.network.pool().address(slot) }
    }

    /// What a machine takes of the host's memory, in MiB.
    pub fn memory_mb(&self, spec: &MachineSpec) -> u64 {
        u64::from(spec.config.guest.memory_mb) + u64::from(self.vmm.memory_overhead_mb())
    }

    /// The VM of a machine that runs although no record tells which it is. One of another instance on this host is not
    /// ours: ours are in our control groups.
    pub fn find_vm(&self, id: &MachineId) -> Option<VmRecord> {
        let found = vmm::find(id, &run_dir(&self.ledger, id))?;
        let groups = self.cgroups.directories(id);
        let ours = groups.is_empty() || cgroup::processes(&groups).contains(&found.process.pid);
        ours.then_some(found)
    }

    /// Prepares, beside the machine's task, for later guests like this one.
    pub fn prepare_for(self: &Arc<Self>, plan: VmPlan) {
        let host = Arc::clone(self);
        self.beside.spawn(async move {
            let preparing = host.vmm.prepare_for(&plan);
            let prepared = tokio::select! {
                prepared = preparing => prepared,
                () = host.leave.cancelled() => Ok(()),
                () = host.stop_all.cancelled() => Ok(()),
            };
            if let Err(error) = prepared {
                let error = kit::report::Report(&error).to_string();
                tracing::warn!(%error, "guests like that of machine {} start no sooner", plan.machine);
            }
        });
    }

    /// Writes a record of the platform's own into a machine's log.
    pub fn say(&self, spec: &MachineSpec, message: impl Into<String>) {
        self.logs.append(LogRecord {
            timestamp_ns: clock::unix_ns(),
            app: spec.app.clone(),
            machine: Some(spec.id.clone()),
            region: self.region.clone(),
            source: LogSource::Platform,
            message: message.into(),
        });
    }
}

/// The directory of a machine's VMM.
fn run_dir(ledger: &Ledger, id: &MachineId) -> PathBuf {
    ledger.directory(id).join("run")
}

/// This moment.
fn now() -> Timestamp {
    Timestamp(clock::unix_ms())
}

/// Where the answer to a call goes.
type Reply<T> = oneshot::Sender<Result<T, NodeError>>;

/// A call.
pub enum Command {
    /// Start it, for whoever wants that.
    Start(Source, Reply<MachineState>),
    /// Stop it.
    Stop(StopRequest, Reply<()>),
    /// Keep its memory and end its virtual machine.
    Suspend(Reply<()>),
    /// Put it to sleep.
    Sleep {
        /// How.
        how: Sleep,
        /// Why.
        why: Idleness,
        /// The answer.
        reply: Reply<Nap>,
    },
    /// Stop and start it.
    Restart(StopRequest, Reply<()>),
    /// Give it another spec.
    Update(Box<MachineSpec>, Reply<Arc<Observed>>),
    /// Remove it.
    Destroy {
        /// Even while it runs.
        force: bool,
        /// The answer.
        reply: Reply<()>,
    },
    /// Give it traffic or no more.
    Cordon(bool, Reply<()>),
    /// Replace its metadata.
    SetMetadata(BTreeMap<String, String>, Reply<()>),
    /// The way to its guest, to do this there.
    Guest(Action, Reply<Arc<Link>>),
}

/// The way to a machine's task.
pub struct Handle {
    /// The machine's number on this host.
    pub slot: u32,
    inbox: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Starts the task of a machine, which is in the picture when this returns. `vm` is what has been found out about
    /// its virtual machine, if it has had one.
    pub fn spawn(host: Arc<Host>, record: Record, vm: Vm) -> Self {
        let (inbox, commands) = mpsc::channel(INBOX);
        let (slot, id) = (record.slot, record.spec.id.clone());
        let actor = actor::Actor::new(Arc::clone(&host), record, vm, commands);
        let task = tokio::spawn(async move {
            if let Err(error) = tokio::spawn(actor.run()).await {
                tracing::error!(machine = %id, %error, "the machine's task broke down; restart dunlin to go on with it");
                // Its number must not be given to another, since its tap and disks may still be there.
                tokio::select! {
                    () = host.leave.cancelled() => {}
                    () = host.stop_all.cancelled() => {}
                }
            }
        });
        Self { slot, inbox, task }
    }

    /// Where calls go in.
    pub fn inbox(&self) -> mpsc::Sender<Command> {
        self.inbox.clone()
    }

    /// Whether the machine is gone, or the node is being closed.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the task has ended.
    pub async fn finished(self) {
        // It cannot fail: it has caught what broke down in it.
        let _ = self.task.await;
    }
}

/// Asks a machine and waits for its answer.
pub async fn ask<T>(
    inbox: &mpsc::Sender<Command>,
    id: &MachineId,
    command: impl FnOnce(Reply<T>) -> Command,
) -> Result<T, NodeError> {
    let (reply, answer) = oneshot::channel();
    let gone = || NodeError::NotFound(id.clone());
    inbox.send(command(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
