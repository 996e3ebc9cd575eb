//! Releases: image, configuration and secrets version together; immutable but for how they fared.

use model::Digest;
use sqlx::SqliteExecutor;

use super::{Tx, from_json, to_i64, to_json};
use crate::{deploy::Definition, error::Error};

/// A release.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct ReleaseRow {
    pub id: i64,
    pub version: u32,
    pub status: String,
    pub image: String,
    #[sqlx(try_from = "String")]
    pub digest: Digest,
    pub config: String,
    definition: String,
    #[sqlx(try_from = "i64")]
    pub secrets_version: u64,
    pub description: String,
    pub user: String,
    #[sqlx(try_from = "i64")]
    pub created_at: u64,
    pub reason: Option<String>,
}

impl ReleaseRow {
    /// What it wants of each process group.
    pub(crate) fn definition(&self) -> Result<Definition, Error> {
        from_json("release", &self.definition)
    }
}

/// How a release fared.
pub(crate) mod status {
    pub(crate) const PENDING: &str = "pending";
    pub(crate) const RUNNING: &str = "running";
    pub(crate) const COMPLETE: &str = "complete";
    pub(crate) const FAILED: &str = "failed";
}

macro_rules! select_release {
    ($tail:literal) => {
        concat!(
            "SELECT id, version, status, image, digest, config, definition, secrets_version, description, user,
                    created_at, reason FROM releases WHERE ",
            $tail
        )
    };
}

/// The release of this number within the platform.
pub(crate) async fn by_id(db: impl SqliteExecutor<'_>, id: i64) -> Result<Option<ReleaseRow>, Error> {
    Ok(sqlx::query_as(select_release!("id = ?")).bind(id).fetch_optional(db).await?)
}

/// The app's release of this version.
pub(crate) async fn by_version(
    db: impl SqliteExecutor<'_>,
    app: i64,
    version: u32,
) -> Result<Option<ReleaseRow>, Error> {
    let sql = select_release!("app_id = ? AND version = ?");
    Ok(sqlx::query_as(sql).bind(app).bind(version).fetch_optional(db).await?)
}

/// The app's last releases, newest first.
pub(crate) async fn list(db: impl SqliteExecutor<'_>, app: i64, limit: u32) -> Result<Vec<ReleaseRow>, Error> {
    let sql = select_release!("app_id = ? ORDER BY version DESC LIMIT ?");
    Ok(sqlx::query_as(sql).bind(app).bind(limit).fetch_all(db).await?)
}

/// What a new release is made of.
pub(crate) struct NewRelease<'a> {
    pub image: &'a str,
    pub digest: &'a Digest,
    pub config: &'a str,
    pub definition: &'a Definition,
    pub secrets_version: u64,
    pub description: &'a str,
    pub user: &'a str,
}

/// Adds a release as the app's next version.
pub(crate) async fn insert(tx: &mut Tx, app: i64, new: NewRelease<'_>) -> Result<ReleaseRow, Error> {
    let sql = "INSERT INTO releases (app_id, version, status, image, digest, config, definition, secrets_version,
                                     description, user, created_at)
               SELECT ?1, 1 + coalesce(max(version), 0), 'pending', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
               FROM releases WHERE app_id = ?1
               RETURNING id, version, status, image, digest, config, definition, secrets_version, description, user,
                         created_at, reason";
    Ok(sqlx::query_as(sql)
        .bind(app)
        .bind(new.image)
        .bind(new.digest.as_str())
        .bind(new.config)
        .bind(to_json(new.definition))
        .bind(to_i64(new.secrets_version))
        .bind(new.description)
        .bind(new.user)
        .bind(to_i64(kit::clock::unix_ms()))
        .fetch_one(&mut **tx)
        .await?)
}

/// Says how a release fares.
pub(crate) async fn set_status(tx: &mut Tx, id: i64, status: &str, reason: Option<&str>) -> Result<(), Error> {
    sqlx::query("UPDATE releases SET status = ?, reason = coalesce(?, reason) WHERE id = ?")
        .bind(status)
        .bind(reason)
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// How many complete releases of an app keep their image and their secrets, so that they can be rolled back to.
pub(crate) const KEPT: u32 = 10;

/// The releases of an app that can be rolled back to: complete, and young enough for their image to be kept.
pub(crate) async fn kept(db: impl SqliteExecutor<'_>, app: i64) -> Result<Vec<ReleaseRow>, Error> {
    let sql = select_release!("app_id = ? AND status = 'complete' ORDER BY version DESC LIMIT ?");
    Ok(sqlx::query_as(sql).bind(app).bind(KEPT).fetch_all(db).await?)
}

/// The images that a release within reach, a deployment under way or a machine uses.
pub(crate) async fn digests_in_use(db: impl SqliteExecutor<'_>) -> Result<Vec<String>, Error> {
    let sql = "SELECT digest FROM (
                 SELECT digest, row_number() OVER (PARTITION BY app_id ORDER BY version DESC) AS age
                 FROM releases WHERE status = 'complete') WHERE age <= ?
               UNION SELECT digest FROM releases WHERE status IN ('pending', 'running')
               UNION SELECT r.digest FROM releases r JOIN apps a ON a.current_release = r.id
               UNION SELECT r.digest FROM releases r JOIN deployments d ON d.release_id = r.id WHERE d.ended_at IS NULL
               UNION SELECT digest FROM machines WHERE destroyed_at IS NULL";
    Ok(sqlx::query_scalar(sql).bind(KEPT).fetch_all(db).await?)
}
