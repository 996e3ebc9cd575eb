//! Process groups, what they run, and what they run with: `[processes]`, `[env]`, signals.

use std::collections::BTreeMap;

use crate::read::{Field, Section};

/// The process groups of a file.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Groups with their command lines, split into words. Empty if the file names none.
    pub commands: BTreeMap<String, Vec<String>>,
}

/// The group of a file that names none.
pub(crate) const DEFAULT_GROUP: &str = "app";

impl Groups {
    /// Every group, by name; never empty.
    pub fn names(&self) -> Vec<String> {
        names(&self.commands)
    }

    /// Whether a part that is for `processes` is for `group` too.
    pub fn covers(&self, processes: &[String], group: &str) -> bool {
        covers(&self.commands, processes, group)
    }

    /// The groups that a section names in `processes`; each must exist.
    pub fn scope(&self, section: &Section<'_>) -> Vec<String> {
        let Some(field) = section.get("processes") else { return Vec::new() };
        let known = self.names();
        for item in field.items().unwrap_or_default() {
            let Some(name) = item.string().filter(|name| !known.contains(name)) else { continue };
            let meant = crate::suggest::closest(&name, known.iter().map(String::as_str));
            let help = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("name it under [processes], or use {}", list(&known)),
            };
            item.bad(format!("there is no process group `{name}`"), help);
        }
        field.strings().unwrap_or_default()
    }

    /// Notes a service that does not say which of the file's groups it is for.
    pub fn need_scope(&self, section: &Section<'_>, scope: &[String]) {
        if scope.is_empty() && !self.commands.is_empty() && section.get("processes").is_none() {
            let message = format!("{} does not say which process group it is for", section.name());
            section.error(message, format!("add `processes = [\"…\"]` with {}", list(&self.names())));
        }
    }
}

pub(crate) fn names(commands: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    if commands.is_empty() { vec![DEFAULT_GROUP.to_owned()] } else { commands.keys().cloned().collect() }
}

/// The default group: `app` if there is one, else the first by name.
pub(crate) fn default_group(commands: &BTreeMap<String, Vec<String>>) -> &str {
    match commands.keys().next() {
        Some(first) if !commands.contains_key(DEFAULT_GROUP) => first,
        _ => DEFAULT_GROUP,
    }
}

pub(crate) fn covers(commands: &BTreeMap<String, Vec<String>>, processes: &[String], group: &str) -> bool {
    if processes.is_empty() { group == default_group(commands) } else { processes.iter().any(|name| name == group) }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// More process groups than this are a mistake.
const MAX_GROUPS: usize = 100;

/// Reads `[processes]`, or the older `[[processes]]` with `name` and `command`.
pub(crate) fn read(top: &Section<'_>) -> Groups {
    let mut groups = Groups::default();
    let Some(field) = top.get("processes") else { return groups };
    if field.is_array() {
        for section in field.sections() {
            let name =
                section.need("name", "add `name = \"web\"`").and_then(|name| name.string().map(|text| (name, text)));
            let command = section.need("command", "add `command = \"…\"`");
            if let (Some((at, name)), Some(command)) = (name, command) {
                add(&mut groups, &at, name, &command);
            }
            section.finish();
        }
    } else if let Some(section) = field.section() {
        for (name, command) in section.entries() {
            add(&mut groups, &command, name, &command);
        }
    }
    groups
}

fn add(groups: &mut Groups, at: &Field<'_>, name: String, command: &Field<'_>) {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(letters) {
        let help = "use 1 to 63 letters, digits, dashes and underscores";
        at.error(format!("{name:?} is not the name of a process group"), help);
        return;
    }
    if groups.commands.len() >= MAX_GROUPS {
        at.error(format!("there are more than {MAX_GROUPS} process groups"), "make several apps of it");
        return;
    }
    let Some(line) = command.string() else { return };
    let Some(words) = shlex::split(&line) else {
        command.bad(
            format!("the command of `{name}` cannot be split into words"),
            "close every quote, and end it with no backslash",
        );
        return;
    };
    if groups.commands.insert(name.clone(), words).is_some() {
        at.error(format!("process group `{name}` is given twice"), "keep one of them");
    }
}

/// Reads `[env]`: a table, or a list of tables.
pub(crate) fn env(field: &Field<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for section in field.sections() {
        for (name, value) in section.entries() {
            if name.is_empty() || name.contains(['=', '\0']) {
                value.error(format!("{name:?} is not the name of an environment variable"), "leave out `=`");
            } else if name.starts_with("FLY_") {
                value.warning(format!("`{name}` belongs to the platform, which sets it itself"), "choose another name");
            }
            match value.scalar() {
                Some(text) if text.contains('\0') => {
                    value.bad(format!("the value of `{name}` holds a zero byte"), "remove it");
                }
                Some(text) => {
                    env.insert(name, text);
                }
                None => {}
            }
        }
    }
    env
}

/// Signals that may ask a program to end.
const SIGNALS: [&str; 9] =
    ["SIGINT", "SIGTERM", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGSTOP", "SIGABRT"];

/// Reads the name of a signal.
pub(crate) fn signal(field: &Field<'_>) -> Option<String> {
    let words: Vec<(&'static str, &'static str)> = SIGNALS.iter().map(|name| (*name, *name)).collect();
    field.word(&words).map(str::to_owned)
}
