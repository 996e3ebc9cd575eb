//! Templates: guests frozen where their init waits to be told what to run. A guest of the same shape begins there, and
//! skips the start of QEMU's firmware, the kernel, its modules and init.
//!
//! ```text
//!   a guest has come up ─▶ is there a template of its shape? ─ yes ─▶ nothing
//!                              └ no ─▶ boot ─▶ init waits ─▶ freeze ─▶ try it out ─▶ keep
//!   launch ─▶ a template of its shape? ─ yes ─▶ go on from it ─ fails ─▶ give it up, boot
//!                              └ no ─▶ boot
//! ```
//!
//! Until init is told what to run, a guest has asked nothing of its disks and its network device, so those of the frozen
//! guest need not be those of the one that goes on. All that such guests share is what their kernel chose at its start,
//! such as where it lies in memory; random numbers are mixed anew from what the host sends with the spec.
//!
//! ```text
//!   <data>/kernel/templates/<digest>/       of all that must be the same: this boot of the host, kernel, init, QEMU
//!       1x256-rwn                             1 processor, 256 MiB, a read-only disk and a writable one, network
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use model::MachineId;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::Qemu;
use crate::{
    link::{GuestPhase, Link, LinkStatus, Session},
    vmm::{Disk, Nic, Vm, VmPlan, VmRecord, VmmError, probe, process, setup_error, spawn},
};

/// Changes whenever guests of before cannot go on under what we start now.
const FORMAT: &str = "1";
/// Guests with more memory boot: even empty memory takes its time to be gone through.
const MAX_MEMORY_MB: u32 = 4096;
/// The most templates that are kept; each takes up to some 140 MB of the disk. The oldest goes.
const MAX_TEMPLATES: usize = 8;
/// Disk space that must be left for a template to be made.
const DISK_FLOOR_BYTES: u64 = 2 << 30;
/// How long a guest may take until its init waits.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// The size of the disks of a guest that is to be frozen.
const BLANK_BYTES: u64 = 1 << 20;

/// The templates of a host.
#[derive(Debug)]
pub(in crate::vmm) struct Templates {
    data: PathBuf,
    /// Shapes of which no template could be made; they are not tried again.
    hopeless: Mutex<BTreeSet<String>>,
    /// One is made at a time.
    making: tokio::sync::Mutex<()>,
}

impl Templates {
    /// Those below the data directory.
    pub(in crate::vmm) fn below(data: &Path) -> Self {
        Self { data: data.to_owned(), hopeless: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    /// The template that a guest can go on from.
    pub(super) fn fitting(&self, plan: &VmPlan, driver: &Qemu) -> Option<File> {
        File::open(self.path(driver, plan)?).ok()
    }

    /// Removes a template that turned out to be of no use. Another is not made as long as this process lives.
    pub(super) fn give_up(&self, plan: &VmPlan, driver: &Qemu) {
        if let Some(path) = self.path(driver, plan) {
            let _ = fs::remove_file(path);
        }
        self.hopeless.lock().expect(NOT_POISONED).extend(shape(plan));
    }

    /// Makes the template that guests like this one go on from, unless there is one, or one is being made.
    pub(super) async fn prepare_for(&self, plan: &VmPlan, driver: &Qemu) -> Result<(), VmmError> {
        let (Some(path), Ok(_turn)) = (self.path(driver, plan), self.making.try_lock()) else { return Ok(()) };
        let shape = shape(plan).expect("one that has a path has a shape");
        if path.exists() || self.hopeless.lock().expect(NOT_POISONED).contains(&shape) {
            return Ok(());
        }
        let directory = path.parent().expect("a template lies in a directory");
        self.make_room(directory).map_err(setup_error("make room for a template in", directory))?;
        if crate::disk::free_bytes(directory).is_ok_and(|free| free < DISK_FLOOR_BYTES) {
            return Ok(());
        }
        let made = make(driver, &self.model(plan, directory)?, &path).await;
        if made.is_err() {
            self.hopeless.lock().expect(NOT_POISONED).insert(shape);
        }
        made
    }

    fn path(&self, driver: &Qemu, plan: &VmPlan) -> Option<PathBuf> {
        Some(self.root().join(circumstances(driver, plan)).join(shape(plan)?))
    }

    fn root(&self) -> PathBuf {
        self.data.join("kernel").join("templates")
    }

    /// Removes what no guest can go on from any more, what was left half made, and the oldest beyond the bound.
    fn make_room(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(self.root())?.flatten().filter(|entry| entry.path() != directory) {
            fs::remove_dir_all(entry.path())?;
        }
        let mut kept = Vec::new();
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.path().extension().is_some() {
                fs::remove_file(entry.path())?;
            } else {
                kept.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        kept.sort();
        let beyond = (kept.len() + 1).saturating_sub(MAX_TEMPLATES);
        kept.iter().take(beyond).try_for_each(|(_, oldest)| fs::remove_file(oldest))
    }

    /// A guest of the same shape, with blank disks and a network device that leads nowhere.
    fn model(&self, plan: &VmPlan, directory: &Path) -> Result<VmPlan, VmmError> {
        let machine = MachineId::from_random(kit::random::bytes());
        let blank = |(index, disk): (usize, &Disk)| {
            let path = directory.join(format!("{index}.disk"));
            File::create(&path).and_then(|file| file.set_len(BLANK_BYTES)).map_err(setup_error("make", &path))?;
            Ok(Disk { path, read_only: disk.read_only })
        };
        Ok(VmPlan {
            dir: probe::directory(&self.data).join(machine.as_str()),
            machine,
            disks: plan.disks.iter().enumerate().map(blank).collect::<Result<_, _>>()?,
            nic: plan.nic.as_ref().map(|nic| Nic { tap: None, mac: nic.mac }),
            cgroup_procs: Vec::new(),
            memory: None,
            ..plan.clone()
        })
    }
}

const NOT_POISONED: &str = "nothing panics while it holds the shapes";

/// What makes guests alike, as a file name; `None` for those that always boot.
fn shape(plan: &VmPlan) -> Option<String> {
    let disks: String = plan.disks.iter().map(|disk| if disk.read_only { 'r' } else { 'w' }).collect();
    let network = if plan.nic.is_some() { "n" } else { "" };
    let alike = plan.kernel_args.is_empty() && plan.memory_mb <= MAX_MEMORY_MB;
    alike.then(|| format!("{}x{}-{disks}{network}", plan.cpus, plan.memory_mb))
}

/// A digest of everything else that must be the same.
fn circumstances(driver: &Qemu, plan: &VmPlan) -> String {
    let boot = process::boot_id().unwrap_or_default();
    let program = fs::metadata(&driver.program).map(|state| (state.size(), state.mtime(), state.ino())).ok();
    let parts = format!("{FORMAT} {boot} {} {:?} {:?} {program:?}", plan.kernel.key, driver.isolation, driver.program);
    hex::encode(&Sha256::digest(parts)[..16])
}

/// Makes a template, proves that a guest goes on from it, and only then puts it where it is found.
async fn make(driver: &Qemu, model: &VmPlan, path: &Path) -> Result<(), VmmError> {
    let unfinished = path.with_extension("new");
    let state = File::create(&unfinished).map_err(setup_error("make", &unfinished))?;
    let guest = Trial::that_waits(driver.boot(model).await?).await?;
    super::freeze(&guest.0, &state).await?;
    guest.end().await?;
    write_out(state, &unfinished).await?;
    let state = File::open(&unfinished).map_err(setup_error("open", &unfinished))?;
    Trial::that_waits(driver.go_on(model, state).await?).await?.end().await?;
    fs::rename(&unfinished, path).map_err(setup_error("rename", &unfinished))
}

async fn write_out(state: File, path: &Path) -> Result<(), VmmError> {
    let path = path.to_owned();
    spawn::blocking(move || state.sync_all().map_err(setup_error("write", &path))).await
}

/// A guest that nobody's program runs in. Dropping it kills it; what is left in its directory goes with the next start
/// of `dunlin`.
struct Trial(VmRecord);

impl Trial {
    /// A guest whose init waits to be told what to run. It is not connected to any more.
    async fn that_waits(vm: Vm) -> Result<Self, VmmError> {
        let trial = Self(vm.record.clone());
        let console = trial.0.dir.join("console.log");
        let link = Link::open(vm, console, Arc::new(|_| {}));
        let mut status = link.status();
        let settled = |status: &LinkStatus| status.guest == GuestPhase::Waiting || status.session == Session::Gone;
        let reached = timeout(BOOT_PATIENCE, status.wait_for(settled)).await;
        let waits = reached.is_ok_and(|status| status.is_ok_and(|status| status.guest == GuestPhase::Waiting));
        link.close().await;
        if waits { Ok(trial) } else { Err(VmmError::Silent { program: "the guest's init", after: BOOT_PATIENCE }) }
    }

    async fn end(self) -> Result<(), VmmError> {
        let dir = &self.0.dir;
        self.0.process.kill().await.map_err(setup_error("end the VM in", dir))?;
        crate::vmm::clear(dir).map_err(setup_error("clear", dir))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.process.kill_unheard();
    }
}
