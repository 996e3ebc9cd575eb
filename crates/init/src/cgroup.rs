//! The program's control group: it tells whether the kernel killed something in it for want of memory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup";

/// A control group, version 2.
pub struct Cgroup {
    path: PathBuf,
    procs: File,
}

impl Cgroup {
    /// Makes a group in the guest's hierarchy.
    pub fn create(name: &str) -> io::Result<Self> {
        let root = Path::new(ROOT);
        for controller in ["memory", "pids", "cpu", "io"] {
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let path = root.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let procs = File::options().write(true).open(path.join("cgroup.procs"))?;
        Ok(Self { path, procs })
    }

    /// Where a process writes `0` to enter the group.
    pub fn door(&self) -> &File {
        &self.procs
    }

    /// How many processes of the group the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map_or(0, |events| parse_oom_kills(&events))
    }
}

fn parse_oom_kills(events: &str) -> u64 {
    let mut fields = events.lines().filter_map(|line| line.split_once(' '));
    fields.find(|(name, _)| *name == "oom_kill").and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_from_mere_shortage() {
        assert_eq!(parse_oom_kills("low 0\nhigh 3\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), 1);
        assert_eq!(parse_oom_kills("oom 2\n"), 0);
    }
}
