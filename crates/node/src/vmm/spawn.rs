//! Starts a VMM so that it outlives us, holds nothing of ours but what it is given, and cannot gain privilege.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::DirBuilderExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use model::machine::Isolation;
use rustix::{
    fs::{Gid, Uid},
    io::FdFlags,
    process::{Resource, Rlimit},
};
use tokio::time::timeout;

use super::{ProcessId, Vm, VmPlan, VmRecord, VmUser, VmmError, output, setup_error};

/// What a VMM is started with.
pub(super) struct Spawn<'a> {
    /// The program and its arguments.
    pub(super) command: Command,
    /// Where it starts.
    pub(super) dir: &'a Path,
    /// Who it becomes, with which groups besides; `None` if it drops privilege by itself.
    pub(super) user: Option<(VmUser, Vec<Gid>)>,
    /// Descriptors that it inherits, under the numbers that they have here.
    pub(super) inherited: Vec<OwnedFd>,
    /// The VM.
    pub(super) plan: &'a VmPlan,
    /// Its wall.
    pub(super) isolation: Isolation,
}

/// How long a VMM that ends may take from its last word.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// A VMM that has been started and has not come far. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Newborn {
    record: Option<VmRecord>,
    pipe: OwnedFd,
}

/// Starts the program. It runs in a session of its own, with nothing to read from.
pub(super) fn spawn(spawn: Spawn<'_>) -> Result<Newborn, VmmError> {
    let Spawn { mut command, dir, user, inherited, plan, isolation } = spawn;
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source| VmmError::Setup { what: format!("start {program}"), source };
    let cgroups = open_all(&plan.cgroup_procs)?;
    let pipe = output::make_pipe(&plan.dir).map_err(setup_error("make a pipe in", &plan.dir))?;
    let (stdout, stderr) = (pipe.try_clone().map_err(failed)?, pipe.try_clone().map_err(failed)?);
    command.env_clear().current_dir(dir).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let child = ChildSetup { cgroups, user, inherited };
    // SAFETY: what `enter` does between fork and exec is system calls on descriptors and numbers that were made
    // before; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(move || child.enter()) };
    let mut child = command.spawn().map_err(failed)?;
    match ProcessId::of(child.id()) {
        Some(process) => {
            let record = VmRecord { machine: plan.machine.clone(), isolation, dir: plan.dir.clone(), process };
            Ok(Newborn { record: Some(record), pipe })
        }
        None => {
            let _ = child.wait();
            Err(VmmError::Died { program: "the VMM", output: output::drain(&pipe) })
        }
    }
}

/// Does what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VmmError> + Send + 'static,
) -> Result<T, VmmError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| VmmError::Plan(error.to_string()))?
}

impl Newborn {
    /// Takes it through the steps until its guest runs. On a failure it is killed and what it left is removed; if it
    /// ended by itself, the error holds what it said.
    pub(super) async fn bring_up<F>(
        mut self,
        program: &'static str,
        steps: impl FnOnce(VmRecord) -> F,
    ) -> Result<Vm, VmmError>
    where
        F: Future<Output = Result<Vm, VmmError>>,
    {
        let record = self.record.clone().expect("it is taken only below");
        match steps(record.clone()).await {
            Ok(vm) => {
                self.record = None;
                Ok(vm)
            }
            Err(error) => {
                // A connection breaks before the process that ends is gone.
                let by_itself = timeout(LAST_BREATH, record.process.exited()).await.is_ok();
                let _ = record.process.kill().await;
                let output = output::drain(&self.pipe);
                let _ = super::clear(&record.dir);
                Err(if by_itself { VmmError::Died { program, output } } else { error })
            }
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
            record.process.kill_unheard();
        }
    }
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<File>, VmmError> {
    let open = |path: &PathBuf| OpenOptions::new().write(true).open(path).map_err(setup_error("open", path));
    paths.iter().map(open).collect()
}

/// What the child does to itself before it becomes the program.
struct ChildSetup {
    cgroups: Vec<File>,
    user: Option<(VmUser, Vec<Gid>)>,
    inherited: Vec<OwnedFd>,
}

impl ChildSetup {
    fn enter(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        for cgroup in &self.cgroups {
            // 0 means the writer.
            rustix::io::write(cgroup, b"0")?;
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        // A core dump would hold the guest's memory.
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        close_on_exec_from(3);
        for descriptor in &self.inherited {
            rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        if let Some((user, groups)) = &self.user {
            become_user(*user, groups)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    }
}

/// Makes every descriptor from `first` on end with exec. Ours do so anyway; this catches those of libraries.
fn close_on_exec_from(first: u32) {
    // SAFETY: this closes nothing, it only marks descriptors, and only those of this process.
    unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC) };
}

fn become_user(user: VmUser, groups: &[Gid]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if uid == rustix::process::getuid() && !uid.is_root() {
        return Ok(());
    }
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// A name under which a program that inherits the descriptor can open the same file, wherever that lies.
pub(super) fn inherited_path(descriptor: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// Starts a VMM in a fresh directory of its VM, with a place in it for what the VMM itself makes. If that fails, the
/// directory is removed.
pub(super) fn in_directory(
    plan: &VmPlan,
    place: &str,
    start: impl FnOnce(&Path) -> Result<Newborn, VmmError>,
) -> Result<Newborn, VmmError> {
    let place = prepare_directory(plan, place)?;
    start(&place).inspect_err(|_| drop(super::clear(&plan.dir)))
}

fn prepare_directory(plan: &VmPlan, place: &str) -> Result<PathBuf, VmmError> {
    if let Some(running) = super::find(&plan.machine, &plan.dir) {
        let reason = format!("machine {} runs already, as process {}", plan.machine, running.process.pid);
        return Err(VmmError::Plan(reason));
    }
    super::clear(&plan.dir).map_err(setup_error("empty", &plan.dir))?;
    let private = |path: &Path| {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(setup_error("make", path))
    };
    private(&plan.dir)?;
    let place = plan.dir.join(place);
    private(&place)?;
    Ok(place)
}

/// Gives a file or directory to the VM's user.
pub(super) fn give(path: &Path, user: VmUser) -> Result<(), VmmError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    rustix::fs::chownat(rustix::fs::CWD, path, owner.0, owner.1, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| setup_error("change the owner of", path)(error.into()))
}
