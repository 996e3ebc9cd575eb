//! One command beside the program: its streams, its credit, its end.
//!
//! Output goes out only as far as the host has granted; what a command may not write yet stays in its pipe and
//! holds it up, not the channel. Input works the same way in the other direction.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use bytes::{Buf, Bytes, BytesMut};
use guest::{GuestMessage, INITIAL_WINDOW_BYTES, TerminalSize};
use nix::poll::PollFlags;

use crate::{processes, spawn::Started};

/// The most that one message carries, and the least input that is worth a credit message by itself.
const CHUNK_BYTES: usize = 32 * 1024;

/// What ends the input of a terminal: control-D.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// A command under way.
pub struct Exec {
    stream: u32,
    pid: i32,
    stdin: Option<File>,
    /// Input that the command has not taken yet.
    pending: BytesMut,
    /// Input ends after what is pending.
    eof: bool,
    /// Input taken, and the host not told yet.
    taken: u32,
    stdout: Option<File>,
    stderr: Option<File>,
    terminal: bool,
    /// How much more output the host takes.
    window: u32,
    /// Exit code and signal.
    exit: Option<(i32, i32)>,
}

impl Exec {
    /// The command of a stream, just started.
    pub fn new(stream: u32, started: Started, terminal: bool) -> Self {
        Self {
            stream,
            pid: started.pid,
            stdin: started.ends.stdin,
            pending: BytesMut::new(),
            eof: false,
            taken: 0,
            stdout: Some(started.ends.stdout),
            stderr: started.ends.stderr,
            terminal,
            window: INITIAL_WINDOW_BYTES,
            exit: None,
        }
    }

    /// The number of its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The descriptors to wait for. `room`: whether output can be passed on.
    pub fn interests(&self, room: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let input = self.stdin.iter().filter(|_| !self.pending.is_empty());
        let output = self.stdout.iter().chain(&self.stderr).filter(move |_| room && self.window > 0);
        let input = input.map(|file| (file.as_fd(), PollFlags::POLLOUT));
        input.chain(output.map(|file| (file.as_fd(), PollFlags::POLLIN)))
    }

    /// Bytes for its input. False if the host sends more than it was granted.
    pub fn input(&mut self, bytes: &Bytes) -> bool {
        if self.stdin.is_none() || self.eof {
            self.taken = self.taken.saturating_add(bytes.len() as u32);
        } else {
            self.pending.extend_from_slice(bytes);
        }
        self.pending.len() <= INITIAL_WINDOW_BYTES as usize
    }

    /// Its input ends.
    pub fn end_input(&mut self) {
        self.eof = true;
    }

    /// The host takes so much more output.
    pub fn grant(&mut self, bytes: u32) {
        self.window = self.window.saturating_add(bytes);
    }

    /// Its terminal has another size.
    pub fn resize(&self, size: TerminalSize) {
        let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let Some(terminal) = self.stdout.as_ref().filter(|_| self.terminal) {
            // SAFETY: the request reads one winsize from where its argument points.
            unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        }
    }

    /// Its process has ended.
    pub fn exited(&mut self, code: i32, signal: i32) {
        self.exit = Some((code, signal));
    }

    /// Sends it, and what it started in the foreground, a signal.
    pub fn signal(&self, signal: i32) {
        if self.exit.is_none() {
            // SAFETY: plain numbers; the process has not been reaped, so no other has its number.
            unsafe { libc::killpg(self.pid, signal) };
        }
    }

    /// Kills it and everything else of its session.
    pub fn kill(&self) {
        processes::kill_session(self.pid);
    }

    /// Moves what can be moved without waiting; output as long as `out` is shorter than `limit`. True when the
    /// command has ended and everything has been told.
    pub fn turn(&mut self, out: &mut BytesMut, limit: usize) -> bool {
        self.write_input();
        self.credit_input(out);
        let mut drained = true;
        for error in [false, true] {
            drained &= self.read_output(error, out, limit);
        }
        let exit = self.exit.filter(|_| drained);
        if let Some((code, signal)) = exit {
            GuestMessage::ExecExit { stream: self.stream, code, signal }.encode(out);
        }
        exit.is_some()
    }

    fn write_input(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        while !self.pending.is_empty() {
            match stdin.write(&self.pending) {
                Ok(length) => {
                    self.pending.advance(length);
                    self.taken = self.taken.saturating_add(length as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.close_input(),
            }
        }
        if self.eof {
            if self.terminal {
                let _ = stdin.write(END_OF_TRANSMISSION);
            }
            self.stdin = None;
        }
    }

    /// Nobody reads it any more. Input that still comes is taken and dropped.
    fn close_input(&mut self) {
        self.stdin = None;
        self.taken = self.taken.saturating_add(self.pending.len() as u32);
        self.pending.clear();
    }

    fn credit_input(&mut self, out: &mut BytesMut) {
        let worth_it = self.taken as usize >= CHUNK_BYTES || self.pending.is_empty();
        if self.taken > 0 && worth_it {
            let bytes = std::mem::take(&mut self.taken);
            GuestMessage::ExecCredit { stream: self.stream, bytes }.encode(out);
        }
    }

    /// True when there is nothing more to read for now, or ever.
    fn read_output(&mut self, error: bool, out: &mut BytesMut, limit: usize) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        let file = if error { &mut self.stderr } else { &mut self.stdout };
        while let Some(open) = file {
            let most = CHUNK_BYTES.min(self.window as usize);
            if most == 0 || out.len() >= limit {
                return false;
            }
            match open.read(&mut chunk[..most]) {
                Ok(length @ 1..) => {
                    self.window -= length as u32;
                    let (stream, bytes) = (self.stream, Bytes::copy_from_slice(&chunk[..length]));
                    let message = if error {
                        GuestMessage::ExecErr { stream, bytes }
                    } else {
                        GuestMessage::ExecOut { stream, bytes }
                    };
                    message.encode(out);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A terminal says EIO when its last user has gone.
                Ok(_) | Err(_) => *file = None,
            }
        }
        true
    }
}
