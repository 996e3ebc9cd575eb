//! The program that the guest is there for: its process, its output, its control group.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::fd::{AsFd, BorrowedFd},
};

use guest::{Exit, LogSource, TerminalSize};

use crate::{
    boot::Program,
    cgroup::Cgroup,
    environment::CannotRun,
    logs::{LineCutter, LogRing},
    spawn::{self, Start, Streams},
};

/// What is read of one stream at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// The most that is read of one stream before others have their turn.
const TURN_BYTES: usize = 16 * CHUNK_BYTES;

/// The most that a program's last words are read for: what it left running may go on writing.
const LAST_WORDS_BYTES: usize = 1024 * 1024;

/// The size of a terminal that nobody looks at.
const TERMINAL: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// The program while it runs.
pub struct Process {
    pid: i32,
    outputs: Vec<Output>,
    cgroup: Option<Cgroup>,
}

impl Process {
    /// Starts the program.
    pub fn start(program: &Program) -> Result<Self, CannotRun> {
        let cgroup = Cgroup::create("program").ok();
        let started = spawn::start(&Start {
            argv: &program.argv,
            env: &program.env,
            working_dir: &program.working_dir,
            user: &program.user,
            nofile: program.nofile,
            cgroup: cgroup.as_ref().map(Cgroup::door),
            streams: if program.tty { Streams::Terminal(TERMINAL) } else { Streams::Output },
        })?;
        let ends = started.ends;
        let outputs = [Some((ends.stdout, LogSource::Stdout)), ends.stderr.map(|file| (file, LogSource::Stderr))];
        let outputs = outputs.into_iter().flatten().map(|(file, source)| Output::new(file, source)).collect();
        Ok(Self { pid: started.pid, outputs, cgroup })
    }

    /// The number of its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where output comes from.
    pub fn outputs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().map(|output| output.file.as_fd())
    }

    /// Reads the output that is there into `logs`.
    pub fn read(&mut self, logs: &mut LogRing) {
        self.outputs.retain_mut(|output| output.read(logs, TURN_BYTES));
    }

    /// The process has ended: reads the rest of its output.
    pub fn last_words(&mut self, logs: &mut LogRing) {
        for output in &mut self.outputs {
            output.read(logs, LAST_WORDS_BYTES);
            if let Some(line) = output.lines.finish() {
                logs.push(output.source, line);
            }
        }
    }

    /// How it ended. A shell in between turns the kernel's kill into the exit code 137.
    pub fn exit(&self, code: i32, signal: i32) -> Exit {
        let killed = signal == libc::SIGKILL || code == 128 + libc::SIGKILL;
        let oom_killed = killed && self.cgroup.as_ref().is_some_and(|cgroup| cgroup.oom_kills() > 0);
        Exit { code, signal, oom_killed }
    }
}

/// One stream of the program's output.
struct Output {
    file: File,
    source: LogSource,
    lines: LineCutter,
}

impl Output {
    fn new(file: File, source: LogSource) -> Self {
        Self { file, source, lines: LineCutter::default() }
    }

    /// Reads what is there, `most` bytes or a little more. False when nothing will come any more.
    fn read(&mut self, logs: &mut LogRing, most: usize) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        let mut total = 0;
        while total < most {
            match self.file.read(&mut chunk) {
                Ok(length @ 1..) => {
                    total += length;
                    self.lines.cut(&chunk[..length]).into_iter().for_each(|line| logs.push(self.source, line));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A terminal says EIO when its last user has gone.
                Ok(_) | Err(_) => {
                    self.lines.finish().into_iter().for_each(|line| logs.push(self.source, line));
                    return false;
                }
            }
        }
        true
    }
}
