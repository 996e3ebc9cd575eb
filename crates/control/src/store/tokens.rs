//! Tokens: what is kept is the SHA-256 of the secret part, never the secret.

use sqlx::SqliteExecutor;

use super::{Store, Tx, to_i64};
use crate::{auth::Scope, error::Error};

/// A token as it is kept.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct TokenRow {
    org_id: Option<i64>,
    app_id: Option<i64>,
    pub hash: Vec<u8>,
    pub name: String,
}

impl TokenRow {
    /// How far the token reaches.
    pub(crate) fn scope(&self) -> Scope {
        match (self.org_id, self.app_id) {
            (Some(org), Some(app)) => Scope::App { org, app },
            (Some(org), None) => Scope::Org(org),
            _ => Scope::Admin,
        }
    }
}

/// The token of this id, unless it has expired.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, id: &str) -> Result<Option<TokenRow>, Error> {
    let sql = "SELECT org_id, app_id, hash, name FROM tokens
               WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)";
    Ok(sqlx::query_as(sql).bind(id).bind(to_i64(kit::clock::unix_ms())).fetch_optional(db).await?)
}

/// A token as it is shown.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct TokenShown {
    pub id: String,
    pub name: String,
    pub org: Option<String>,
    pub app: Option<String>,
    pub created_at: i64,
    pub expires_at: Option<i64>,
}

/// The tokens that are good and limited to this organization (all, for none), of those the ones that name this
/// organization and this app, oldest first.
pub(crate) async fn list(
    db: impl SqliteExecutor<'_>,
    within: Option<i64>,
    org: Option<&str>,
    app: Option<&str>,
) -> Result<Vec<TokenShown>, Error> {
    let sql = "SELECT t.id, t.name, o.slug AS org, a.name AS app, t.created_at, t.expires_at
               FROM tokens t LEFT JOIN orgs o ON o.id = t.org_id LEFT JOIN apps a ON a.id = t.app_id
               WHERE (?1 IS NULL OR t.org_id = ?1) AND (?2 IS NULL OR o.slug = ?2) AND (?3 IS NULL OR a.name = ?3)
                 AND (t.expires_at IS NULL OR t.expires_at > ?4)
               ORDER BY t.created_at, t.id LIMIT 1000";
    let now = to_i64(kit::clock::unix_ms());
    Ok(sqlx::query_as(sql).bind(within).bind(org).bind(app).bind(now).fetch_all(db).await?)
}

/// Removes a token that is limited to this organization (any, for none); `false` if there is no such token.
pub(crate) async fn delete(tx: &mut Tx, id: &str, within: Option<i64>) -> Result<bool, Error> {
    let sql = "DELETE FROM tokens WHERE id = ?1 AND (?2 IS NULL OR org_id = ?2)";
    Ok(sqlx::query(sql).bind(id).bind(within).execute(&mut **tx).await?.rows_affected() == 1)
}

/// What a new token is.
pub(crate) struct NewToken<'a> {
    pub id: &'a str,
    pub scope: Scope,
    pub hash: &'a [u8],
    pub name: &'a str,
    pub shown: bool,
    /// Milliseconds since 1970; never if absent.
    pub expires_at: Option<u64>,
}

/// Keeps a token.
pub(crate) async fn insert(tx: &mut Tx, token: NewToken<'_>) -> Result<(), Error> {
    let (org, app) = token.scope.ids();
    let sql = "INSERT INTO tokens (id, org_id, app_id, hash, name, shown, expires_at, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(token.id)
        .bind(org)
        .bind(app)
        .bind(token.hash)
        .bind(token.name)
        .bind(token.shown)
        .bind(token.expires_at.map(to_i64))
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether anyone has ever been shown an administrator's token.
pub(crate) async fn admin_was_shown(tx: &mut Tx) -> Result<bool, Error> {
    let sql = "SELECT count(*) FROM tokens WHERE org_id IS NULL AND app_id IS NULL AND shown = 1";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut **tx).await?;
    Ok(count > 0)
}

/// Removes the tokens that nobody has ever been shown.
pub(crate) async fn delete_unshown(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("DELETE FROM tokens WHERE shown = 0").execute(&mut **tx).await?;
    Ok(())
}

/// Says that the tokens made so far have been shown to someone.
pub(crate) async fn set_shown(store: &Store) -> Result<(), Error> {
    let mut tx = store.begin().await?;
    sqlx::query("UPDATE tokens SET shown = 1").execute(&mut *tx).await?;
    store.commit(tx).await
}

/// Removes tokens that have expired.
pub(crate) async fn delete_expired(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("DELETE FROM tokens WHERE expires_at <= ?")
        .bind(to_i64(kit::clock::unix_ms()))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
