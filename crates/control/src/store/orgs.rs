//! Organizations and their private networks.

use model::{NetworkId, OrgSlug};
use sqlx::SqliteExecutor;

use super::{Store, Tx, to_i64};
use crate::error::Error;

/// An organization.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Org {
    pub id: i64,
    #[sqlx(try_from = "String")]
    pub slug: OrgSlug,
    pub name: String,
}

/// The organization that exists from the start.
pub(crate) const DEFAULT: &str = "personal";
/// The network that an app lives in unless it names another.
pub(crate) const DEFAULT_NETWORK: &str = "default";

/// Makes the first organization, if there is none.
pub(super) async fn ensure_default(store: &Store) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    sqlx::query("INSERT INTO orgs (slug, name, created_at) VALUES (?, 'Personal', ?) ON CONFLICT DO NOTHING")
        .bind(DEFAULT)
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut *tx)
        .await?;
    store.commit(tx).await
}

/// Adds an organization; `false` if its short name is taken.
pub(crate) async fn insert(tx: &mut Tx, slug: &OrgSlug, name: &str) -> Result<bool, Error> {
    let done = sqlx::query("INSERT INTO orgs (slug, name, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(slug.as_str())
        .bind(name)
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// All organizations, by short name.
pub(crate) async fn all(db: impl SqliteExecutor<'_>) -> Result<Vec<Org>, Error> {
    Ok(sqlx::query_as("SELECT id, slug, name FROM orgs ORDER BY slug").fetch_all(db).await?)
}

/// The organization of this short name.
pub(crate) async fn by_slug(db: impl SqliteExecutor<'_>, slug: &str) -> Result<Option<Org>, Error> {
    Ok(sqlx::query_as("SELECT id, slug, name FROM orgs WHERE slug = ?").bind(slug).fetch_optional(db).await?)
}

/// The organization's network of this name, made if there is none.
pub(crate) async fn network(tx: &mut Tx, org: i64, name: &str) -> Result<NetworkId, Error> {
    sqlx::query("INSERT INTO networks (org_id, name) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(org)
        .bind(name)
        .execute(&mut **tx)
        .await?;
    let id: u32 = sqlx::query_scalar("SELECT id FROM networks WHERE org_id = ? AND name = ?")
        .bind(org)
        .bind(name)
        .fetch_one(&mut **tx)
        .await?;
    Ok(NetworkId(id))
}
