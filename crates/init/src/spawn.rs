//! Starts processes: the program and the commands beside it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use guest::TerminalSize;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{Winsize, openpty},
    sys::{
        resource::{Resource, setrlimit},
        signal::{SigSet, SigmaskHow, sigprocmask},
    },
    unistd::{Gid, Uid, fchown, pipe2, setgid, setgroups, setsid, setuid},
};

use crate::{
    credentials::Credentials,
    environment::{CannotRun, Environment, find_command},
};

/// What is to be started.
pub struct Start<'a> {
    /// The command and its arguments.
    pub argv: &'a [String],
    /// Its whole environment.
    pub env: &'a Environment,
    /// Where it starts.
    pub working_dir: &'a Path,
    /// Who runs it.
    pub user: &'a Credentials,
    /// Its limit on open files, or 0 for the kernel's own.
    pub nofile: u64,
    /// The `cgroup.procs` of the group it enters.
    pub cgroup: Option<&'a File>,
    /// Its standard streams.
    pub streams: Streams,
}

/// What a process has as its standard streams.
#[derive(Debug, Clone, Copy)]
pub enum Streams {
    /// Nothing to read, pipes to write to.
    Output,
    /// Three pipes.
    Pipes,
    /// A terminal of its own.
    Terminal(TerminalSize),
}

/// A process, and our ends of its standard streams; none of them blocks.
pub struct Started {
    /// Its number; also that of its session.
    pub pid: i32,
    /// Our ends.
    pub ends: Ends,
}

/// Our ends of a process's standard streams.
pub struct Ends {
    /// Its input; the terminal, if it has one.
    pub stdin: Option<File>,
    /// Its output; the terminal, if it has one.
    pub stdout: File,
    /// Its errors, unless it has a terminal.
    pub stderr: Option<File>,
}

/// Starts a process in a session of its own.
pub fn start(start: &Start<'_>) -> Result<Started, CannotRun> {
    let name = start.argv.first().map_or("", String::as_str);
    let path = find_command(name, start.env, start.working_dir)?;
    spawn(start, &path).map_err(|error| explain(&error, &path))
}

fn spawn(start: &Start<'_>, path: &Path) -> io::Result<Started> {
    let (ends, stdio) = open_streams(start.streams)?;
    for end in [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten() {
        // So that it may also be opened by name, as /dev/stdout.
        fchown(end, Some(Uid::from_raw(start.user.uid)), Some(Gid::from_raw(start.user.gid)))?;
    }
    let stdio = [stdio.stdin, stdio.stdout, stdio.stderr].map(|end| end.map_or_else(Stdio::null, Stdio::from));
    let [stdin, stdout, stderr] = stdio;
    let mut command = Command::new(path);
    command.arg0(&start.argv[0]).args(&start.argv[1..]).env_clear().envs(start.env);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    command.current_dir(start.working_dir);
    let entry = Entry::new(start);
    // SAFETY: init has one thread, so the child may call what it likes between fork and exec.
    unsafe { command.pre_exec(move || entry.enter()) };
    let child = command.spawn()?;
    Ok(Started { pid: child.id() as i32, ends })
}

/// The process's ends.
struct TheirEnds {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

fn open_streams(streams: Streams) -> io::Result<(Ends, TheirEnds)> {
    if let Streams::Terminal(size) = streams {
        return open_terminal(size);
    }
    let (stdout, their_stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, their_stderr) = pipe2(OFlag::O_CLOEXEC)?;
    let (their_stdin, stdin) = match streams {
        Streams::Pipes => pipe2(OFlag::O_CLOEXEC).map(|(theirs, ours)| (Some(theirs), Some(ours)))?,
        _ => (None, None),
    };
    let ends = Ends {
        stdin: stdin.map(without_blocking).transpose()?,
        stdout: without_blocking(stdout)?,
        stderr: Some(without_blocking(stderr)?),
    };
    Ok((ends, TheirEnds { stdin: their_stdin, stdout: Some(their_stdout), stderr: Some(their_stderr) }))
}

fn open_terminal(size: TerminalSize) -> io::Result<(Ends, TheirEnds)> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None)?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    let (theirs, again) = (pty.slave.try_clone()?, pty.slave.try_clone()?);
    let stdout = without_blocking(pty.master)?;
    let ends = Ends { stdin: Some(stdout.try_clone()?), stdout, stderr: None };
    Ok((ends, TheirEnds { stdin: Some(pty.slave), stdout: Some(theirs), stderr: Some(again) }))
}

fn without_blocking(end: OwnedFd) -> io::Result<File> {
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(end.into())
}

/// What a process does to itself before it becomes the command.
struct Entry {
    terminal: bool,
    cgroup: Option<RawFd>,
    nofile: u64,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Entry {
    fn new(start: &Start<'_>) -> Self {
        Self {
            terminal: matches!(start.streams, Streams::Terminal(_)),
            cgroup: start.cgroup.map(AsRawFd::as_raw_fd),
            nofile: start.nofile,
            uid: Uid::from_raw(start.user.uid),
            gid: Gid::from_raw(start.user.gid),
            // With its own group, so that giving that one up does not open what is closed to the group.
            groups: [start.user.gid].iter().chain(&start.user.groups).copied().map(Gid::from_raw).collect(),
        }
    }

    fn enter(&self) -> io::Result<()> {
        setsid()?;
        if self.terminal {
            // SAFETY: the request takes a number; descriptor 0 is the terminal.
            nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
        }
        if let Some(door) = self.cgroup {
            // SAFETY: the descriptor is open in the parent, whose copy this process has, and the buffer is valid.
            nix::errno::Errno::result(unsafe { libc::write(door, b"0".as_ptr().cast(), 1) })?;
        }
        if self.nofile != 0 {
            setrlimit(Resource::RLIMIT_NOFILE, self.nofile, self.nofile)?;
        }
        setgroups(&self.groups)?;
        setgid(self.gid)?;
        setuid(self.uid)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(())
    }
}

/// What a refused start means. The file itself is there, so "not found" speaks of what it needs.
fn explain(error: &io::Error, path: &Path) -> CannotRun {
    let path = path.display();
    let (reason, exit_code) = match error.raw_os_error() {
        Some(libc::ENOENT) => (format!("{path}: the interpreter or the dynamic loader that it names is missing"), 127),
        Some(libc::ENOEXEC) => {
            (format!("{path} is no program for this processor, nor a script that begins with #!"), 126)
        }
        _ => (format!("{path} cannot be run: {error}"), 126),
    };
    CannotRun { reason, exit_code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_is_wrong_with_the_file() {
        for (number, word, exit_code) in [
            (libc::ENOENT, "interpreter", 127),
            (libc::ENOEXEC, "processor", 126),
            (libc::EACCES, "Permission denied", 126),
        ] {
            let cannot = explain(&io::Error::from_raw_os_error(number), Path::new("/app"));
            assert!(cannot.reason.contains(word), "{}", cannot.reason);
            assert_eq!(cannot.exit_code, exit_code);
        }
    }
}
