//! Takes the steps that the planner finds. Each can be taken again after it was cut off anywhere.

use std::{path::PathBuf, sync::Arc, time::Duration};

use guest::{LogRecord as GuestLog, LogSource as GuestSource};
use kit::{clock, report::Report};
use model::{
    Timestamp,
    log::{LogRecord, LogSource},
    machine::{Mount, SealedSecrets},
};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use super::{
    Host,
    actor::{Actor, Outcome},
    guest_events::POWER_OFF_MS,
    history::{Source, because},
    now,
    plan::{Facts, Have, Step, Vm},
    run_spec::{self, Secrets, Sources},
};
use crate::{
    cgroup::Limits,
    ledger::{Goal, Made, Preparation},
    link::{Link, LogTaker},
    net::{self, GuestNet},
    vmm::{self, Disk, Nic, VmPlan, VmUser},
};

/// What the guest may take beyond its own deadline before the virtual machine is killed.
const STOP_MARGIN_MS: u64 = 3_000;

/// A step's result: what is wrong, in words.
type Taken = Result<(), String>;

impl Actor {
    /// Begins with what an earlier process left: the link to a VM that runs, memory for one that should.
    pub(super) fn take_over(&mut self) {
        let (goal, vm) = (self.record.goal, self.record.made.as_ref().and_then(|made| made.vm.clone()));
        if goal == Goal::Run {
            let (id, memory) = (&self.record.spec.id, self.host.memory_mb(&self.record.spec));
            self.reservation = Some(self.host.capacity.hold(id, memory));
        }
        match vm.filter(|_| self.facts.vm == Vm::Silent) {
            Some(vm) => self.connect(vmm::Vm::adopt(vm)),
            None => self.record.unattended = goal == Goal::Run && self.record.ever_started,
        }
    }

    /// Takes a step. What fails on the way up fails the machine; the `Err` of a step that must succeed is tried again.
    pub(super) async fn take(&mut self, step: Step) -> Taken {
        match step {
            Step::Wait(_) => {}
            Step::Fetch => self.fetch(),
            Step::Drain => self.drain(),
            Step::Suspend => self.write_memory(),
            Step::Ask => self.ask(),
            Step::PowerOff => self.power_off(),
            Step::Boot => self.boot().await,
            Step::GiveUp => self.give_up().await,
            Step::Prepare
            | Step::Declare
            | Step::Overlay
            | Step::Tap
            | Step::Firewall
            | Step::Cgroup
            | Step::Launch => {
                if let Err(reason) = self.make(step).await {
                    self.fail(&reason).await;
                }
            }
            _ => return self.unmake(step).await,
        }
        Ok(())
    }

    async fn make(&mut self, step: Step) -> Taken {
        match step {
            Step::Prepare => self.prepare().await,
            Step::Declare => self.declare().await,
            Step::Overlay => {
                let made = self.made()?;
                // Kept memory goes on with the layer that it knows.
                if self.record.suspended.is_some() {
                    self.facts.overlay = Have::Yes;
                    return Ok(());
                }
                self.host.disks.make_overlay(&made.overlay, made.uid).await.map_err(|error| words(&error))?;
                self.facts.overlay = Have::Yes;
                Ok(())
            }
            Step::Tap => {
                self.host.network.plug(&self.guest_net()?).await.map_err(|error| words(&error))?;
                self.facts.tap = Have::Yes;
                Ok(())
            }
            Step::Firewall => {
                self.host.network.admit(self.guest_net()?).await.map_err(|error| words(&error))?;
                self.facts.firewall = Have::Yes;
                Ok(())
            }
            Step::Cgroup => {
                let limits = Limits::of(&self.record.spec.config.guest, self.host.vmm.memory_overhead_mb());
                self.host.cgroups.make(&self.made()?.cgroups, limits).map_err(|error| words(&error))?;
                self.facts.cgroup = Have::Yes;
                Ok(())
            }
            _ => self.launch().await,
        }
    }

    async fn unmake(&mut self, step: Step) -> Taken {
        match step {
            Step::Kill => self.kill().await?,
            Step::RemoveCgroup => {
                self.host.cgroups.remove(&self.made()?.cgroups).await.map_err(|error| words(&error))?;
                self.facts.cgroup = Have::No;
            }
            Step::CloseFirewall => {
                self.host.network.expel(&self.made()?.tap).await.map_err(|error| words(&error))?;
                self.facts.firewall = Have::No;
            }
            Step::RemoveTap => {
                self.host.network.unplug(&self.made()?.tap).await.map_err(|error| words(&error))?;
                self.facts.tap = Have::No;
            }
            Step::RemoveOverlay => {
                self.host.disks.remove_overlay(&self.made()?.overlay).map_err(|error| words(&error))?;
                self.facts.overlay = Have::No;
            }
            Step::Undeclare => {
                self.commit(|record| record.made = None).await.map_err(|error| words(&error))?;
                if self.record.goal != Goal::Run {
                    self.reservation = None;
                }
            }
            Step::Discard => self.discard().await?,
            Step::Replace => self.replace().await?,
            Step::Land => self.commit(|record| record.down = None).await.map_err(|error| words(&error))?,
            _ => self.erase()?,
        }
        Ok(())
    }

    /// Has the root filesystem made, beside the task.
    fn fetch(&mut self) {
        let (source, image) = (Arc::clone(&self.host.rootfs), self.record.spec.image.clone());
        self.facts.rootfs = Have::Maybe;
        self.began = Instant::now();
        self.send_off(async move { Outcome::Fetched(source.rootfs(&image).await.map_err(|error| words(&error))) });
    }

    async fn prepare(&mut self) -> Taken {
        self.settle_volume().await?;
        let first = self.record.preparation == Preparation::New;
        let prepared = self.commit(|record| {
            record.preparation = Preparation::Done;
            if first {
                record.note("launch", "created", Source::User, None);
            }
        });
        prepared.await.map_err(|error| words(&error))
    }

    /// Gives back the volume of an earlier spec, and claims and makes the one that the spec names.
    async fn settle_volume(&mut self) -> Taken {
        let mount: Option<Mount> = self.record.spec.config.mounts.first().cloned();
        let wanted = mount.as_ref().map(|mount| mount.name.as_str());
        if let Some(claim) = self.record.volume.clone().filter(|claim| Some(claim.name.as_str()) != wanted) {
            self.commit(|record| record.volume = None).await.map_err(|error| words(&error))?;
            self.host.disks.release(&claim);
        }
        let Some(mount) = mount else { return Ok(()) };
        let claim = match self.record.volume.clone() {
            Some(claim) => claim,
            None => self.claim_volume(&mount.name).await?,
        };
        let (size_gb, uid) = (mount.size_gb.unwrap_or(1), self.uid());
        let path = self.host.disks.make_volume(&claim, size_gb, uid).await.map_err(|error| words(&error))?;
        let has_gb = std::fs::metadata(&path).map_or(0, |volume| volume.len() >> 30);
        if has_gb != u64::from(size_gb) {
            let kept =
                format!("Volume {} keeps its {has_gb} GB: its size cannot be changed to {size_gb} GB", mount.name);
            self.host.say(&self.record.spec, kept);
        }
        Ok(())
    }

    async fn claim_volume(&mut self, name: &str) -> Result<crate::disk::VolumeClaim, String> {
        let spec = &self.record.spec;
        let claim = self.host.disks.claim(&spec.app, name, &spec.id).map_err(|error| words(&error))?;
        let recorded = self.commit(|record| record.volume = Some(claim.clone())).await;
        if recorded.is_err() {
            self.host.disks.release(&claim);
        }
        recorded.map(|()| claim).map_err(|error| words(&error))
    }

    /// Writes down all that the start will make.
    async fn declare(&mut self) -> Taken {
        self.reserve().map_err(|error| words(&error))?;
        if self.record.suspended.is_some() && self.kept_memory().is_none() {
            self.discard().await?;
        }
        let id = &self.record.spec.id;
        let made = Made {
            boot_id: self.record.suspended.as_ref().map_or_else(kit::random::token, |kept| kept.boot_id.clone()),
            tap: self.host.network.tap_name(self.record.slot),
            uid: self.uid(),
            cgroups: self.host.cgroups.directories(id),
            overlay: self.directory().join("overlay.ext4"),
            vm: None,
            started: false,
            ready: false,
            exited: false,
        };
        let declared = self.commit(|record| (record.made, record.respawn) = (Some(made), None));
        declared.await.map_err(|error| words(&error))?;
        self.facts = Facts { rootfs: self.facts.rootfs, ..Facts::default() };
        let verb = if self.record.suspended.is_some() { "Resuming" } else { "Starting" };
        self.host.say(&self.record.spec, format!("{verb} machine"));
        Ok(())
    }

    async fn launch(&mut self) -> Taken {
        let plan = self.vm_plan()?;
        self.resumes = plan.memory.is_some();
        if self.resumes {
            // Once it runs, what is kept does not fit the writable layer any more.
            self.commit(|record| record.suspended = None).await.map_err(|error| words(&error))?;
        }
        if plan.memory.is_none() {
            // What nobody knows of was left when writing it was cut off.
            let _ = vmm::remove_memory(&self.directory().join("memory"));
        }
        self.facts.vm = Vm::Unknown;
        let launched = self.host.vmm.launch(&plan).await;
        plan.memory.iter().for_each(|memory| drop(vmm::remove_memory(memory)));
        let vm = launched.map_err(|error| words(&error))?;
        self.host.probe.tell("launched");
        let (record, isolation) = (vm.record.clone(), self.host.vmm.isolation());
        let noted = self.commit(|it| {
            it.isolation = Some(isolation);
            if let Some(made) = &mut it.made {
                made.vm = Some(record);
            }
        });
        noted.await.map_err(|error| words(&error))?;
        self.connect(vm);
        Ok(())
    }

    pub(super) fn vm_plan(&self) -> Result<VmPlan, String> {
        let (made, spec) = (self.made()?, &self.record.spec);
        let rootfs = self.rootfs.as_ref().ok_or("its root filesystem is not at hand")?;
        let mut disks = vec![
            Disk { path: rootfs.path.clone(), read_only: true },
            Disk { path: made.overlay.clone(), read_only: false },
        ];
        let volume = self.record.volume.as_ref().map(|claim| self.host.disks.volume_path(claim));
        disks.extend(volume.map(|path| Disk { path, read_only: false }));
        Ok(VmPlan {
            machine: spec.id.clone(),
            dir: self.run_dir(),
            cpus: spec.config.guest.cpus,
            memory_mb: spec.config.guest.memory_mb,
            kernel: Arc::clone(&self.host.kernel),
            kernel_args: Vec::new(),
            disks,
            nic: Some(Nic { tap: Some(made.tap.clone()), mac: net::mac_of(&spec.id) }),
            cgroup_procs: made.cgroups.iter().map(|directory| directory.join("cgroup.procs")).collect(),
            user: VmUser { uid: made.uid, gid: made.uid },
            memory: self.kept_memory(),
        })
    }

    /// The memory to go on with, if there is any that this host's driver can read.
    fn kept_memory(&self) -> Option<PathBuf> {
        let kept = self.record.suspended.as_ref().filter(|kept| kept.isolation == self.host.vmm.isolation());
        kept.map(|kept| kept.memory.clone())
    }

    /// Opens the link to a VM that runs; from now on the guest has until the deadline to be up.
    fn connect(&mut self, vm: vmm::Vm) {
        let link = Link::open(vm, self.console_log(), log_taker(&self.host, &self.record.spec));
        let mut status = link.status();
        status.mark_changed();
        (self.link, self.status) = (Some(Arc::new(link)), Some(status));
        self.facts.vm = Vm::Silent;
        self.facts.boot_deadline = Timestamp(now().0 + self.host.boot_timeout.as_millis() as u64);
    }

    async fn boot(&mut self) {
        let spec = self.run_spec();
        match (spec, self.link.clone()) {
            (Ok(spec), Some(link)) => {
                self.facts.vm = Vm::Booting;
                self.send_off(async move { Outcome::Told(link.boot(spec).await) });
            }
            (Err(reason), _) => self.fail(&reason).await,
            (_, None) => self.fail("its guest cannot be reached").await,
        }
    }

    fn run_spec(&self) -> Result<guest::RunSpec, String> {
        let rootfs = self.rootfs.as_ref().ok_or("its root filesystem is not at hand")?;
        run_spec::run_spec(&Sources {
            spec: &self.record.spec,
            image: &rootfs.config,
            secrets: &self.secrets()?,
            addresses: self.host.addresses(&self.record.spec, self.record.slot),
            name_servers: &self.host.name_servers,
            boot_id: &self.made()?.boot_id,
            unix_ns: clock::unix_ns(),
            entropy: kit::random::bytes(),
        })
    }

    fn secrets(&self) -> Result<Secrets, String> {
        let spec = &self.record.spec;
        if spec.secrets.sealed.is_empty() {
            return Ok(Secrets::new());
        }
        let plain = self.host.sealing_key.open(&SealedSecrets::place(&spec.app), &spec.secrets.sealed);
        let plain = Zeroizing::new(plain.map_err(|error| format!("its secrets cannot be opened: {error}"))?);
        serde_json::from_slice(&plain).map_err(|_| "its secrets are not an object of names and texts".to_owned())
    }

    async fn give_up(&mut self) {
        let seconds = self.host.boot_timeout.as_secs();
        if self.record.made.as_ref().is_some_and(|made| made.started) {
            self.host.say(&self.record.spec, format!("The guest has not answered for {seconds} s"));
            self.program_ended(None).await;
        } else {
            self.fail(&format!("its program was not started within {seconds} s")).await;
        }
        self.facts.vm = Vm::Dead;
    }

    fn ask(&mut self) {
        let down = self.record.down.clone();
        let (Some(down), Some(link)) = (down, self.link.clone()) else {
            self.facts.vm = Vm::Dead;
            return;
        };
        self.facts.vm = Vm::Asked(Timestamp(now().0 + down.timeout_ms + STOP_MARGIN_MS));
        let timeout = Duration::from_millis(down.timeout_ms);
        self.send_off(async move { Outcome::Told(link.stop(down.signal, timeout).await.map(drop)) });
    }

    fn power_off(&mut self) {
        self.facts.vm = Vm::PoweringOff(Timestamp(now().0 + POWER_OFF_MS));
        if let Some(link) = self.link.clone() {
            self.send_off(async move { Outcome::Told(link.power_off().await) });
        }
    }

    /// Kills what is left of the virtual machine. A program of which nothing else is known has ended by that.
    async fn kill(&mut self) -> Taken {
        (self.errand, self.checks, self.check_states) = (None, None, Vec::new());
        let made = self.made()?;
        let known = made.vm.clone().or_else(|| self.host.find_vm(&self.record.spec.id));
        if let Some(vm) = known {
            vm.process.kill().await.map_err(|error| format!("the virtual machine does not end: {}", Report(&error)))?;
        }
        let ran = self.record.made.as_ref().is_some_and(|made| made.started && !made.exited);
        if ran && self.record.suspended.is_none() {
            self.program_ended(None).await;
        }
        (self.link, self.status) = (None, None);
        vmm::clear(&self.run_dir()).map_err(|error| format!("cannot clear its directory: {}", Report(&error)))?;
        self.facts.vm = Vm::Absent;
        Ok(())
    }

    /// Puts the next spec in force.
    async fn replace(&mut self) -> Taken {
        let replaced = self.commit(|record| {
            if let Some(next) = record.next_spec.take() {
                (record.spec, record.preparation) = (*next, Preparation::Replaced);
            }
        });
        replaced.await.map_err(|error| words(&error))?;
        (self.rootfs, self.facts.rootfs, self.reservation) = (None, Have::No, None);
        if self.record.goal == Goal::Run
            && let Err(error) = self.reserve()
        {
            self.fail(&error.to_string()).await;
        }
        Ok(())
    }

    fn erase(&mut self) -> Taken {
        self.host.ledger.remove(&self.record.spec.id).map_err(|error| words(&error))?;
        if let Some(claim) = self.record.volume.take() {
            self.host.disks.release(&claim);
        }
        self.record.note("destroy", "destroyed", Source::Platform, because("everything but its volumes is removed"));
        self.host.say(&self.record.spec, "Machine destroyed");
        Ok(())
    }

    pub(super) fn send_off(&mut self, errand: impl Future<Output = Outcome> + Send + 'static) {
        self.errand = Some(AbortOnDropHandle::new(tokio::spawn(errand)));
    }

    fn made(&self) -> Result<&Made, String> {
        self.record.made.as_ref().ok_or_else(|| "nothing of it is declared".to_owned())
    }

    fn guest_net(&self) -> Result<GuestNet, String> {
        let made = self.made()?;
        let addresses = self.host.addresses(&self.record.spec, self.record.slot);
        Ok(GuestNet { tap: made.tap.clone(), addresses, owner_uid: made.uid })
    }

    fn uid(&self) -> u32 {
        self.host.first_uid + self.record.slot
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.host.ledger.directory(&self.record.spec.id)
    }

    /// The directory of the virtual machine.
    fn run_dir(&self) -> PathBuf {
        super::run_dir(&self.host.ledger, &self.record.spec.id)
    }

    pub(super) fn console_log(&self) -> PathBuf {
        self.directory().join("console.log")
    }
}

/// Hands what a guest writes to the platform's log.
fn log_taker(host: &Arc<Host>, spec: &model::machine::MachineSpec) -> LogTaker {
    let (host, app, machine) = (Arc::clone(host), spec.app.clone(), spec.id.clone());
    Arc::new(move |record: GuestLog| {
        host.logs.append(LogRecord {
            timestamp_ns: record.timestamp_ns,
            app: app.clone(),
            machine: Some(machine.clone()),
            region: host.region.clone(),
            source: match record.source {
                GuestSource::Stdout => LogSource::Stdout,
                GuestSource::Stderr => LogSource::Stderr,
                GuestSource::Init => LogSource::Guest,
            },
            message: String::from_utf8_lossy(&record.bytes).into_owned(),
        });
    })
}

fn words(error: &dyn std::error::Error) -> String {
    Report(error).to_string()
}
