//! Problems of a configuration file, all of them together, each with its line.

use std::{error::Error, fmt, ops::Range};

use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, with less effect than it asks for.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key, such as `http_service.checks[0].interval`; empty if the file as a whole is meant.
    pub path: String,
    /// What is wrong, and why.
    pub message: String,
    /// What to do.
    pub help: String,
    /// The line's text.
    pub source: String,
    /// How many characters of the line are meant.
    #[serde(skip)]
    pub width: usize,
}

/// Every problem of one file, in the order of its lines. At most [`Diagnostics::LIMIT`] are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnostics {
    file: String,
    items: Vec<Diagnostic>,
    omitted: usize,
}

impl Diagnostics {
    /// More than this many problems help nobody; the rest is counted.
    pub const LIMIT: usize = 100;

    /// An empty list for a file of this name.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// The same problems, told of a file of another name.
    pub fn in_file(mut self, file: &str) -> Self {
        file.clone_into(&mut self.file);
        self
    }

    /// The problems, in the order of their lines.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many there are, those left out included.
    pub fn len(&self) -> usize {
        self.items.len() + self.omitted
    }

    /// Whether one of them makes the file unusable.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Adds a problem at a range of bytes of `text`.
    pub(crate) fn push(&mut self, text: &str, at: Range<usize>, note: Note) {
        if self.is_full() {
            self.omitted += 1;
            // A warning must not hide why the file is refused.
            if note.severity == Severity::Error
                && let Some(warning) = self.items.iter_mut().rev().find(|item| item.severity == Severity::Warning)
            {
                *warning = Diagnostic::new(text, at, note);
            }
            return;
        }
        self.items.push(Diagnostic::new(text, at, note));
    }

    /// Whether what comes now is only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.items.len() >= Self::LIMIT
    }

    /// Puts the problems in the order of the file.
    pub(crate) fn sort(&mut self) {
        self.items.sort_by_key(|a| (a.line, a.column, a.severity));
    }
}

/// What a reader has to say about a range of the text.
pub(crate) struct Note {
    pub severity: Severity,
    pub path: String,
    pub message: String,
    pub help: String,
}

/// Where a range begins, for people.
struct Place<'t> {
    line: usize,
    column: usize,
    source: &'t str,
    width: usize,
}

impl<'t> Place<'t> {
    fn of(text: &'t str, at: Range<usize>) -> Self {
        let start = floor_boundary(text, at.start);
        let end = floor_boundary(text, at.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            source: text[line_start..line_end].trim_end_matches('\r'),
            width: text[start..end.min(line_end)].trim_end().chars().count().max(1),
        }
    }
}

/// The last character boundary at or before `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

/// A line longer than this is cut where it is shown; so is a key that nobody could have meant.
const SHOWN_CHARACTERS: usize = 160;

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            item.show(f, &self.file)?;
        }
        if self.omitted > 0 {
            writeln!(f, "\n… and {} more", self.omitted)?;
        }
        Ok(())
    }
}

impl Diagnostic {
    fn new(text: &str, at: Range<usize>, note: Note) -> Self {
        let place = Place::of(text, at);
        Self {
            severity: note.severity,
            line: place.line,
            column: place.column,
            path: note.path,
            message: note.message,
            help: note.help,
            source: place.source.to_owned(),
            width: place.width,
        }
    }

    fn show(&self, f: &mut fmt::Formatter<'_>, file: &str) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{file}:{}: {severity}: {}", self.line, printable(&self.message))?;
        let gutter = self.line.to_string();
        let blank = " ".repeat(gutter.len());
        let source = printable(&self.source.replace('\t', " "));
        writeln!(f, "  {gutter} | {source}")?;
        let visible = SHOWN_CHARACTERS.saturating_sub(self.column - 1).min(self.width);
        if visible > 0 && !source.is_empty() {
            writeln!(f, "  {blank} | {}{}", " ".repeat(self.column - 1), "^".repeat(visible))?;
        }
        if !self.help.is_empty() {
            writeln!(f, "  {blank} = {}", printable(&self.help))?;
        }
        Ok(())
    }
}

/// The text cut to a bearable length, without characters that would move a terminal's cursor.
fn printable(text: &str) -> String {
    let cut = text.chars().count() > 4 * SHOWN_CHARACTERS;
    let mut shown: String =
        text.chars().take(4 * SHOWN_CHARACTERS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if cut {
        shown.push('…');
    }
    shown
}

impl Error for Diagnostics {}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(severity: Severity) -> Note {
        Note { severity, path: "a".into(), message: "bad".into(), help: "mend it".into() }
    }

    #[test]
    fn a_problem_shows_its_line_and_the_place_in_it() {
        let text = "a = 1\nä = \"ö\"\nc = 3\n";
        let mut found = Diagnostics::new("fly.toml");
        let start = text.find('"').unwrap();
        found.push(text, start..start + 4, note(Severity::Error));
        let shown = found.to_string();
        assert_eq!(shown, "fly.toml:2: error: bad\n  2 | ä = \"ö\"\n    |     ^^^\n    = mend it\n");
    }

    #[test]
    fn a_place_past_the_end_or_inside_a_character_does_no_harm() {
        let mut found = Diagnostics::new("fly.toml");
        found.push("ä", 1..99, note(Severity::Error));
        found.push("", 5..5, note(Severity::Error));
        assert_eq!(found.iter().map(|item| (item.line, item.column)).collect::<Vec<_>>(), [(1, 1), (1, 1)]);
    }

    #[test]
    fn an_error_is_kept_even_among_countless_warnings() {
        let mut found = Diagnostics::new("fly.toml");
        for _ in 0..Diagnostics::LIMIT {
            found.push("a", 0..1, note(Severity::Warning));
        }
        found.push("a", 0..1, note(Severity::Error));
        assert!(found.has_errors());
        assert_eq!(found.len(), Diagnostics::LIMIT + 1);
        assert!(found.to_string().ends_with("… and 1 more\n"));
    }
}
