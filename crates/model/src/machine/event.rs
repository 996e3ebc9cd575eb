//! What happened to a machine, and what its health checks say.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Something that happened to a machine. Newest first wherever a list of them is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// A ULID; sorts by time.
    pub id: String,
    /// What happened: `launch`, `update`, `start`, `stop`, `suspend`, `restart`, `exit`, `destroy`, `cordon`, `uncordon`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The state it led to.
    pub status: String,
    /// Who caused it: `user`, `proxy` for the traffic (or the want of it), or `dunlin` for the platform itself.
    pub source: String,
    /// When.
    pub timestamp: Timestamp,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<EventRequest>,
}

impl Event {
    /// Whether a machine to which this happened, newest first, rests for want of traffic, and not because somebody
    /// wanted it to.
    pub fn rests_for_want_of_traffic(events: &[Self]) -> bool {
        let about_running = |kind: &str| matches!(kind, "launch" | "update" | "start" | "stop" | "suspend" | "restart");
        let newest = events.iter().find(|event| about_running(&event.kind));
        newest.is_some_and(|event| event.source == "proxy" && matches!(event.kind.as_str(), "stop" | "suspend"))
    }
}

/// More about an event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EventRequest {
    /// How the program ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_event: Option<ExitEvent>,
    /// How often the restart policy has started it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_count: Option<u32>,
    /// Why, in words, where the platform knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a program ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExitEvent {
    /// The status as a shell would give it: the exit code, or 128 and the signal.
    pub exit_code: i32,
    /// The program's own exit code; 0 if a signal ended it.
    pub guest_exit_code: i32,
    /// The signal that ended it, or 0.
    pub guest_signal: i32,
    /// The guest's kernel killed it for want of memory.
    pub oom_killed: bool,
    /// It was asked to stop.
    pub requested_stop: bool,
    /// It is being started again.
    pub restarting: bool,
    /// The signal that ended the virtual machine itself, or -1.
    pub signal: i32,
    /// When.
    pub exited_at: Timestamp,
}

/// The answer of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// All is well.
    Passing,
    /// Not yet known, or in its grace period.
    Warning,
    /// It failed.
    Critical,
}

/// A health check and its last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckStatus {
    /// Its name; a service's check is named like `servicecheck-00-http-8080`.
    pub name: String,
    /// The answer.
    pub status: CheckState,
    /// The answer in words.
    pub output: String,
    /// When the answer last changed.
    pub updated_at: Timestamp,
}
