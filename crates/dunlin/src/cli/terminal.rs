//! The terminal: asking people, and handing it to a command in a machine.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::exit::{Exit, Failure};

/// Whether a person can be asked.
pub fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Lets a person agree to a destruction by typing the name of what is destroyed.
///
/// # Errors
/// If the person does not, or there is none.
pub fn confirm(name: &str, what: &str) -> Result<(), Failure> {
    if !is_interactive() {
        return Err(Failure::usage(format!("{what}, so it must be agreed to, and there is no terminal to ask at"))
            .hint("add --yes"));
    }
    let mut answer = String::new();
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{what}. Type its name to go on: ").and_then(|()| stderr.flush());
    asked.and_then(|()| io::stdin().lock().read_line(&mut answer)).map_err(unreadable)?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::new(Exit::Interrupted, "that is not its name; nothing was changed"))
}

/// Longest secret that is read.
const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Reads a secret: from a person without showing it, or all of standard input, without its last line end.
pub fn read_secret(prompt: &str) -> Result<String, Failure> {
    let mut secret = String::new();
    if is_interactive() {
        let mut stderr = io::stderr().lock();
        write!(stderr, "{prompt}: ").and_then(|()| stderr.flush()).map_err(unreadable)?;
        let hidden = Mode::change(|mode| mode.local_modes.remove(LocalModes::ECHO))?;
        let read = io::stdin().lock().read_line(&mut secret);
        drop(hidden);
        let _ = writeln!(stderr);
        read.map_err(unreadable)?;
    } else {
        secret = read_input()?;
    }
    Ok(secret.trim_end_matches(['\r', '\n']).to_owned())
}

/// All of standard input.
pub fn read_input() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().lock().take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_SECRET_BYTES {
        return Err(Failure::usage("standard input is longer than 1 MiB"));
    }
    Ok(text)
}

fn unreadable(error: io::Error) -> Failure {
    Failure::other(format!("cannot read standard input: {error}"))
}

/// The terminal's mode while it is changed; dropping it brings the old one back.
pub struct Mode {
    before: Termios,
}

impl Mode {
    /// Hands every key to the program as it is pressed.
    pub fn raw() -> Result<Self, Failure> {
        Self::change(Termios::make_raw)
    }

    fn change(change: impl FnOnce(&mut Termios)) -> Result<Self, Failure> {
        let failed = |error| Failure::other(format!("the terminal cannot be used: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut mode = before.clone();
        change(&mut mode);
        tcsetattr(io::stdin(), OptionalActions::Now, &mode).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Columns and rows of the terminal; 80 and 24 if it does not say.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}
