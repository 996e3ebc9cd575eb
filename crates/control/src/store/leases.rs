//! Leases: while one holds, only its holder changes the machine.

use model::MachineId;
use sqlx::SqliteExecutor;

use super::{Tx, to_i64};
use crate::error::Error;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct LeaseRow {
    pub machine_id: String,
    pub nonce: String,
    pub owner: String,
    pub description: String,
    pub version: String,
    /// Milliseconds since 1970.
    #[sqlx(try_from = "i64")]
    pub expires_at: u64,
    pub deployment_id: Option<String>,
}

/// The end of a lease that has none: a deployment's.
pub(crate) const NEVER: u64 = i64::MAX as u64;

/// The lease that holds a machine now.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, machine: &MachineId) -> Result<Option<LeaseRow>, Error> {
    let sql = "SELECT machine_id, nonce, owner, description, version, expires_at, deployment_id FROM leases
               WHERE machine_id = ? AND expires_at > ?";
    Ok(sqlx::query_as(sql).bind(machine.as_str()).bind(to_i64(kit::clock::unix_ms())).fetch_optional(db).await?)
}

/// Takes a lease, or takes it again with another end.
pub(crate) async fn put(tx: &mut Tx, lease: &LeaseRow) -> Result<(), Error> {
    let sql = "INSERT INTO leases (machine_id, nonce, owner, description, version, expires_at, deployment_id)
               VALUES (?, ?, ?, ?, ?, ?, ?)
               ON CONFLICT (machine_id) DO UPDATE SET nonce = excluded.nonce, owner = excluded.owner,
                 description = excluded.description, version = excluded.version, expires_at = excluded.expires_at,
                 deployment_id = excluded.deployment_id";
    sqlx::query(sql)
        .bind(&lease.machine_id)
        .bind(&lease.nonce)
        .bind(&lease.owner)
        .bind(&lease.description)
        .bind(&lease.version)
        .bind(to_i64(lease.expires_at))
        .bind(&lease.deployment_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Gives a machine's lease back.
pub(crate) async fn delete(tx: &mut Tx, machine: &MachineId) -> Result<(), Error> {
    sqlx::query("DELETE FROM leases WHERE machine_id = ?").bind(machine.as_str()).execute(&mut **tx).await?;
    Ok(())
}

/// Gives back every lease of a deployment.
pub(crate) async fn delete_of_deployment(tx: &mut Tx, deployment: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM leases WHERE deployment_id = ?").bind(deployment).execute(&mut **tx).await?;
    Ok(())
}

/// Removes leases that have ended.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("DELETE FROM leases WHERE expires_at <= ?")
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
