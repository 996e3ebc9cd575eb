//! Maintenance mode: apps whose visitors are told to come back later, whatever their machines do meanwhile.

use std::collections::BTreeMap;

use model::{AppName, Timestamp};
use serde::{Deserialize, Serialize};

/// The apps that are in maintenance mode, at one moment.
pub type MaintenanceView = BTreeMap<AppName, MaintenanceNotice>;

/// What visitors of an app are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceNotice {
    /// Since when.
    pub since: Timestamp,
    /// In the app's own words; empty if it has none.
    #[serde(default)]
    pub message: String,
    /// After how many seconds it is worth trying again.
    pub retry_after_s: u32,
}
