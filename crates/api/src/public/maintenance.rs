//! Maintenance mode of an app.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/apps/{app}/maintenance` | [`Maintenance`] |
//! | `PUT /v1/apps/{app}/maintenance` [`BeginMaintenance`] | [`Maintenance`]; repeated, it changes what visitors are told |
//! | `DELETE /v1/apps/{app}/maintenance` | [`Maintenance`] |

use model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What visitors are told unless something else is asked for: to try again after so many seconds.
pub const RETRY_AFTER_S: u32 = 120;

/// Whether an app is in maintenance mode, and what its visitors are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Maintenance {
    /// Whether it is.
    pub enabled: bool,
    /// Since when, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// In the app's own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// After how many seconds it is worth trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// Asks for maintenance mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct BeginMaintenance {
    /// What visitors read, as plain text of at most 1000 bytes.
    pub message: String,
    /// After how many seconds it is worth trying again, a day at most; two minutes if absent.
    pub retry_after_s: Option<u32>,
}
