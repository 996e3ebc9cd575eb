//! Control groups: each VMM in its own, with a limit on memory and processes, a share and a ceiling of CPU time.
//!
//! Version 2 is used where its memory controller is available, else version 1 with whichever of the hierarchies
//! `memory`, `cpu` and `pids` are mounted. Groups lie at the top of a hierarchy, `/dunlin-<tag>/<machine>`, not below
//! the group of this process: a service manager that ends this process must not end its virtual machines.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use model::{
    MachineId,
    machine::{CpuKind, Guest},
};
use thiserror::Error;

const MIB: u64 = 1 << 20;
/// Threads of a VMM: one per virtual processor and those that do its input and output.
const MAX_TASKS: u32 = 256;
/// The period of the CPU ceiling in microseconds.
const PERIOD_US: u64 = 100_000;
/// How long processes of a group may take to die, once killed.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a group could not be made or removed.
#[derive(Debug, Error)]
#[error("cannot {what} the control group {}", path.display())]
pub struct CgroupError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What a group allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes: the guest's and the VMM's own.
    pub memory_bytes: u64,
    /// Share of CPU time relative to other groups; 100 is a group that nobody configured.
    pub cpu_weight: u64,
    /// CPU time in microseconds per period of 100 ms.
    pub cpu_quota_us: u64,
}

impl Limits {
    /// The limits of a VM of this size, whose VMM needs `overhead_mb` beside the guest's memory.
    ///
    /// A performance CPU weighs 16 times a shared one. The ceiling is the guest's CPUs and half a core for what the VMM
    /// itself does.
    pub fn of(guest: &Guest, overhead_mb: u32) -> Self {
        let cpus = u64::from(guest.cpus);
        let weight_per_cpu = match guest.cpu_kind {
            CpuKind::Shared => 10,
            CpuKind::Performance => 160,
        };
        Self {
            memory_bytes: (u64::from(guest.memory_mb) + u64::from(overhead_mb)) * MIB,
            cpu_weight: (cpus * weight_per_cpu).clamp(1, 10_000),
            cpu_quota_us: cpus * PERIOD_US + PERIOD_US / 2,
        }
    }
}

/// Where groups can be made on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// One hierarchy with all controllers.
    Unified(PathBuf),
    /// One hierarchy per controller: `memory`, `cpu`, `pids`.
    Split(Vec<(&'static str, PathBuf)>),
}

/// The control groups of one instance.
#[derive(Debug, Clone)]
pub struct Cgroups {
    layout: Layout,
    name: String,
}

impl Cgroups {
    /// Looks for hierarchies where groups can be made.
    pub fn open(tag: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self { layout: layout(&mounts), name: format!("dunlin-{tag}") }
    }

    /// What limits are missing here, in words, or `None` if VMs get all of them.
    pub fn shortcoming(&self) -> Option<String> {
        let Layout::Split(hierarchies) = &self.layout else { return None };
        let missing: Vec<_> =
            ["memory", "cpu", "pids"].into_iter().filter(|name| hierarchies.iter().all(|(it, _)| it != name)).collect();
        let missing = (!missing.is_empty()).then(|| missing.join(", "));
        missing.map(|missing| format!("this host offers no control group for {missing}, so those are not limited"))
    }

    /// The directories of a machine's group, one per hierarchy.
    pub fn directories(&self, machine: &MachineId) -> Vec<PathBuf> {
        self.parents().into_iter().map(|parent| parent.join(machine.as_str())).collect()
    }

    /// Makes a group, or takes the one that is there, with these limits.
    pub fn make(&self, directories: &[PathBuf], limits: Limits) -> Result<(), CgroupError> {
        if let Layout::Unified(root) = &self.layout {
            let parent = root.join(&self.name);
            fs::create_dir_all(&parent).map_err(failed("make", &parent))?;
            for level in [root, &parent] {
                let path = level.join("cgroup.subtree_control");
                fs::write(&path, "+memory +cpu +pids").map_err(failed("enable controllers of", level))?;
            }
        }
        for directory in directories {
            fs::create_dir_all(directory).map_err(failed("make", directory))?;
            limit(directory, limits).map_err(failed("limit", directory))?;
        }
        Ok(())
    }

    /// Kills what is in a group and removes it. One that is gone already is no error.
    pub async fn remove(&self, directories: &[PathBuf]) -> Result<(), CgroupError> {
        for directory in directories {
            empty(directory).await.map_err(failed("empty", directory))?;
            remove_directory(directory).await.map_err(failed("remove", directory))?;
        }
        Ok(())
    }

    /// Removes the groups of this instance that belong to none of `machines`, and the instance's own if none is left.
    pub async fn sweep(&self, machines: &[MachineId]) -> Result<(), CgroupError> {
        for parent in self.parents() {
            let Ok(entries) = fs::read_dir(&parent) else { continue };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let groups = names.filter(|name| parent.join(name).is_dir());
            for orphan in groups.filter(|name| machines.iter().all(|id| id.as_str() != name)) {
                tracing::info!(group = %orphan, "removing a control group that no machine owns");
                self.remove(&[parent.join(orphan)]).await?;
            }
            if machines.is_empty() {
                remove_directory(&parent).await.map_err(failed("remove", &parent))?;
            }
        }
        Ok(())
    }

    fn parents(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::Unified(root) => vec![root.join(&self.name)],
            Layout::Split(hierarchies) => hierarchies.iter().map(|(_, root)| root.join(&self.name)).collect(),
        }
    }
}

/// The processes that a group holds.
pub fn processes(directories: &[PathBuf]) -> Vec<u32> {
    let lists = directories.iter().filter_map(|directory| fs::read_to_string(directory.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

/// How often the kernel has killed something in a group for want of memory.
pub fn oom_kills(directories: &[PathBuf]) -> u64 {
    let count = |text: String| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
    let files = directories.iter().flat_map(|it| [it.join("memory.events"), it.join("memory.oom_control")]);
    files.filter_map(|file| fs::read_to_string(file).ok()).filter_map(count).max().unwrap_or(0)
}

fn layout(mountinfo: &str) -> Layout {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(parse_mount).collect();
    let unified = mounts.iter().find(|mount| mount.kind == "cgroup2" && offers_memory(&mount.path));
    if let Some(mount) = unified {
        return Layout::Unified(mount.path.clone());
    }
    let find = |name: &'static str| {
        let mut v1 = mounts.iter().filter(|mount| mount.kind == "cgroup");
        v1.find(|mount| mount.options.split(',').any(|option| option == name)).map(|mount| (name, mount.path.clone()))
    };
    Layout::Split(["memory", "cpu", "pids"].into_iter().filter_map(find).collect())
}

/// One line of `/proc/self/mountinfo` (proc(5)).
struct Mount<'a> {
    path: PathBuf,
    kind: &'a str,
    options: &'a str,
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
    // Space, tab, newline and backslash are written in octal; a mount point of cgroups has none of them.
    Some(Mount { path: PathBuf::from(before.split(' ').nth(4)?), kind, options })
}

fn offers_memory(root: &Path) -> bool {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    controllers.split_whitespace().any(|name| name == "memory")
}

/// Writes the limits that a directory has files for: those of its hierarchy.
fn limit(directory: &Path, limits: Limits) -> io::Result<()> {
    let shares = (limits.cpu_weight * 1024 / 100).clamp(2, 262_144);
    let settings = [
        ("memory.max", limits.memory_bytes.to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("memory.limit_in_bytes", limits.memory_bytes.to_string()),
        ("cpu.weight", limits.cpu_weight.to_string()),
        ("cpu.shares", shares.to_string()),
        ("cpu.max", format!("{} {PERIOD_US}", limits.cpu_quota_us)),
        ("cpu.cfs_period_us", PERIOD_US.to_string()),
        ("cpu.cfs_quota_us", limits.cpu_quota_us.to_string()),
        ("pids.max", MAX_TASKS.to_string()),
    ];
    for (file, value) in settings {
        let path = directory.join(file);
        if path.exists() {
            fs::write(path, value)?;
        }
    }
    Ok(())
}

/// Kills all processes of a group and waits until none is left.
async fn empty(directory: &Path) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + EMPTY_TIMEOUT;
    loop {
        let left = processes(&[directory.to_owned()]);
        if left.is_empty() {
            return Ok(());
        }
        for pid in left.iter().filter_map(|pid| rustix::process::Pid::from_raw(i32::try_from(*pid).ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes {left:?} do not die")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Removes a group's directory. The kernel keeps it busy for a moment after the last process has gone.
async fn remove_directory(directory: &Path) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + EMPTY_TIMEOUT;
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_version_1_are_found_by_their_controllers() {
        let mountinfo = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /nowhere/unified rw,relatime - cgroup2 cgroup2 rw
39 31 0:36 / /sys/fs/cgroup/cpuset rw,relatime shared:1 - cgroup cgroup rw,cpuset
";
        let expected = [("memory", "/sys/fs/cgroup/memory"), ("cpu", "/sys/fs/cgroup/cpu,cpuacct")];
        assert_eq!(layout(mountinfo), Layout::Split(expected.map(|(name, path)| (name, path.into())).to_vec()));
        let cgroups = Cgroups { layout: layout(mountinfo), name: "dunlin-t".into() };
        assert!(cgroups.shortcoming().unwrap().contains("pids"));
    }

    #[test]
    fn a_performance_cpu_weighs_sixteen_shared_ones() {
        let shared = Limits::of(&Guest::default(), 64);
        let performance = Limits::of(&Guest { cpu_kind: CpuKind::Performance, ..Guest::default() }, 64);
        assert_eq!(performance.cpu_weight, 16 * shared.cpu_weight);
        assert_eq!(shared.memory_bytes, (256 + 64) * MIB);
    }

    #[tokio::test]
    async fn a_group_is_made_limited_and_removed_with_what_runs_in_it() {
        let cgroups = Cgroups::open(&format!("t{}", &kit::random::token()[..5]));
        let machine = MachineId::from_random([7; 7]);
        let directories = cgroups.directories(&machine);
        let limits = Limits::of(&Guest::default(), 64);
        if directories.is_empty() || cgroups.make(&directories, limits).is_err() {
            eprintln!(
                "skipped: a_group_is_made_limited_and_removed_with_what_runs_in_it: no right to make control groups"
            );
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        for directory in &directories {
            fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        assert!(processes(&directories).contains(&child.id()));
        let memory: u64 = ["memory.max", "memory.limit_in_bytes"]
            .iter()
            .flat_map(|file| directories.iter().map(move |directory| directory.join(file)))
            .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok())
            .unwrap();
        assert_eq!(memory, limits.memory_bytes);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        cgroups.sweep(&[]).await.unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(cgroups.parents().iter().all(|parent| !parent.exists()));
    }
}
