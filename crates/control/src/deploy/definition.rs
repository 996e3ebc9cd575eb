//! What a release wants of each process group, worked out once when the release is made and immutable from then on.

use std::{collections::BTreeMap, time::Duration};

use config::{AppConfig, Strategy};
use model::machine::MachineConfig;
use serde::{Deserialize, Serialize};

use crate::{error::Error, machines::validate};

/// What a release wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Definition {
    /// Its process groups, by name.
    pub groups: Vec<Group>,
    /// Replace all at once, without waiting for health.
    pub immediate: bool,
    /// How long one machine may take to become healthy.
    pub wait_timeout_ms: u64,
}

/// What a release wants of a process group's machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Its name.
    pub name: String,
    /// The configuration of each of its machines, but for the release's own metadata.
    pub config: MachineConfig,
}

/// Longer than this no deployment waits for one machine.
const MAX_WAIT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

impl Definition {
    /// Works out what a configuration file wants with this image.
    pub(crate) fn new(config: &AppConfig, image: &str, strategy: Option<Strategy>) -> Result<Self, Error> {
        let group = |name: String| {
            let config = config.machine_config(&name, image).map_err(|error| Error::invalid(error.to_string()))?;
            validate::check(&config)?;
            Ok(Group { name, config })
        };
        let definition = Self {
            groups: config.groups().into_iter().map(group).collect::<Result<_, Error>>()?,
            immediate: strategy.unwrap_or(config.deploy.strategy) == Strategy::Immediate,
            wait_timeout_ms: config.deploy.wait_timeout.0.min(MAX_WAIT_TIMEOUT).as_millis() as u64,
        };
        definition.check_volumes()?;
        Ok(definition)
    }

    /// How long one machine may take to become healthy.
    pub(crate) fn wait_timeout(&self) -> Duration {
        Duration::from_millis(self.wait_timeout_ms)
    }

    /// The configurations of all groups.
    pub(crate) fn configs(&self) -> impl Iterator<Item = &MachineConfig> {
        self.groups.iter().map(|group| &group.config)
    }

    /// The group of this name.
    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// A volume can be used by one machine at a time, so by one group.
    fn check_volumes(&self) -> Result<(), Error> {
        let mut users = BTreeMap::new();
        for group in &self.groups {
            for mount in &group.config.mounts {
                if let Some(other) = users.insert(&mount.name, &group.name) {
                    return Err(Error::invalid(format!(
                        "volume {} is mounted by the groups {other} and {}, but can be used by one machine at a time: \
                         give each group a volume of its own",
                        mount.name, group.name
                    )));
                }
            }
        }
        Ok(())
    }
}
