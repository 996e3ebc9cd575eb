//! What clients say to the control plane over REST, JSON both ways.
//!
//! [`machines`] has the Machines API's shapes (`/v1/apps/{app}/machines…`); [`deploys`] has what the platform
//! adds: releases, deployments, rollback, scale, logs; [`access`] has organizations and tokens; [`certificates`] has custom
//! host names; [`maintenance`] has maintenance mode.

pub mod access;
pub mod certificates;
pub mod deploys;
pub mod edge;
pub mod machines;
pub mod maintenance;

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What happened and why, in one sentence.
    pub error: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// A word for programs: `unknown_app`, `name_taken`, `lease_held`, `insufficient_capacity`, `unsupported`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}
