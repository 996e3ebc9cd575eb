//! What the platform adds to the Machines API: releases, deployments, rollback, scale, logs, platform facts.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/apps/{app}/plan` [`DeployRequest`] | [`Plan`]; nothing is changed |
//! | `POST /v1/apps/{app}/deployments` [`DeployRequest`] | 202 [`Deployment`] |
//! | `GET /v1/apps/{app}/deployments` | newest first, `[Deployment]` |
//! | `GET /v1/apps/{app}/deployments/{id}` | [`Deployment`] |
//! | `GET /v1/apps/{app}/deployments/{id}/events?after=N` | [`DeployEvent`] as NDJSON until the deployment has ended |
//! | `GET /v1/apps/{app}/releases` | newest first, `[Release]` |
//! | `GET /v1/apps/{app}/config?version=N` | [`ReleaseConfig`], of the current release unless one is named |
//! | `POST /v1/apps/{app}/rollback` [`RollbackRequest`] | 202 [`Deployment`] |
//! | `POST /v1/apps/{app}/scale` [`ScaleRequest`] | 202 [`Deployment`] |
//! | `POST /v1/apps/{app}/secrets/deploy` | 202 [`Deployment`] of the current release with the newest secrets |
//! | `GET /v1/apps/{app}/logs?follow=&since=&machine=&limit=` | `model::log::LogRecord` as NDJSON |
//! | `GET /v1/apps/{app}/machines/{id}/exec/stream` | WebSocket, see [`ExecFrame`] |
//! | `GET /v1/platform` | [`Platform`] |
//! | `GET /v1/openapi.json`, `GET /healthz` | without a token |
//!
//! Setting secrets (`POST /v1/apps/{app}/secrets`, in the Machines API's shape) changes no machine: it answers with
//! the new version, and `POST …/secrets/deploy` brings it to the machines. A client that does not stage sends both.
//! `since` of the logs is a number of nanoseconds since 1970, an RFC 3339 time, or a duration before now (`10m`).

use std::collections::BTreeMap;

use model::{AppName, Digest, MachineId, OrgSlug, Region, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a new release and its rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct DeployRequest {
    /// The app's configuration file, as text (TOML).
    pub config: String,
    /// The image; the configuration's own `[build] image` if absent.
    pub image: Option<String>,
    /// `rolling` (the default) or `immediate`; the configuration's own if absent.
    pub strategy: Option<String>,
    /// How to sign in to the image's registry, if it is not the platform's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_auth: Option<RegistryAuth>,
    /// Sent again with the same key, the same deployment is answered instead of a second one.
    pub idempotency_key: Option<String>,
    /// Who or what deploys, for people.
    pub description: String,
}

/// How to sign in to an image's registry. Never stored.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RegistryAuth {
    /// The user.
    pub username: String,
    /// The password.
    pub password: String,
    /// A token, instead of user and password.
    pub token: Option<String>,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegistryAuth { .. }")
    }
}

/// What a deployment will do, before it does it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Steps in order, each one sentence.
    pub steps: Vec<PlanStep>,
    /// What to know before: a certain gap in service, a key without effect.
    pub warnings: Vec<String>,
    /// The image it resolves to.
    pub image: String,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    /// `create`, `replace`, `update`, `destroy` or `keep`.
    pub action: String,
    /// The process group.
    pub group: String,
    /// The machine it concerns, if it exists already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// In words.
    pub description: String,
}

/// An immutable release: image, configuration and secrets version together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Release {
    /// Counts up from 1 in its app.
    pub version: u32,
    /// `pending`, `running`, `complete`, `failed` (undone) or `superseded`.
    pub status: String,
    /// The release that runs now.
    pub current: bool,
    /// The image, by name.
    pub image: String,
    /// The image, by digest.
    pub digest: Digest,
    /// The version of the secrets it runs with.
    pub secrets_version: u64,
    /// Why it was made.
    pub description: String,
    /// Who made it.
    pub user: String,
    /// When.
    pub created_at: Timestamp,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The configuration file that a release was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseConfig {
    /// The release.
    pub version: u32,
    /// The file's text (TOML).
    pub config: String,
}

/// The rollout of a release: a durable workflow of the control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deployment {
    /// Its identifier (a ULID).
    pub id: String,
    /// Its app.
    pub app: AppName,
    /// The release it rolls out.
    pub release: u32,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// What it does.
    pub plan: Plan,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<DeployFailure>,
    /// The app's public address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    /// Waits for an earlier deployment of the app.
    Pending,
    /// Under way.
    Running,
    /// A step failed; the steps before it are being undone.
    Undoing,
    /// Every machine runs the release.
    Complete,
    /// It failed and was undone.
    Failed,
}

impl DeploymentStatus {
    /// Whether nothing more will happen.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// Why a deployment failed: everything a person needs to mend it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployFailure {
    /// What happened, in one sentence.
    pub summary: String,
    /// The machine it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// The exit code of its program, if it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// It was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Its last lines.
    #[serde(default)]
    pub log_tail: Vec<String>,
    /// What it listens on, as `tcp 127.0.0.1:8080`.
    #[serde(default)]
    pub listening: Vec<String>,
    /// What to do next.
    pub hint: String,
}

/// Something that happened in a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeployEvent {
    /// Counts up from 1 in its deployment.
    pub number: u64,
    /// When.
    pub timestamp: Timestamp,
    /// In words.
    pub message: String,
    /// The machine it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Where the deployment stands after it.
    pub status: DeploymentStatus,
}

/// Asks for an earlier release to run again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RollbackRequest {
    /// The release; the last complete one before the current one if absent.
    pub version: Option<u32>,
}

/// Asks for another number of machines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ScaleRequest {
    /// Process group and number of machines.
    pub counts: BTreeMap<String, u32>,
}

/// Facts about the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Platform {
    /// The version of `dunlin`.
    pub version: String,
    /// This host's region.
    pub region: Region,
    /// Apps are reached as `<app>.<domain>`.
    pub domain: String,
    /// The public HTTP port.
    pub http_port: u16,
    /// The public HTTPS port.
    pub https_port: u16,
    /// Host and port of the platform's own registry, as a Docker client names it.
    pub registry: String,
    /// Which wall machines get here, and in words why not a stronger one.
    pub isolation: String,
    /// The organizations that the caller may act for.
    pub organizations: Vec<OrgSlug>,
}

/// A message of the exec WebSocket. The first is the client's [`ExecFrame::Run`]. Binary messages carry bytes: from
/// the client standard input; from the server a first byte 1 (standard output) or 2 (standard error), then the bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecFrame {
    /// Client: what to run.
    Run {
        /// The program and its arguments.
        command: Vec<String>,
        /// Columns and rows of the terminal to give it, if any.
        tty: Option<(u16, u16)>,
        /// Who runs it, as `user[:group]`.
        #[serde(default)]
        user: Option<String>,
    },
    /// Client: standard input ends.
    Eof,
    /// Client: the terminal has another size.
    Resize {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// Client: a signal, by number.
    Signal {
        /// The number.
        signal: i32,
    },
    /// Server: it ended. The socket closes after it.
    Exit {
        /// Its exit code.
        code: i32,
        /// The signal that ended it, or 0.
        signal: i32,
    },
    /// Server: it could not be run.
    Failed {
        /// Why.
        reason: String,
    },
}
