//! Reading a spanned TOML tree key by key. What is wrong is noted with its place and reading goes on, so that one
//! pass finds every problem; a key that nobody asked for is noted when its section is finished.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::Range,
    time::Duration,
};

use model::GoDuration;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    diagnostic::{Diagnostics, Note, Severity},
    suggest::closest,
};

/// The text that is read, and what is wrong with it.
pub(crate) struct Source<'t> {
    text: &'t str,
    found: RefCell<Diagnostics>,
    errors: Cell<usize>,
}

impl<'t> Source<'t> {
    pub fn new(text: &'t str, file: &str) -> Self {
        Self { text, found: RefCell::new(Diagnostics::new(file)), errors: Cell::new(0) }
    }

    /// What has been found, in the order of the file.
    pub fn into_diagnostics(self) -> Diagnostics {
        let mut found = self.found.into_inner();
        found.sort();
        found
    }

    pub fn has_errors(&self) -> bool {
        self.errors.get() > 0
    }

    fn is_full(&self) -> bool {
        self.found.borrow().is_full()
    }

    pub fn error(&self, at: Range<usize>, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.errors.set(self.errors.get() + 1);
        self.note(Severity::Error, at, path, message.into(), help.into());
    }

    pub fn warning(&self, at: Range<usize>, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.note(Severity::Warning, at, path, message.into(), help.into());
    }

    fn note(&self, severity: Severity, at: Range<usize>, path: &str, message: String, help: String) {
        let note = Note { severity, path: path.to_owned(), message, help };
        self.found.borrow_mut().push(self.text, at, note);
    }
}

/// How a bare number in the place of a duration is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BareNumber {
    Seconds,
    Milliseconds,
    Nanoseconds,
}

/// A table that is being read.
pub(crate) struct Section<'t> {
    pub source: &'t Source<'t>,
    pub path: String,
    /// Where the section begins: its header, or its whole text if it is inline.
    pub span: Range<usize>,
    table: &'t DeTable<'t>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub fn root(source: &'t Source<'t>, table: &'t DeTable<'t>) -> Self {
        Self { source, path: String::new(), span: 0..0, table, asked: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &'static str) -> Option<Field<'t>> {
        self.asked.borrow_mut().insert(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.field(name.get_ref(), name.span(), value))
    }

    /// The value of the first of several spellings of a key; a second one is an error.
    pub fn get_alias(&self, keys: &[&'static str]) -> Option<Field<'t>> {
        let mut fields = keys.iter().filter_map(|key| self.get(key));
        let first = fields.next();
        for second in fields {
            second.error("the key is given twice, in two spellings", "keep one of them");
        }
        first
    }

    /// The value of a key that must be there.
    pub fn need(&self, key: &'static str, why: &str) -> Option<Field<'t>> {
        let field = self.get(key);
        if field.is_none() {
            self.error(format!("`{key}` is missing in {}", self.name()), why);
        }
        field
    }

    /// Every entry, for tables whose keys are names.
    pub fn entries(&self) -> Vec<(String, Field<'t>)> {
        self.in_order(|_| true)
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for (key, field) in self.in_order(|key| !asked.contains(key)) {
            // Looking for the nearest key takes time, and is for nothing once nothing more is shown.
            let known = asked.iter().copied().filter(|_| !self.source.is_full());
            let help = match closest(&key, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "remove it, or check its spelling and the section it stands in".to_owned(),
            };
            field.error(format!("`{key}` is not a key of {}", self.name()), help);
        }
    }

    /// The section as people name it.
    pub fn name(&self) -> String {
        if self.path.is_empty() { "the file's top level".to_owned() } else { format!("[{}]", self.path) }
    }

    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.source.error(self.span.clone(), &self.path, message, help);
    }

    pub fn warning(&self, message: impl Into<String>, help: impl Into<String>) {
        self.source.warning(self.span.clone(), &self.path, message, help);
    }

    fn in_order(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Field<'t>)> {
        let mut entries: Vec<_> = self.table.iter().filter(|(name, _)| wanted(name.get_ref())).collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
            .into_iter()
            .map(|(name, value)| (name.get_ref().to_string(), self.field(name.get_ref(), name.span(), value)))
            .collect()
    }

    fn field(&self, key: &str, at: Range<usize>, value: &'t Spanned<DeValue<'t>>) -> Field<'t> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Field { source: self.source, path, key_span: at, value }
    }
}

/// A value that is being read.
#[derive(Clone)]
pub(crate) struct Field<'t> {
    pub source: &'t Source<'t>,
    pub path: String,
    key_span: Range<usize>,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Field<'t> {
    /// A text.
    pub fn string(&self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.expected("a text in quotes"),
        }
    }

    /// A text that a type of the model accepts.
    pub fn parsed<T>(&self) -> Option<T>
    where
        T: std::str::FromStr<Err = model::InvalidName>,
    {
        let text = self.string()?;
        text.parse().map_err(|error: model::InvalidName| self.bad(error.to_string(), error.rule)).ok()
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.string()?;
        let value = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if value.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let meant = closest(&text, words.iter().map(|(word, _)| *word));
            let help = meant.map_or_else(String::new, |word| format!("did you mean `{word}`? "));
            self.bad(format!("{text:?} is not a value of `{}`", self.path), format!("{help}use {}", all.join(", ")));
        }
        value
    }

    /// Yes or no.
    pub fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("true or false"),
        }
    }

    /// A whole number in a range.
    pub fn integer(&self, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.expected("a whole number");
        };
        let value = i64::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let help = format!("use a whole number from {} to {}", range.start(), range.end());
            self.bad(format!("{number} is out of range for `{}`", self.path), help);
        }
        value
    }

    /// A port.
    pub fn port(&self) -> Option<u16> {
        self.integer(1..=65_535).and_then(|port| u16::try_from(port).ok())
    }

    /// A number of things.
    pub fn count(&self, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        self.integer(i64::from(*range.start())..=i64::from(*range.end())).and_then(|count| u32::try_from(count).ok())
    }

    /// A duration; what a bare number means depends on the key.
    pub fn duration(&self, bare: BareNumber) -> Option<GoDuration> {
        match self.value.get_ref() {
            DeValue::String(text) => {
                let help = "write a number and a unit, such as \"10s\", \"1m30s\" or \"500ms\"";
                text.parse().map_err(|_| self.bad(format!("{text:?} is not a duration"), help)).ok()
            }
            DeValue::Integer(_) => {
                let number = self.integer(0..=i64::MAX)?.unsigned_abs();
                Some(GoDuration(match bare {
                    BareNumber::Seconds => Duration::from_secs(number),
                    BareNumber::Milliseconds => Duration::from_millis(number),
                    BareNumber::Nanoseconds => Duration::from_nanos(number),
                }))
            }
            _ => self.expected("a duration such as \"10s\""),
        }
    }

    /// A text, a number or a truth value, as text.
    pub fn scalar(&self) -> Option<String> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(
                i64::from_str_radix(number.as_str(), number.radix())
                    .map_or_else(|_| number.to_string(), |n| n.to_string()),
            ),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(value) => Some(value.to_string()),
            DeValue::Datetime(moment) => Some(moment.to_string()),
            DeValue::Array(_) | DeValue::Table(_) => self.expected("a text, a number, true or false"),
        }
    }

    /// A decimal or whole number.
    pub fn number(&self) -> Option<f64> {
        let number = match self.value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n as f64),
            DeValue::Float(number) => number.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        number.filter(|number: &f64| number.is_finite()).or_else(|| self.expected("a number"))
    }

    pub fn is_number(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Integer(_) | DeValue::Float(_))
    }

    pub fn is_string(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::String(_))
    }

    pub fn is_boolean(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Boolean(_))
    }

    pub fn is_array(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Array(_))
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Field<'t>>> {
        match self.value.get_ref() {
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, value)| Field {
                        source: self.source,
                        path: format!("{}[{index}]", self.path),
                        key_span: value.span(),
                        value,
                    })
                    .collect(),
            ),
            _ => self.expected("a list in square brackets"),
        }
    }

    /// A list of texts.
    pub fn strings(&self) -> Option<Vec<String>> {
        Some(self.items()?.iter().filter_map(Field::string).collect())
    }

    /// A list of texts, or one text that is the whole list.
    pub fn string_or_strings(&self) -> Option<Vec<String>> {
        if self.is_string() { Some(vec![self.string()?]) } else { self.strings() }
    }

    /// A table.
    pub fn section(&self) -> Option<Section<'t>> {
        match self.value.get_ref() {
            DeValue::Table(table) => Some(Section {
                source: self.source,
                path: self.path.clone(),
                span: self.key_span.clone(),
                table,
                asked: RefCell::default(),
            }),
            _ => self.expected("a table"),
        }
    }

    /// A list of tables, or one table that is the whole list.
    pub fn sections(&self) -> Vec<Section<'t>> {
        if self.is_array() {
            self.items().unwrap_or_default().iter().filter_map(Field::section).collect()
        } else {
            self.section().into_iter().collect()
        }
    }

    /// Whether the value asks for anything: `false`, `0` and what is empty do not.
    pub fn says_something(&self) -> bool {
        match self.value.get_ref() {
            DeValue::Boolean(value) => *value,
            DeValue::Integer(number) => {
                number.as_str().bytes().any(|digit| digit != b'0' && digit != b'-' && digit != b'+')
            }
            DeValue::String(text) => !text.is_empty(),
            DeValue::Array(items) => !items.is_empty(),
            DeValue::Table(table) => !table.is_empty(),
            DeValue::Float(_) | DeValue::Datetime(_) => true,
        }
    }

    /// Notes that the key should not stand there.
    pub fn error(&self, message: impl Into<String>, help: impl Into<String>) {
        self.source.error(self.key_span.clone(), &self.path, message, help);
    }

    /// Notes that the key has less effect than it asks for.
    pub fn warning(&self, message: impl Into<String>, help: impl Into<String>) {
        self.source.warning(self.key_span.clone(), &self.path, message, help);
    }

    /// Notes that the value is not acceptable.
    pub fn bad(&self, message: impl Into<String>, help: impl Into<String>) {
        self.source.error(self.value.span(), &self.path, message, help);
    }

    fn expected<T>(&self, wanted: &str) -> Option<T> {
        self.bad(format!("`{}` is {}, but must be {wanted}", self.path, self.kind()), format!("write {wanted}"));
        None
    }

    fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }
}
