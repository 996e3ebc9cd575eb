//! The configuration as a whole: reading it, and the rules across its sections.

use std::collections::BTreeMap;

use model::{
    AppName, GoDuration, Region,
    machine::{Check, Guest, Init, Mount, Restart, Service, Static},
};
use serde::Serialize;
use serde_json::Value;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    check, compute,
    deploy::{self, Build, Deploy},
    diagnostic::Diagnostics,
    processes::{self, Groups},
    read::{BareNumber, Field, Section, Source},
    service,
    storage::{self, FileSection},
    unsupported,
};

/// A part of the configuration, and the process groups that it is for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scoped<T> {
    /// The groups; none named means the default group (of a `[[vm]]`: every group).
    pub processes: Vec<String>,
    /// The part.
    pub value: T,
}

/// An app's configuration, free of errors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AppConfig {
    /// The app.
    pub app: Option<AppName>,
    /// Where its machines go.
    pub primary_region: Option<Region>,
    /// How to ask the program to end, such as `SIGTERM`.
    pub kill_signal: Option<String>,
    /// How long to wait before it is killed.
    pub kill_timeout: Option<GoDuration>,
    /// Where its image comes from.
    pub build: Build,
    /// How a release is rolled out.
    pub deploy: Deploy,
    /// Environment of every machine.
    pub env: BTreeMap<String, String>,
    /// Process groups with their command lines, split into words; an empty one runs what the image says.
    pub processes: BTreeMap<String, Vec<String>>,
    /// Volumes.
    pub mounts: Vec<Scoped<Mount>>,
    /// `[http_service]`, as the service on the public ports 80 and 443 that it stands for.
    pub http_service: Option<Scoped<Service>>,
    /// `[[services]]`.
    pub services: Vec<Scoped<Service>>,
    /// Health checks that do not take part in routing.
    pub checks: BTreeMap<String, Scoped<Check>>,
    /// Files written into the machines.
    pub files: Vec<Scoped<FileSection>>,
    /// Directories of the guest that are served without the program.
    pub statics: Vec<Static>,
    /// What to do when the program ends by itself.
    pub restart: Vec<Scoped<Restart>>,
    /// Sizes of virtual machines.
    pub vm: Vec<Scoped<Guest>>,
    /// What to run instead of what the image says (`[experimental] exec, entrypoint, cmd`).
    pub init: Init,
    definition: Value,
    warnings: Diagnostics,
}

/// A longer file is not an app's configuration.
const MAX_BYTES: usize = 1 << 20;

impl AppConfig {
    /// Reads a configuration file. What is returned has no errors; see [`AppConfig::warnings`] for the rest.
    ///
    /// # Errors
    /// Everything that is wrong with the file, warnings included.
    pub fn parse(text: &str) -> Result<Self, Diagnostics> {
        Self::parse_file(text, "fly.toml")
    }

    /// The same, for a file whose problems are told under this name.
    ///
    /// # Errors
    /// Everything that is wrong with the file, warnings included.
    pub fn parse_file(text: &str, file: &str) -> Result<Self, Diagnostics> {
        let source = Source::new(text, file);
        if text.len() > MAX_BYTES {
            let help = "put large content into the image instead";
            source.error(0..0, "", format!("the file is larger than {MAX_BYTES} bytes"), help);
            return Err(source.into_diagnostics());
        }
        let (tree, mistakes) = DeTable::parse_recoverable(text);
        for mistake in &mistakes {
            let help = "correct the TOML; the rest of the file is read once it is whole";
            source.error(mistake.span().unwrap_or(0..0), "", mistake.message(), help);
        }
        // A tree that was patched up around a mistake would bring up problems that are none.
        let mut config = if mistakes.is_empty() { read(&source, tree.get_ref()) } else { Self::default() };
        let failed = source.has_errors();
        let found = source.into_diagnostics();
        if failed {
            return Err(found);
        }
        config.definition = definition(tree.get_ref());
        config.warnings = found;
        Ok(config)
    }

    /// What the file asks for that has less effect than it seems, or is unwise.
    pub fn warnings(&self) -> &Diagnostics {
        &self.warnings
    }

    /// The file as JSON: what it says, without defaults.
    pub fn definition(&self) -> &Value {
        &self.definition
    }
}

fn read<'t>(source: &'t Source<'t>, tree: &'t DeTable<'t>) -> AppConfig {
    let top = Section::root(source, tree);
    let groups = processes::read(&top);
    let mut config = AppConfig {
        app: top.get("app").and_then(|field| field.parsed()),
        primary_region: top.get("primary_region").and_then(|field| field.parsed()),
        kill_signal: top.get("kill_signal").and_then(|field| processes::signal(&field)),
        kill_timeout: top.get("kill_timeout").and_then(|field| kill_timeout(&field)),
        build: top.get("build").and_then(|field| field.section()).map(deploy::build).unwrap_or_default(),
        deploy: top.get("deploy").and_then(|field| field.section()).map(deploy::deploy).unwrap_or_default(),
        env: top.get("env").map(|field| processes::env(&field)).unwrap_or_default(),
        mounts: storage::mounts(&top, &groups),
        http_service: service::http_service(&top, &groups),
        services: service::services(&top, &groups),
        files: storage::files(&top, &groups),
        statics: storage::statics(&top),
        restart: compute::restart(&top, &groups),
        vm: compute::vm(&top, &groups),
        init: top.get("experimental").and_then(|field| field.section()).map(compute::experimental).unwrap_or_default(),
        ..AppConfig::default()
    };
    let port = config.http_service.as_ref().map(|service| service.value.internal_port);
    config.checks = check::named(&top, &groups, port);
    check_one_mount_per_group(&top, &groups, &config.mounts);
    config.processes = groups.commands;
    unsupported::note(&top, unsupported::TOP);
    top.finish();
    config
}

/// The longest time a program gets to end.
const MAX_KILL_TIMEOUT: GoDuration = GoDuration::from_secs(300);

fn kill_timeout(field: &Field<'_>) -> Option<GoDuration> {
    let timeout = field.duration(BareNumber::Seconds)?;
    if timeout > MAX_KILL_TIMEOUT {
        field.bad(format!("`kill_timeout` is {timeout}, but may be {MAX_KILL_TIMEOUT} at most"), "use 300 or less");
        return None;
    }
    Some(timeout)
}

/// A machine has one volume at most.
fn check_one_mount_per_group(top: &Section<'_>, groups: &Groups, mounts: &[Scoped<Mount>]) {
    for group in groups.names() {
        let of_group: Vec<_> = mounts.iter().filter(|mount| groups.covers(&mount.processes, &group)).collect();
        let (Some(second), Some(field)) = (of_group.get(1), top.get_alias(&["mounts"]).or_else(|| top.get("mount")))
        else {
            continue;
        };
        let message = format!(
            "process group `{group}` has {} mounts, but a machine can have only one (the second is `{}`)",
            of_group.len(),
            second.value.name
        );
        field.error(message, "mount one volume and keep both directories in it, or give each group its own mount");
    }
}

/// The tree as JSON.
fn definition(table: &DeTable<'_>) -> Value {
    Value::Object(table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value))).collect())
}

fn json(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map(Value::from).unwrap_or_default()
        }
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().map(Value::from).unwrap_or_default(),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(moment) => Value::from(moment.to_string()),
        DeValue::Array(items) => items.iter().map(json).collect(),
        DeValue::Table(table) => definition(table),
    }
}
