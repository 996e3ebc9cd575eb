//! The node: its machines by id, opened from the ledger, closed in one of two ways.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use api::internal::{
    ExecRequest, ExecSession, GuestReport, Idleness, Launch, Nap, Node, NodeError, NodeView, StopRequest, Wake,
};
use async_trait::async_trait;
use model::{
    AppName, MachineId, Timestamp,
    machine::{Action, Isolation, MachineSpec, MachineState, Observed, Sleep},
};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    capacity::Capacity,
    cgroup::{CgroupError, Cgroups},
    disk::{self, DiskError, Disks},
    kernel::{GuestKernel, KernelError},
    ledger::{Goal, Ledger, LedgerError, Loaded, Record},
    link::LinkError,
    machine::{self, Command, Handle, Host, Source, Vm, ask},
    net::{GuestNet, NetError, Network},
    options::{Machinery, NodeOptions},
    view::View,
    vmm::{self, VmUser, VmmError},
};

/// Disk space that must stay free: below it no machine is made or started.
const DISK_FLOOR_BYTES: u64 = 512 << 20;
/// The most arguments and bytes of a command that is run in a guest.
const MAX_EXEC_WORDS: usize = 1024;
const MAX_EXEC_BYTES: usize = 128 * 1024;

/// Why a node could not be opened or closed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Not enough rights.
    #[error(
        "running machines needs root: it makes network devices, control groups and users' disks; start dunlin as root"
    )]
    NotRoot,
    /// The ledger.
    #[error("the node's ledger")]
    Ledger(#[from] LedgerError),
    /// Disks.
    #[error("the machines' disks")]
    Disk(#[from] DiskError),
    /// Network.
    #[error("the machines' network")]
    Net(#[from] NetError),
    /// Control groups.
    #[error("the machines' control groups")]
    Cgroup(#[from] CgroupError),
    /// Kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Virtual machine monitor.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The number of the picture.
    #[error("the node's picture of its machines")]
    View(#[source] io::Error),
}

/// A host that runs machines: the [`Node`] of this host.
pub struct LocalNode {
    host: Arc<Host>,
    why: String,
    machines: Mutex<BTreeMap<MachineId, Handle>>,
}

impl LocalNode {
    /// Whether datagrams may be sent to machines under their client's own IPv4 address: then the answers come back.
    pub fn keeps_sources(&self) -> bool {
        self.host.network.keeps_sources()
    }

    /// Opens the node of a data directory. Virtual machines that still run are taken over, those that should run are
    /// started, and what belongs to no machine any more is removed from the host.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>, OpenError> {
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::NotRoot);
        }
        let (host, why) = prepare(options).await?;
        let loaded = host.ledger.load()?;
        let mut records = Vec::new();
        for record in &loaded.records {
            if let Some(claim) = &record.volume {
                host.disks.note_claim(claim.clone(), &record.spec.id);
            }
            records.push(recover(&host, record.clone()).await?);
        }
        sweep(&host, &loaded, &records).await?;
        let handles = records.into_iter().map(|(record, vm)| {
            let id = record.spec.id.clone();
            (id, Handle::spawn(Arc::clone(&host), record, vm))
        });
        let machines = Mutex::new(handles.collect());
        Ok(Arc::new(Self { host, why, machines }))
    }

    /// Ends the machines' tasks. Virtual machines go on running, and the next [`Self::open`] takes them over.
    pub async fn shutdown(&self) {
        self.host.leave.cancel();
        self.finished().await;
    }

    /// Stops every machine in the orderly way and puts the host's network back as it was found. Those that should run
    /// are started again by the next [`Self::open`].
    pub async fn shutdown_and_stop_all(&self) -> Result<(), OpenError> {
        self.host.stop_all.cancel();
        self.finished().await;
        self.host.network.close().await?;
        self.host.cgroups.sweep(&[]).await?;
        Ok(())
    }

    async fn finished(&self) {
        let machines = std::mem::take(&mut *self.machines.lock().await);
        for handle in machines.into_values() {
            handle.finished().await;
        }
        self.host.beside.close();
        self.host.beside.wait().await;
    }

    async fn inbox(&self, id: &MachineId) -> Result<mpsc::Sender<Command>, NodeError> {
        let machines = self.machines.lock().await;
        machines.get(id).map(Handle::inbox).ok_or_else(|| NodeError::NotFound(id.clone()))
    }

    async fn link(&self, id: &MachineId, action: Action) -> Result<Arc<crate::link::Link>, NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::Guest(action, reply)).await
    }

    fn check_room(&self, spec: &MachineSpec) -> Result<(), NodeError> {
        let memory = self.host.memory_mb(spec);
        self.host.capacity.check(&spec.id, memory).map_err(NodeError::Capacity)?;
        self.check_disk()
    }

    fn check_disk(&self) -> Result<(), NodeError> {
        let directory = self.host.ledger.root();
        let free = disk::free_bytes(directory).map_err(|error| NodeError::Internal(error.to_string()))?;
        if free >= DISK_FLOOR_BYTES {
            return Ok(());
        }
        Err(NodeError::Capacity(format!(
            "{} has {} MB left and machines need at least {} MB; remove apps or images, or give it a larger disk",
            directory.display(),
            free >> 20,
            DISK_FLOOR_BYTES >> 20
        )))
    }
}

#[async_trait]
impl Node for LocalNode {
    async fn create(&self, spec: MachineSpec, launch: Launch) -> Result<Arc<Observed>, NodeError> {
        let id = spec.id.clone();
        machine::validate(&spec).map_err(NodeError::Invalid)?;
        let mut machines = self.machines.lock().await;
        machines.retain(|_, handle| !handle.is_finished());
        if machines.contains_key(&id) {
            return self.created_before(&spec);
        }
        if launch.start { self.check_room(&spec) } else { self.check_disk() }?;
        let slot = free_slot(&machines, self.host.network.pool().max_slot());
        let slot = slot.ok_or_else(|| NodeError::Capacity("this host has no address left; destroy machines".into()))?;
        let goal = if launch.start { Goal::Run } else { Goal::Rest };
        let record = Record::new(spec, slot, goal, launch.cordoned, Timestamp(kit::clock::unix_ms()));
        self.host.probe.tell("create");
        self.host.ledger.write(&record).map_err(|error| internal(&error))?;
        self.host.probe.tell("create:done");
        machines.insert(id.clone(), Handle::spawn(Arc::clone(&self.host), record, Vm::Absent));
        self.host.view.get(&id).ok_or(NodeError::NotFound(id))
    }

    async fn update(&self, spec: MachineSpec) -> Result<Arc<Observed>, NodeError> {
        let id = spec.id.clone();
        ask(&self.inbox(&id).await?, &id, |reply| Command::Update(Box::new(spec), reply)).await
    }

    async fn start(&self, id: &MachineId) -> Result<MachineState, NodeError> {
        self.check_disk()?;
        ask(&self.inbox(id).await?, id, |reply| Command::Start(Source::User, reply)).await
    }

    async fn stop(&self, id: &MachineId, how: StopRequest) -> Result<(), NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::Stop(how, reply)).await
    }

    async fn suspend(&self, id: &MachineId) -> Result<(), NodeError> {
        ask(&self.inbox(id).await?, id, Command::Suspend).await
    }

    async fn restart(&self, id: &MachineId, how: StopRequest) -> Result<(), NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::Restart(how, reply)).await
    }

    async fn signal(&self, id: &MachineId, signal: &str) -> Result<(), NodeError> {
        let number = guest::signal::number(signal)
            .ok_or_else(|| NodeError::Invalid(format!("{signal:?} is no signal; write one such as SIGTERM")))?;
        let link = self.link(id, Action::Signal).await?;
        link.signal(number).await.map_err(|error| unreachable_guest(id, &error))
    }

    async fn destroy(&self, id: &MachineId, force: bool) -> Result<(), NodeError> {
        let gone = || self.host.view.get(id).is_some_and(|seen| seen.state == MachineState::Destroyed);
        let asked = match self.inbox(id).await {
            Ok(inbox) => ask(&inbox, id, |reply| Command::Destroy { force, reply }).await,
            Err(error) => Err(error),
        };
        match asked {
            Err(NodeError::NotFound(_)) if gone() => Ok(()),
            answer => answer,
        }
    }

    async fn cordon(&self, id: &MachineId, cordoned: bool) -> Result<(), NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::Cordon(cordoned, reply)).await
    }

    async fn set_metadata(&self, id: &MachineId, metadata: BTreeMap<String, String>) -> Result<(), NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::SetMetadata(metadata, reply)).await
    }

    async fn exec(&self, id: &MachineId, request: ExecRequest) -> Result<ExecSession, NodeError> {
        let bytes: usize = request.command.iter().map(String::len).sum();
        if request.command.is_empty() || request.command.len() > MAX_EXEC_WORDS || bytes > MAX_EXEC_BYTES {
            return Err(NodeError::Invalid(format!("a command has from 1 to {MAX_EXEC_WORDS} words")));
        }
        let link = self.link(id, Action::Exec).await?;
        link.exec(request).await.map_err(|error| unreachable_guest(id, &error))
    }

    async fn inspect(&self, id: &MachineId) -> Result<GuestReport, NodeError> {
        let link = self.link(id, Action::Exec).await?;
        link.inspect().await.map_err(|error| unreachable_guest(id, &error))
    }

    async fn destroy_volumes(&self, app: &AppName) -> Result<(), NodeError> {
        match self.host.disks.remove_volumes(app).map_err(|error| internal(&error))? {
            None => Ok(()),
            Some(machine) => {
                let state = self.host.view.get(&machine).map_or(MachineState::Created, |seen| seen.state);
                let reason = "it holds a volume of the app; destroy it first".into();
                Err(NodeError::Denied { machine, state, reason })
            }
        }
    }

    fn observe(&self) -> watch::Receiver<Arc<NodeView>> {
        self.host.view.observe()
    }

    fn isolation(&self) -> (Isolation, String) {
        (self.host.vmm.isolation(), self.why.clone())
    }
}

#[async_trait]
impl Wake for LocalNode {
    async fn wake(&self, id: &MachineId) -> Result<(), NodeError> {
        self.check_disk()?;
        ask(&self.inbox(id).await?, id, |reply| Command::Start(Source::Proxy, reply)).await.map(drop)
    }

    async fn sleep(&self, id: &MachineId, how: Sleep, why: Idleness) -> Result<Nap, NodeError> {
        ask(&self.inbox(id).await?, id, |reply| Command::Sleep { how, why, reply }).await
    }
}

impl LocalNode {
    /// The answer to a create call for a machine that exists.
    fn created_before(&self, spec: &MachineSpec) -> Result<Arc<Observed>, NodeError> {
        let before = self.host.view.get(&spec.id).filter(|before| before.spec == *spec);
        let exists = format!("machine {} exists with another configuration; update it instead", spec.id);
        before.ok_or(NodeError::Invalid(exists))
    }
}

/// Everything that machines' tasks share.
async fn prepare(options: NodeOptions) -> Result<(Arc<Host>, String), OpenError> {
    let tag = options.tag.as_str();
    let ledger = Ledger::open(options.data_dir.join("machines"))?;
    let cgroups = Cgroups::open(tag);
    let (vmm, kernel, mut why) = machinery(&options).await?;
    if let Some(shortcoming) = cgroups.shortcoming() {
        why = format!("{why}; {shortcoming}");
    }
    let view = View::open(ledger.root().join("generation")).map_err(OpenError::View)?;
    let saved_settings = ledger.root().join("host-settings.json");
    let host = Host {
        disks: Disks::open(&options.data_dir, options.overlay_size_gb)?,
        network: Network::new(tag, options.machine_pool, saved_settings),
        capacity: Capacity::of_host(),
        ledger,
        cgroups,
        vmm,
        kernel,
        view,
        rootfs: options.rootfs,
        logs: options.logs,
        drain: options.drain,
        sealing_key: options.sealing_key,
        region: options.region,
        name_servers: options.name_servers,
        first_uid: options.first_uid,
        boot_timeout: options.boot_timeout,
        probe: options.probe,
        beside: TaskTracker::new(),
        leave: CancellationToken::new(),
        stop_all: CancellationToken::new(),
    };
    Ok((Arc::new(host), why))
}

async fn machinery(options: &NodeOptions) -> Result<(Arc<dyn vmm::Vmm>, Arc<GuestKernel>, String), OpenError> {
    match options.machinery.clone() {
        Machinery::Given { vmm, kernel, why } => Ok((vmm, kernel, why)),
        Machinery::Choose { driver, kernel } => {
            let data = options.data_dir.clone();
            let prepared = tokio::task::spawn_blocking(move || GuestKernel::prepare(&kernel, &data, crate::INIT));
            let broke_down = |error| KernelError::Io {
                what: "prepare the guest kernel".into(),
                source: io::Error::other::<tokio::task::JoinError>(error),
            };
            let kernel = prepared.await.map_err(broke_down)??;
            let user = VmUser { uid: options.first_uid, gid: options.first_uid };
            let choice = vmm::choose(driver, &kernel, &options.data_dir, user).await?;
            Ok((choice.vmm, kernel, choice.why))
        }
    }
}

/// Finds out whether a machine's VM still runs. One that was launched but not yet written down is found by its
/// directory.
async fn recover(host: &Host, mut record: Record) -> Result<(Record, Vm), OpenError> {
    let Some(made) = &mut record.made else { return Ok((record, Vm::Absent)) };
    let found = made.vm.clone().or_else(|| host.find_vm(&record.spec.id));
    match found.filter(|vm| vm.process.alive()) {
        Some(vm) if made.vm.is_none() => {
            made.vm = Some(vm);
            host.ledger.write(&record)?;
            Ok((record, Vm::Silent))
        }
        Some(_) => Ok((record, Vm::Silent)),
        None => Ok((record, Vm::Unknown)),
    }
}

/// Removes from the host what belongs to no machine, and prepares its network for those that run.
async fn sweep(host: &Host, loaded: &Loaded, records: &[(Record, Vm)]) -> Result<(), OpenError> {
    for id in &loaded.strays {
        if let Some(vm) = host.find_vm(id) {
            tracing::warn!(machine = %id, "killing a virtual machine that no record owns");
            let _ = vm.process.kill().await;
        }
        host.ledger.remove_directory(id)?;
    }
    for (id, error) in &loaded.unreadable {
        tracing::error!(machine = %id, error = %kit::report::Report(error), "a machine's record cannot be read; it is left alone");
    }
    let known = records.iter().map(|(record, _)| &record.spec.id).chain(loaded.unreadable.iter().map(|(id, _)| id));
    host.cgroups.sweep(&known.cloned().collect::<Vec<_>>()).await?;
    let running = records.iter().filter(|(_, vm)| *vm == Vm::Silent).filter_map(|(record, _)| {
        let made = record.made.as_ref()?;
        let addresses = host.addresses(&record.spec, record.slot);
        Some(GuestNet { tap: made.tap.clone(), addresses, owner_uid: made.uid })
    });
    // A machine whose record cannot be read may still need its tap.
    let keep_unknown = !loaded.unreadable.is_empty();
    host.network.open(running, keep_unknown).await?;
    Ok(())
}

/// The lowest number that no machine has. Handles hold theirs until their task has ended.
fn free_slot(machines: &BTreeMap<MachineId, Handle>, max: u32) -> Option<u32> {
    let taken: std::collections::BTreeSet<u32> = machines.values().map(|handle| handle.slot).collect();
    (1..=max).find(|slot| !taken.contains(slot))
}

fn internal(error: &dyn std::error::Error) -> NodeError {
    NodeError::Internal(kit::report::Report(error).to_string())
}

fn unreachable_guest(id: &MachineId, error: &LinkError) -> NodeError {
    match error {
        LinkError::Silent => {
            NodeError::Timeout { what: format!("the guest of machine {id} to answer"), after: Duration::from_secs(10) }
        }
        LinkError::TooMany(_) => NodeError::Capacity(error.to_string()),
        _ => NodeError::Failed(error.to_string()),
    }
}
