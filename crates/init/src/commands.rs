//! The commands that run beside the program, by the stream that the host has chosen for each.

use std::{collections::BTreeMap, os::fd::BorrowedFd, path::PathBuf};

use bytes::{Bytes, BytesMut};
use guest::{ExecSpec, GuestMessage, HostMessage, MAX_EXECS};
use nix::poll::PollFlags;

use crate::{
    boot::Program,
    credentials,
    environment::{self, CannotRun},
    exec::Exec,
    spawn::{self, Start, Streams},
};

/// All commands under way.
#[derive(Default)]
pub struct Commands {
    execs: BTreeMap<u32, Exec>,
}

impl Commands {
    /// Starts a command, or tells why not.
    pub fn start(&mut self, stream: u32, spec: &ExecSpec, program: Option<&Program>, out: &mut BytesMut) {
        let program = program.ok_or_else(|| "the machine's program does not run".to_owned());
        let started = program.and_then(|program| self.try_start(stream, spec, program));
        match started {
            Ok(exec) => {
                self.execs.insert(stream, exec);
            }
            Err(reason) => GuestMessage::ExecFailed { stream, reason }.encode(out),
        }
    }

    fn try_start(&self, stream: u32, spec: &ExecSpec, program: &Program) -> Result<Exec, String> {
        if self.execs.len() >= MAX_EXECS || self.execs.contains_key(&stream) {
            return Err(format!("there are {} commands under way already", self.execs.len()));
        }
        let user = spec.user.as_ref().map_or_else(|| Ok(program.user.clone()), |user| credentials::look_up(user))?;
        let working_dir = spec.working_dir.as_ref().map_or_else(|| program.working_dir.clone(), PathBuf::from);
        if !working_dir.is_dir() {
            return Err(format!("there is no directory {}", working_dir.display()));
        }
        let mut base = program.env.clone();
        if spec.user.is_some() {
            base.remove("HOME");
        }
        let mut env = environment::build(base, &spec.env, &user);
        if spec.tty.is_some() {
            environment::name_terminal(&mut env);
        }
        let started = spawn::start(&Start {
            argv: &spec.argv,
            env: &env,
            working_dir: &working_dir,
            user: &user,
            nofile: program.nofile,
            cgroup: None,
            streams: spec.tty.map_or(Streams::Pipes, Streams::Terminal),
        });
        let started = started.map_err(|CannotRun { reason, .. }| reason)?;
        Ok(Exec::new(stream, started, spec.tty.is_some()))
    }

    /// Does what the host asks of a command. One that has ended, or another message, is ignored.
    pub fn obey(&mut self, message: HostMessage, out: &mut BytesMut) {
        match message {
            HostMessage::ExecStdin { stream, bytes } => self.input(stream, &bytes, out),
            HostMessage::ExecEof { stream } => self.with(stream, Exec::end_input),
            HostMessage::ExecResize { stream, size } => self.with(stream, |exec| exec.resize(size)),
            HostMessage::ExecSignal { stream, signal } => self.with(stream, |exec| exec.signal(signal)),
            HostMessage::ExecCredit { stream, bytes } => self.with(stream, |exec| exec.grant(bytes)),
            HostMessage::ExecKill { stream } => self.kill(stream),
            _ => {}
        }
    }

    fn input(&mut self, stream: u32, bytes: &Bytes, out: &mut BytesMut) {
        if self.execs.get_mut(&stream).is_some_and(|exec| !exec.input(bytes)) {
            self.kill(stream);
            let reason = "the host sent more input than it was granted".into();
            GuestMessage::ExecFailed { stream, reason }.encode(out);
        }
    }

    fn with(&mut self, stream: u32, act: impl FnOnce(&mut Exec)) {
        if let Some(exec) = self.execs.get_mut(&stream) {
            act(exec);
        }
    }

    fn kill(&mut self, stream: u32) {
        if let Some(exec) = self.execs.remove(&stream) {
            exec.kill();
        }
    }

    /// Nobody waits for any of them any more.
    pub fn kill_all(&mut self) {
        std::mem::take(&mut self.execs).values().for_each(Exec::kill);
    }

    /// Takes note that a process has ended. False if it is none of a command's.
    pub fn reaped(&mut self, pid: i32, code: i32, signal: i32) -> bool {
        let exec = self.execs.values_mut().find(|exec| exec.pid() == pid);
        exec.map(|exec| exec.exited(code, signal)).is_some()
    }

    /// Moves input and output, the latter as long as `out` is shorter than `limit`, and tells of ends.
    pub fn turn(&mut self, out: &mut BytesMut, limit: usize) {
        self.execs.retain(|_, exec| !exec.turn(out, limit));
    }

    /// The descriptors to wait for. `room`: whether output can be passed on.
    pub fn interests(&self, room: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.execs.values().flat_map(move |exec| exec.interests(room))
    }
}
