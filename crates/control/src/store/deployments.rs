//! Deployments: durable workflows with their events.

use std::collections::BTreeMap;

use api::public::deploys::{DeployEvent, DeployFailure, DeploymentStatus, Plan};
use model::{MachineId, Timestamp};
use sqlx::SqliteExecutor;

use super::{Tx, from_json, from_word, to_i64, to_json, to_word};
use crate::{deploy::Step, error::Error};

/// A deployment.
#[derive(Debug, Clone)]
pub(crate) struct DeploymentRow {
    pub id: String,
    pub release_id: i64,
    /// Numbers of machines asked for with it, by process group; empty unless it scales.
    pub counts: BTreeMap<String, u32>,
    pub status: DeploymentStatus,
    pub plan: Plan,
    /// Chosen when it begins.
    pub steps: Vec<Step>,
    /// Steps done; while undoing, steps still to undo.
    pub cursor: usize,
    pub failure: Option<DeployFailure>,
    pub created_at: u64,
    pub ended_at: Option<u64>,
}

#[derive(sqlx::FromRow)]
struct Raw {
    id: String,
    release_id: i64,
    counts: String,
    status: String,
    plan: String,
    steps: String,
    cursor: i64,
    failure: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
}

impl TryFrom<Raw> for DeploymentRow {
    type Error = Error;

    fn try_from(raw: Raw) -> Result<Self, Error> {
        Ok(Self {
            counts: from_json("deployment", &raw.counts)?,
            status: from_word("deployment", &raw.status)?,
            plan: from_json("deployment", &raw.plan)?,
            steps: from_json("deployment", &raw.steps)?,
            cursor: usize::try_from(raw.cursor).unwrap_or_default(),
            failure: raw.failure.as_deref().map(|text| from_json("deployment", text)).transpose()?,
            created_at: raw.created_at.unsigned_abs(),
            ended_at: raw.ended_at.map(i64::unsigned_abs),
            id: raw.id,
            release_id: raw.release_id,
        })
    }
}

macro_rules! select_deployment {
    ($tail:literal) => {
        concat!(
            "SELECT id, release_id, counts, status, plan, steps, cursor, failure, created_at, ended_at
             FROM deployments WHERE ",
            $tail
        )
    };
}

/// The app's deployment of this id.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, app: i64, id: &str) -> Result<Option<DeploymentRow>, Error> {
    let sql = select_deployment!("app_id = ? AND id = ?");
    let raw: Option<Raw> = sqlx::query_as(sql).bind(app).bind(id).fetch_optional(db).await?;
    raw.map(DeploymentRow::try_from).transpose()
}

/// The app's last deployments, newest first.
pub(crate) async fn list(db: impl SqliteExecutor<'_>, app: i64, limit: u32) -> Result<Vec<DeploymentRow>, Error> {
    let sql = select_deployment!("app_id = ? ORDER BY rowid DESC LIMIT ?");
    let raw: Vec<Raw> = sqlx::query_as(sql).bind(app).bind(limit).fetch_all(db).await?;
    raw.into_iter().map(DeploymentRow::try_from).collect()
}

/// The app's next deployment to work on: the oldest that has not ended.
pub(crate) async fn next(db: impl SqliteExecutor<'_>, app: i64) -> Result<Option<DeploymentRow>, Error> {
    let sql = select_deployment!("app_id = ? AND ended_at IS NULL ORDER BY rowid LIMIT 1");
    let raw: Option<Raw> = sqlx::query_as(sql).bind(app).fetch_optional(db).await?;
    raw.map(DeploymentRow::try_from).transpose()
}

/// Apps with deployments that have not ended.
pub(crate) async fn apps_under_way(db: impl SqliteExecutor<'_>) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT DISTINCT app_id FROM deployments WHERE ended_at IS NULL").fetch_all(db).await?)
}

/// How many deployments of the app have not ended.
pub(crate) async fn under_way(db: impl SqliteExecutor<'_>, app: i64) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM deployments WHERE app_id = ? AND ended_at IS NULL";
    Ok(sqlx::query_scalar(sql).bind(app).fetch_one(db).await?)
}

/// Adds a deployment that waits for its turn.
pub(crate) async fn insert(
    tx: &mut Tx,
    id: &str,
    app: i64,
    release: i64,
    counts: &BTreeMap<String, u32>,
    plan: &Plan,
) -> Result<(), Error> {
    let sql = "INSERT INTO deployments (id, app_id, release_id, counts, status, plan, steps, cursor, created_at)
               VALUES (?, ?, ?, ?, 'pending', ?, '[]', 0, ?)";
    sqlx::query(sql)
        .bind(id)
        .bind(app)
        .bind(release)
        .bind(to_json(counts))
        .bind(to_json(plan))
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes down how far a deployment is, and everything about it that may change.
pub(crate) async fn save(tx: &mut Tx, row: &DeploymentRow) -> Result<(), Error> {
    let sql = "UPDATE deployments SET status = ?, plan = ?, steps = ?, cursor = ?, failure = ?, ended_at = ?
               WHERE id = ?";
    sqlx::query(sql)
        .bind(to_word(&row.status))
        .bind(to_json(&row.plan))
        .bind(to_json(&row.steps))
        .bind(to_i64(row.cursor as u64))
        .bind(row.failure.as_ref().map(to_json))
        .bind(row.ended_at.map(to_i64))
        .bind(&row.id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The deployment that was asked for with this key.
pub(crate) async fn by_key(db: impl SqliteExecutor<'_>, app: i64, key: &str) -> Result<Option<String>, Error> {
    let sql = "SELECT deployment_id FROM idempotency_keys WHERE app_id = ? AND key = ?";
    Ok(sqlx::query_scalar(sql).bind(app).bind(key).fetch_optional(db).await?)
}

/// Remembers the key that a deployment was asked for with.
pub(crate) async fn set_key(tx: &mut Tx, app: i64, key: &str, deployment: &str) -> Result<(), Error> {
    sqlx::query("INSERT INTO idempotency_keys (app_id, key, deployment_id) VALUES (?, ?, ?)")
        .bind(app)
        .bind(key)
        .bind(deployment)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Adds to a deployment's story.
pub(crate) async fn tell(
    tx: &mut Tx,
    deployment: &str,
    status: DeploymentStatus,
    machine: Option<&MachineId>,
    message: &str,
) -> Result<(), Error> {
    let sql = "INSERT INTO deployment_events (deployment_id, number, timestamp, message, machine, status)
               SELECT ?1, 1 + coalesce(max(number), 0), ?2, ?3, ?4, ?5 FROM deployment_events WHERE deployment_id = ?1";
    sqlx::query(sql)
        .bind(deployment)
        .bind(to_i64(kit::clock::unix_ms()))
        .bind(message)
        .bind(machine.map(MachineId::as_str))
        .bind(to_word(&status))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

#[derive(sqlx::FromRow)]
struct RawEvent {
    number: i64,
    timestamp: i64,
    message: String,
    machine: Option<String>,
    status: String,
}

/// A deployment's story after event number `after`, oldest first.
pub(crate) async fn events(
    db: impl SqliteExecutor<'_>,
    deployment: &str,
    after: u64,
) -> Result<Vec<DeployEvent>, Error> {
    let sql = "SELECT number, timestamp, message, machine, status FROM deployment_events
               WHERE deployment_id = ? AND number > ? ORDER BY number LIMIT 1000";
    let rows: Vec<RawEvent> = sqlx::query_as(sql).bind(deployment).bind(to_i64(after)).fetch_all(db).await?;
    let event = |row: RawEvent| {
        Ok(DeployEvent {
            number: row.number.unsigned_abs(),
            timestamp: Timestamp(row.timestamp.unsigned_abs()),
            message: row.message,
            machine: row.machine.and_then(|id| id.parse().ok()),
            status: from_word("deployment event", &row.status)?,
        })
    };
    rows.into_iter().map(event).collect()
}

/// How many ended deployments of an app are remembered.
const REMEMBERED: i64 = 100;

/// Forgets the app's oldest deployments.
pub(crate) async fn forget_old(tx: &mut Tx, app: i64) -> Result<(), Error> {
    let sql = "DELETE FROM deployments WHERE app_id = ?1 AND ended_at IS NOT NULL AND rowid NOT IN
               (SELECT rowid FROM deployments WHERE app_id = ?1 ORDER BY rowid DESC LIMIT ?2)";
    sqlx::query(sql).bind(app).bind(REMEMBERED).execute(&mut **tx).await?;
    Ok(())
}
