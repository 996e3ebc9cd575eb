//! Apps, always reached through what their caller may see.

use std::collections::BTreeMap;

use model::{AppName, NetworkId, OrgSlug};
use sqlx::SqliteExecutor;

use super::{Tx, to_i64};
use crate::{auth::Scope, error::Error};

/// An app with its organization and network.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct AppRow {
    pub id: i64,
    #[sqlx(try_from = "String")]
    pub name: AppName,
    pub org_id: i64,
    #[sqlx(try_from = "String")]
    pub org: OrgSlug,
    pub org_name: String,
    pub network_id: u32,
    pub network_name: String,
    pub current_release: Option<i64>,
    #[sqlx(try_from = "i64")]
    pub secrets_version: u64,
    pub destroying: bool,
}

impl AppRow {
    /// Its private network.
    pub(crate) fn network(&self) -> NetworkId {
        NetworkId(self.network_id)
    }
}

macro_rules! select_app {
    ($condition:literal) => {
        concat!(
            "SELECT a.id, a.name, a.org_id, o.slug AS org, o.name AS org_name, a.network_id, n.name AS network_name,
                    a.current_release, a.secrets_version, a.destroying
             FROM apps a JOIN orgs o ON o.id = a.org_id JOIN networks n ON n.id = a.network_id WHERE ",
            $condition
        )
    };
}

/// The app of this name, if it lies within the scope.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, scope: Scope, name: &str) -> Result<Option<AppRow>, Error> {
    let (org, app) = scope.ids();
    let sql = select_app!("a.name = ?1 AND (?2 IS NULL OR a.org_id = ?2) AND (?3 IS NULL OR a.id = ?3)");
    Ok(sqlx::query_as(sql).bind(name).bind(org).bind(app).fetch_optional(db).await?)
}

/// The app of this number. For the platform's own work, not for a caller's request.
pub(crate) async fn by_id(db: impl SqliteExecutor<'_>, id: i64) -> Result<Option<AppRow>, Error> {
    Ok(sqlx::query_as(select_app!("a.id = ?")).bind(id).fetch_optional(db).await?)
}

/// The apps within the scope, by name; of one organization if its short name is given.
pub(crate) async fn list(db: impl SqliteExecutor<'_>, scope: Scope, slug: Option<&str>) -> Result<Vec<AppRow>, Error> {
    let (org, app) = scope.ids();
    let sql = select_app!(
        "(?1 IS NULL OR o.slug = ?1) AND (?2 IS NULL OR a.org_id = ?2) AND (?3 IS NULL OR a.id = ?3) ORDER BY a.name"
    );
    Ok(sqlx::query_as(sql).bind(slug).bind(org).bind(app).fetch_all(db).await?)
}

/// Adds an app; `false` if the name is taken, now or once by another organization.
pub(crate) async fn insert(tx: &mut Tx, org: i64, network: NetworkId, name: &AppName) -> Result<bool, Error> {
    sqlx::query("INSERT INTO app_names (name, org_id) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(name.as_str())
        .bind(org)
        .execute(&mut **tx)
        .await?;
    let sql = "INSERT INTO apps (org_id, network_id, name, created_at)
               SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM app_names WHERE name = ?3 AND org_id = ?1)
               ON CONFLICT DO NOTHING";
    let done = sqlx::query(sql)
        .bind(org)
        .bind(network.0)
        .bind(name.as_str())
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Says that the app is on its way out.
pub(crate) async fn set_destroying(tx: &mut Tx, app: i64) -> Result<(), Error> {
    sqlx::query("UPDATE apps SET destroying = 1 WHERE id = ?").bind(app).execute(&mut **tx).await?;
    Ok(())
}

/// Whether the app is there and not on its way out.
pub(crate) async fn stays(db: impl SqliteExecutor<'_>, app: i64) -> Result<bool, Error> {
    let found: Option<bool> =
        sqlx::query_scalar("SELECT destroying FROM apps WHERE id = ?").bind(app).fetch_optional(db).await?;
    Ok(found == Some(false))
}

/// Apps that are on their way out.
pub(crate) async fn being_destroyed(db: impl SqliteExecutor<'_>) -> Result<Vec<i64>, Error> {
    Ok(sqlx::query_scalar("SELECT id FROM apps WHERE destroying = 1").fetch_all(db).await?)
}

/// Forgets the app and everything that hangs from it, its name apart.
pub(crate) async fn delete(tx: &mut Tx, app: i64) -> Result<(), Error> {
    sqlx::query("UPDATE apps SET current_release = NULL WHERE id = ?").bind(app).execute(&mut **tx).await?;
    sqlx::query("DELETE FROM apps WHERE id = ?").bind(app).execute(&mut **tx).await?;
    Ok(())
}

/// The release that is to run from now on.
pub(crate) async fn set_current_release(tx: &mut Tx, app: i64, release: i64) -> Result<(), Error> {
    sqlx::query("UPDATE apps SET current_release = ? WHERE id = ?").bind(release).bind(app).execute(&mut **tx).await?;
    Ok(())
}

/// Numbers of machines that a user has asked for, by process group.
pub(crate) async fn counts(db: impl SqliteExecutor<'_>, app: i64) -> Result<BTreeMap<String, u32>, Error> {
    let rows: Vec<(String, u32)> =
        sqlx::query_as("SELECT name, count FROM group_counts WHERE app_id = ?").bind(app).fetch_all(db).await?;
    Ok(rows.into_iter().collect())
}

/// Remembers how many machines a user has asked for.
pub(crate) async fn set_count(tx: &mut Tx, app: i64, group: &str, count: u32) -> Result<(), Error> {
    let sql = "INSERT INTO group_counts (app_id, name, count) VALUES (?, ?, ?)
               ON CONFLICT (app_id, name) DO UPDATE SET count = excluded.count";
    sqlx::query(sql).bind(app).bind(group).bind(count).execute(&mut **tx).await?;
    Ok(())
}
