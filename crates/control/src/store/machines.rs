//! What is wanted of each machine. What a machine does, its node knows.

use api::internal::Launch;
use model::{
    MachineId,
    machine::{MachineConfig, MachineSpec},
};
use sqlx::SqliteExecutor;

use super::{Tx, from_json, to_i64, to_json};
use crate::error::Error;

/// What is wanted of a machine.
#[derive(Debug, Clone)]
pub(crate) struct MachineRow {
    pub app_id: i64,
    pub spec: MachineSpec,
    pub launch: Launch,
    /// It is to be destroyed, or has been.
    pub gone: bool,
    pub created_at: u64,
    pub updated_at: u64,
    pub destroyed_at: Option<u64>,
}

#[derive(sqlx::FromRow)]
struct Raw {
    app_id: i64,
    spec: String,
    launch: String,
    gone: bool,
    created_at: i64,
    updated_at: i64,
    destroyed_at: Option<i64>,
}

impl TryFrom<Raw> for MachineRow {
    type Error = Error;

    fn try_from(raw: Raw) -> Result<Self, Error> {
        Ok(Self {
            app_id: raw.app_id,
            spec: from_json("machine", &raw.spec)?,
            launch: from_json("machine", &raw.launch)?,
            gone: raw.gone,
            created_at: raw.created_at.unsigned_abs(),
            updated_at: raw.updated_at.unsigned_abs(),
            destroyed_at: raw.destroyed_at.map(i64::unsigned_abs),
        })
    }
}

macro_rules! select_machine {
    ($tail:literal) => {
        concat!("SELECT app_id, spec, launch, gone, created_at, updated_at, destroyed_at FROM machines WHERE ", $tail)
    };
}

fn rows(raw: Vec<Raw>) -> Result<Vec<MachineRow>, Error> {
    raw.into_iter().map(MachineRow::try_from).collect()
}

/// The app's machine of this id.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, app: i64, id: &MachineId) -> Result<Option<MachineRow>, Error> {
    let sql = select_machine!("app_id = ? AND id = ?");
    let raw: Option<Raw> = sqlx::query_as(sql).bind(app).bind(id.as_str()).fetch_optional(db).await?;
    raw.map(MachineRow::try_from).transpose()
}

/// The app's machines, oldest first, those lately destroyed included.
pub(crate) async fn of_app(db: impl SqliteExecutor<'_>, app: i64) -> Result<Vec<MachineRow>, Error> {
    let sql = select_machine!("app_id = ? ORDER BY created_at, id");
    rows(sqlx::query_as(sql).bind(app).fetch_all(db).await?)
}

/// Every machine of the platform that has not been destroyed.
pub(crate) async fn all(db: impl SqliteExecutor<'_>) -> Result<Vec<MachineRow>, Error> {
    rows(sqlx::query_as(select_machine!("destroyed_at IS NULL")).fetch_all(db).await?)
}

/// How many machines the app has that have not been destroyed.
pub(crate) async fn count(db: impl SqliteExecutor<'_>, app: i64) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM machines WHERE app_id = ? AND destroyed_at IS NULL";
    Ok(sqlx::query_scalar(sql).bind(app).fetch_one(db).await?)
}

/// Wants a new machine.
pub(crate) async fn insert(tx: &mut Tx, app: i64, spec: &MachineSpec, launch: Launch) -> Result<(), Error> {
    let now = to_i64(kit::clock::unix_ms());
    let sql = "INSERT INTO machines (id, app_id, digest, spec, launch, created_at, updated_at)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(spec.id.as_str())
        .bind(app)
        .bind(spec.image.digest.as_str())
        .bind(to_json(spec))
        .bind(to_json(&launch))
        .bind(now)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    remember_version(tx, spec).await
}

/// Wants another spec of a machine.
pub(crate) async fn set_spec(tx: &mut Tx, spec: &MachineSpec) -> Result<(), Error> {
    sqlx::query("UPDATE machines SET spec = ?, digest = ?, updated_at = ? WHERE id = ?")
        .bind(to_json(spec))
        .bind(spec.image.digest.as_str())
        .bind(to_i64(kit::clock::unix_ms()))
        .bind(spec.id.as_str())
        .execute(&mut **tx)
        .await?;
    remember_version(tx, spec).await
}

/// How many versions of a machine's spec are remembered.
const VERSIONS: i64 = 20;

async fn remember_version(tx: &mut Tx, spec: &MachineSpec) -> Result<(), Error> {
    let sql = "INSERT INTO machine_versions (machine_id, version, spec, created_at) VALUES (?, ?, ?, ?)
               ON CONFLICT (machine_id, version) DO UPDATE SET spec = excluded.spec, created_at = excluded.created_at";
    sqlx::query(sql)
        .bind(spec.id.as_str())
        .bind(spec.version.as_str())
        .bind(to_json(spec))
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    let sql = "DELETE FROM machine_versions WHERE machine_id = ?1 AND version NOT IN
               (SELECT version FROM machine_versions WHERE machine_id = ?1
                ORDER BY created_at DESC, rowid DESC LIMIT ?2)";
    sqlx::query(sql).bind(spec.id.as_str()).bind(VERSIONS).execute(&mut **tx).await?;
    Ok(())
}

/// The spec that a machine had in this version.
pub(crate) async fn spec_of_version(
    db: impl SqliteExecutor<'_>,
    id: &MachineId,
    version: &str,
) -> Result<Option<MachineSpec>, Error> {
    let sql = "SELECT spec FROM machine_versions WHERE machine_id = ? AND version = ?";
    let spec: Option<String> = sqlx::query_scalar(sql).bind(id.as_str()).bind(version).fetch_optional(db).await?;
    spec.as_deref().map(|text| from_json("machine version", text)).transpose()
}

/// Versions of a machine's configuration, newest first.
pub(crate) async fn versions(
    db: impl SqliteExecutor<'_>,
    id: &MachineId,
) -> Result<Vec<(String, MachineConfig)>, Error> {
    let sql = "SELECT version, spec FROM machine_versions WHERE machine_id = ? ORDER BY created_at DESC, rowid DESC";
    let rows: Vec<(String, String)> = sqlx::query_as(sql).bind(id.as_str()).fetch_all(db).await?;
    let config = |text: &str| from_json::<MachineSpec>("machine version", text).map(|spec| spec.config);
    rows.into_iter().map(|(version, spec)| Ok((version, config(&spec)?))).collect()
}

/// Wants a machine gone, or no longer does.
pub(crate) async fn set_gone(tx: &mut Tx, id: &MachineId, gone: bool) -> Result<(), Error> {
    sqlx::query("UPDATE machines SET gone = ?, updated_at = ? WHERE id = ? AND destroyed_at IS NULL")
        .bind(gone)
        .bind(to_i64(kit::clock::unix_ms()))
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A machine is gone.
pub(crate) async fn set_destroyed(tx: &mut Tx, id: &MachineId) -> Result<(), Error> {
    let now = to_i64(kit::clock::unix_ms());
    sqlx::query(
        "UPDATE machines SET gone = 1, updated_at = ?1, destroyed_at = ?1 WHERE id = ?2 AND destroyed_at IS NULL",
    )
    .bind(now)
    .bind(id.as_str())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets a machine that never came to be.
pub(crate) async fn delete(tx: &mut Tx, id: &MachineId) -> Result<(), Error> {
    sqlx::query("DELETE FROM machines WHERE id = ?").bind(id.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// How long a destroyed machine is remembered.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// Forgets machines that were destroyed long ago.
pub(crate) async fn forget_old(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("DELETE FROM machines WHERE destroyed_at < ?")
        .bind(to_i64(kit::clock::unix_ms().saturating_sub(REMEMBERED_MS)))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
