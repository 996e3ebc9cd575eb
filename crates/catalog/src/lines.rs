//! Pictures as text, on the disk and on the wire: JSON, one document a line.
//!
//! ```text
//!  {"whole":null}      what is not told again before the next generation is no more
//!  {"row":{…}}         a machine
//!  {"gone":"0123…"}    a machine that is no more
//!  {"generation":7}    all above counts
//! ```

use std::{collections::HashSet, sync::Arc};

use model::MachineId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AppRoute, Change, MachineRoute, Quarantined};

/// A line as written.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Written<'a> {
    Whole(()),
    Row(&'a MachineRoute),
    Gone(&'a MachineId),
    Generation(u64),
}

/// A line as read.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Whole(()),
    Row(Box<MachineRoute>),
    Gone(MachineId),
    Generation(u64),
}

/// Adds a line.
pub(crate) fn put(lines: &mut Vec<u8>, line: &Written<'_>) {
    serde_json::to_writer(&mut *lines, line).expect("a row is plain data with text keys");
    lines.push(b'\n');
}

/// Adds the machines that an app no longer has. Those of all apps come before any row: a machine may have moved.
pub(crate) fn put_gone(lines: &mut Vec<u8>, change: &Change<AppRoute>) {
    let (before, now): (&AppRoute, &[_]) = match change {
        Change::Came(_) => return,
        Change::Became { before, now } => (before, &now.machines),
        Change::Went(before) => (before, &[]),
    };
    let stay: HashSet<&MachineId> = now.iter().map(|machine| &machine.id).collect();
    let gone = before.machines.iter().filter(|machine| !stay.contains(&machine.id));
    gone.for_each(|machine| put(lines, &Written::Gone(&machine.id)));
}

/// Adds the machines of an app that are new, or have changed.
pub(crate) fn put_rows(lines: &mut Vec<u8>, change: &Change<AppRoute>) {
    let (before, now): (&[_], _) = match change {
        Change::Came(now) => (&[], now),
        Change::Became { before, now } => (&before.machines, now),
        Change::Went(_) => return,
    };
    let known: HashSet<*const MachineRoute> = before.iter().map(Arc::as_ptr).collect();
    let new = now.machines.iter().filter(|machine| !known.contains(&Arc::as_ptr(machine)));
    new.for_each(|machine| put(lines, &Written::Row(machine)));
}

impl Quarantined {
    /// A line that cannot be read, as far as it can be told what it is about.
    pub(crate) fn unreadable(line: &[u8], error: &serde_json::Error) -> Self {
        let row = serde_json::from_slice::<Value>(line).unwrap_or_default();
        let word = |key: &str| row.get("row")?.get(key)?.as_str().map(str::to_owned);
        let (app, machine) = (word("app").and_then(|app| app.parse().ok()), word("id").and_then(|id| id.parse().ok()));
        Self { app, machine, reason: format!("its row cannot be read: {error}") }
    }
}
