//! Secrets: sealed value by value; each holds from one version of the app's secrets until another.

use sqlx::SqliteExecutor;

use super::{Tx, to_i64};
use crate::error::Error;

/// A secret with its sealed value.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct SecretRow {
    pub name: String,
    pub sealed: Vec<u8>,
    pub digest: String,
    #[sqlx(try_from = "i64")]
    pub created_at: u64,
    #[sqlx(try_from = "i64")]
    pub updated_at: u64,
}

/// The secrets of one version, by name.
pub(crate) async fn at_version(db: impl SqliteExecutor<'_>, app: i64, version: u64) -> Result<Vec<SecretRow>, Error> {
    let sql = "SELECT name, sealed, digest, created_at, updated_at FROM secrets
               WHERE app_id = ?1 AND since <= ?2 AND (until IS NULL OR until > ?2) ORDER BY name";
    Ok(sqlx::query_as(sql).bind(app).bind(to_i64(version)).fetch_all(db).await?)
}

/// The version of the app's secrets as a write sees it.
pub(crate) async fn version(tx: &mut Tx, app: i64) -> Result<u64, Error> {
    let version: i64 =
        sqlx::query_scalar("SELECT secrets_version FROM apps WHERE id = ?").bind(app).fetch_one(&mut **tx).await?;
    Ok(version.unsigned_abs())
}

/// Says that the app's secrets are now of this version.
pub(crate) async fn set_version(tx: &mut Tx, app: i64, version: u64) -> Result<(), Error> {
    sqlx::query("UPDATE apps SET secrets_version = ? WHERE id = ?")
        .bind(to_i64(version))
        .bind(app)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Ends a secret's value: it holds no longer from `version` on.
pub(crate) async fn end(tx: &mut Tx, app: i64, name: &str, version: u64) -> Result<(), Error> {
    sqlx::query("UPDATE secrets SET until = ? WHERE app_id = ? AND name = ? AND until IS NULL")
        .bind(to_i64(version))
        .bind(app)
        .bind(name)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Adds a secret's value: it holds from `version` on.
pub(crate) async fn add(tx: &mut Tx, app: i64, version: u64, secret: &SecretRow) -> Result<(), Error> {
    let sql = "INSERT INTO secrets (app_id, name, since, sealed, digest, created_at, updated_at)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(app)
        .bind(&secret.name)
        .bind(to_i64(version))
        .bind(&secret.sealed)
        .bind(&secret.digest)
        .bind(to_i64(secret.created_at))
        .bind(to_i64(secret.updated_at))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Removes values that no release within reach of a rollback can ask for any more.
pub(crate) async fn delete_unreachable(tx: &mut Tx, app: i64, oldest_version: u64) -> Result<(), Error> {
    sqlx::query("DELETE FROM secrets WHERE app_id = ? AND until IS NOT NULL AND until <= ?")
        .bind(app)
        .bind(to_i64(oldest_version))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
