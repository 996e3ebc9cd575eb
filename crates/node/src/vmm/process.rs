//! A process that may not be our child, told apart from any later one with its number.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// A process: its number, and when it began, since numbers are used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number in our own PID namespace.
    pub pid: u32,
    /// When it began: clock ticks since the host booted (field 22 of `/proc/<pid>/stat`).
    pub started_ticks: u64,
    /// Which boot of the host that was.
    pub boot_id: String,
}

impl ProcessId {
    /// The process that has this number now, unless there is none or it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::of(pid).filter(|stat| !stat.ended)?;
        Some(Self { pid, started_ticks: stat.started_ticks, boot_id: boot_id()? })
    }

    /// Whether it still runs. One that has ended and only waits to be reaped does not.
    pub fn alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.ended)
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub async fn kill(&self) -> io::Result<()> {
        if let Some(process) = self.open()? {
            pidfd_send_signal(&process, Signal::KILL).or_else(ignore_gone)?;
        }
        self.exited().await
    }

    /// Asks the kernel to end it at once, waits for nothing and reports nothing.
    pub(super) fn kill_unheard(&self) {
        if let Ok(Some(process)) = self.open() {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
    }

    /// Waits until it has ended, and reaps it if it is our child.
    pub async fn exited(&self) -> io::Result<()> {
        let Some(process) = self.open()? else { return Ok(()) };
        // SAFETY: an `OwnedFd` is open for as long as it lives, and always tells the same descriptor.
        let process = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE)? };
        process.readable().await?.retain_ready();
        // Others are reaped by their own parent.
        let _ = waitid(WaitId::PidFd(process.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        Ok(())
    }

    /// A handle that means this process, or its corpse, and no other.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // The number could have passed to another before the handle was open, so look after.
            Ok(process) => Ok(self.stat().map(|_| process)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the kernel says of it, if it has not been reaped.
    fn stat(&self) -> Option<Stat> {
        let stat = Stat::of(self.pid).filter(|stat| stat.started_ticks == self.started_ticks)?;
        (boot_id()? == self.boot_id).then_some(stat)
    }
}

/// The first process whose arguments are as wanted.
pub(super) fn find(wanted: impl Fn(&[String]) -> bool) -> Option<ProcessId> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let matching = |pid: u32| wanted(&arguments(pid)).then(|| ProcessId::of(pid)).flatten();
    pids.find_map(matching)
}

/// The arguments of a process; none if there is no such process.
pub(super) fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

fn ignore_gone(error: Errno) -> Result<(), Errno> {
    if error == Errno::SRCH { Ok(()) } else { Err(error) }
}

/// What `/proc/<pid>/stat` says (proc_pid_stat(5)).
struct Stat {
    /// Only its corpse is left, for its parent to look at.
    ended: bool,
    started_ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, and may itself hold any character.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X");
        Some(Self { ended, started_ticks: fields.nth(18)?.parse().ok()? })
    }
}

/// The identity of this boot of the host.
pub(super) fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    use super::*;

    #[expect(clippy::zombie_processes, reason = "it is what is tested that waits for it")]
    fn sleeper() -> ProcessId {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        ProcessId::of(child.id()).unwrap()
    }

    #[tokio::test]
    async fn a_killed_child_is_gone_and_leaves_no_corpse() {
        let process = sleeper();
        assert!(process.alive());
        process.kill().await.unwrap();
        assert!(!process.alive());
        assert!(!std::path::Path::new(&format!("/proc/{}", process.pid)).exists());
        process.kill().await.unwrap();
        process.exited().await.unwrap();
    }

    #[tokio::test]
    async fn another_process_with_the_same_number_is_left_alone() {
        let process = sleeper();
        let earlier = ProcessId { started_ticks: process.started_ticks - 1, ..process.clone() };
        let rebooted = ProcessId { boot_id: "another".into(), ..process.clone() };
        for other in [earlier, rebooted] {
            assert!(!other.alive());
            other.kill().await.unwrap();
            assert!(process.alive());
        }
        process.kill().await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_that_is_not_our_child_is_seen() {
        // The shell ends at once, so that its own child has another parent.
        let mut shell =
            Command::new("sh").args(["-c", "sleep 1000 >&- & echo $!"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut pid = String::new();
        shell.stdout.take().unwrap().read_to_string(&mut pid).unwrap();
        shell.wait().unwrap();
        let process = ProcessId::of(pid.trim().parse().unwrap()).unwrap();
        let waiter = tokio::spawn({
            let process = process.clone();
            async move { process.exited().await }
        });
        process.kill().await.unwrap();
        waiter.await.unwrap().unwrap();
        assert!(!process.alive());
    }
}
