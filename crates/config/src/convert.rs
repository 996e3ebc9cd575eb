//! From the configuration file to the machines: one configuration per process group.

use std::collections::BTreeMap;

use model::machine::{Check, FileSpec, Guest, Init, MachineConfig, Service, StopConfig};
use thiserror::Error;

use crate::{
    document::{AppConfig, Scoped},
    processes,
    storage::{FileSection, FileSource},
};

/// Why a configuration does not make a machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// The file has no such process group.
    #[error("there is no process group `{group}`; the configuration has {known}")]
    UnknownGroup {
        /// The group asked for.
        group: String,
        /// The groups that exist.
        known: String,
    },
    /// The content of a file has not been put in.
    #[error(
        "[[files]] {guest_path}: the content of {local_path:?} is not part of the configuration; deploy with `dunlin \
         deploy`, which reads it, or give raw_value or secret_name"
    )]
    LocalFile {
        /// Where it is to be written.
        guest_path: String,
        /// Where it was to be read.
        local_path: String,
    },
}

impl AppConfig {
    /// The process groups, by name; `app` alone if the file names none.
    pub fn groups(&self) -> Vec<String> {
        processes::names(&self.processes)
    }

    /// The group that parts belong to which name none: `app` if there is one, else the first by name.
    pub fn default_group(&self) -> &str {
        processes::default_group(&self.processes)
    }

    /// The configuration of the machines of a group that run this image.
    ///
    /// # Errors
    /// If there is no such group, or a file's content is still to be read.
    pub fn machine_config(&self, group: &str, image: &str) -> Result<MachineConfig, ConvertError> {
        if !self.groups().iter().any(|name| name == group) {
            let known = self.groups().join(", ");
            return Err(ConvertError::UnknownGroup { group: group.to_owned(), known });
        }
        Ok(MachineConfig {
            image: image.to_owned(),
            env: self.group_env(group),
            init: self.group_init(group),
            guest: self.group_guest(group),
            metadata: metadata(group),
            services: self.group_services(group),
            checks: self.group_checks(group),
            files: self.group_files(group)?,
            statics: self.statics.clone(),
            mounts: self.of_group(&self.mounts, group).cloned().collect(),
            restart: self.of_group(&self.restart, group).next().cloned().unwrap_or_default(),
            stop_config: StopConfig {
                signal: self.kill_signal.clone(),
                timeout: self.kill_timeout,
                ..StopConfig::default()
            },
            ..MachineConfig::default()
        })
    }

    fn of_group<'s, T>(&'s self, parts: &'s [Scoped<T>], group: &'s str) -> impl Iterator<Item = &'s T> {
        let of_group = move |part: &&Scoped<T>| processes::covers(&self.processes, &part.processes, group);
        parts.iter().filter(of_group).map(|part| &part.value)
    }

    fn group_env(&self, group: &str) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.insert("FLY_PROCESS_GROUP".to_owned(), group.to_owned());
        if let Some(region) = &self.primary_region {
            env.insert("PRIMARY_REGION".to_owned(), region.to_string());
        }
        env
    }

    fn group_init(&self, group: &str) -> Init {
        let mut init = self.init.clone();
        if let Some(words) = self.processes.get(group).filter(|words| !words.is_empty()) {
            init.cmd = Some(words.clone());
        }
        init
    }

    /// The size meant for the fewest groups wins; one that names none is meant for all.
    fn group_guest(&self, group: &str) -> Guest {
        let named = self.vm.iter().filter(|vm| vm.processes.iter().any(|name| name == group));
        let nearest = named.min_by_key(|vm| vm.processes.len());
        let general = || self.vm.iter().find(|vm| vm.processes.is_empty());
        nearest.or_else(general).map(|vm| vm.value.clone()).unwrap_or_default()
    }

    fn group_services(&self, group: &str) -> Vec<Service> {
        let http = self.http_service.as_slice();
        self.of_group(http, group).chain(self.of_group(&self.services, group)).cloned().collect()
    }

    fn group_checks(&self, group: &str) -> BTreeMap<String, Check> {
        let of_group = |check: &Scoped<Check>| processes::covers(&self.processes, &check.processes, group);
        self.checks
            .iter()
            .filter(|(_, check)| of_group(check))
            .map(|(name, check)| (name.clone(), check.value.clone()))
            .collect()
    }

    fn group_files(&self, group: &str) -> Result<Vec<FileSpec>, ConvertError> {
        self.of_group(&self.files, group).map(file_spec).collect()
    }
}

fn file_spec(file: &FileSection) -> Result<FileSpec, ConvertError> {
    let mut spec = FileSpec { guest_path: file.guest_path.clone(), mode: file.mode, ..FileSpec::default() };
    match &file.source {
        FileSource::SecretName(name) => spec.secret_name = Some(name.clone()),
        FileSource::RawValue(content) => spec.raw_value = Some(content.clone()),
        FileSource::LocalPath(local_path) => {
            return Err(ConvertError::LocalFile { guest_path: spec.guest_path, local_path: local_path.clone() });
        }
    }
    Ok(spec)
}

fn metadata(group: &str) -> BTreeMap<String, String> {
    [("fly_platform_version", "v2"), ("fly_process_group", group)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
