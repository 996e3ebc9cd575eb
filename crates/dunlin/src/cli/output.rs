//! What is printed: data to standard output, talk to standard error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

use super::exit::{Exit, Failure};

/// How a command prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    quiet: bool,
    color: bool,
}

impl Output {
    /// Prints data as JSON or for people, and talks or keeps quiet.
    pub fn new(json: bool, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, quiet, color: !plain && io::stderr().is_terminal() }
    }

    /// Whether data is printed as JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints the command's data: one JSON document, or what people read.
    pub fn data(self, data: &impl Serialize, people: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.emit(&pretty(data)?) } else { self.emit(people().trim_end_matches('\n')) }
    }

    /// Prints one of a sequence of data: a line of JSON, or what people read.
    pub fn item(self, item: &impl Serialize, people: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json { serde_json::to_string(item).map_err(unwritable)? } else { people() };
        self.emit(&text)
    }

    /// Prints text as it is, with a line end.
    pub fn emit(self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            // Whoever read has read enough.
            io::ErrorKind::BrokenPipe => Failure::said(Exit::Success),
            _ => Failure::other(format!("cannot write to standard output: {error}")),
        })
    }

    /// Says something to people, unless they want quiet.
    pub fn say(self, text: impl Display) {
        if !self.quiet {
            self.talk(&text.to_string());
        }
    }

    /// Warns.
    pub fn warn(self, text: impl Display) {
        self.talk(&format!("{} {text}", self.colored("33", "warning:")));
    }

    /// Says what went wrong, and what to do next.
    pub fn failure(self, failure: &Failure) {
        if failure.message.is_empty() {
            return;
        }
        if self.json {
            return self.talk(&serde_json::to_string(&failure.body()).unwrap_or_default());
        }
        self.talk(&format!("{} {}", self.colored("31", "error:"), failure.message.trim_end()));
        if let Some(hint) = &failure.hint {
            self.talk(&format!("{} {hint}", self.colored("36", "hint:")));
        }
    }

    fn talk(self, text: &str) {
        // Where nobody listens nothing needs to be said.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    fn colored(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[1;{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn pretty(data: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(data).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::other(format!("the answer cannot be written as JSON: {error}"))
}

/// Rows under their headings, in columns.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| printable(&cell))).collect();
    rows.insert(0, headings.map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Names and values, one a line.
pub fn list<'a>(entries: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let entries: Vec<(&str, String)> = entries.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", printable(value));
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The text without what would move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How long ago a moment was, in words; `now_ms` and `then_ms` are milliseconds since 1970.
pub fn ago(now_ms: u64, then_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) / 1000 {
        0..=1 => "just now".to_owned(),
        seconds @ 2..=119 => format!("{seconds}s ago"),
        seconds @ 120..=7_199 => format!("{}m ago", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}
