//! Orders of certificates that are counted.

use model::{Hostname, OrgSlug};

use super::{Tx, to_i64};
use crate::error::Error;

/// When the latest order but `later` was made for a host name, by whomever.
pub(crate) async fn of_name(tx: &mut Tx, hostname: &Hostname, later: u32) -> Result<Option<u64>, Error> {
    let sql = "SELECT at FROM orders WHERE hostname = ? ORDER BY at DESC LIMIT 1 OFFSET ?";
    let at: Option<i64> = sqlx::query_scalar(sql).bind(hostname.as_str()).bind(later).fetch_optional(&mut **tx).await?;
    Ok(at.map(i64::unsigned_abs))
}

/// When the latest order but `later` was made by an organization.
pub(crate) async fn of_org(tx: &mut Tx, org: &OrgSlug, later: u32) -> Result<Option<u64>, Error> {
    let sql = "SELECT at FROM orders WHERE org_id = (SELECT id FROM orgs WHERE slug = ?)
               ORDER BY at DESC LIMIT 1 OFFSET ?";
    let at: Option<i64> = sqlx::query_scalar(sql).bind(org.as_str()).bind(later).fetch_optional(&mut **tx).await?;
    Ok(at.map(i64::unsigned_abs))
}

/// Counts an order, and forgets those from before `since`. Tells its number.
pub(crate) async fn add(tx: &mut Tx, org: &OrgSlug, hostname: &Hostname, now: u64, since: u64) -> Result<i64, Error> {
    sqlx::query("DELETE FROM orders WHERE at < ?").bind(to_i64(since)).execute(&mut **tx).await?;
    let sql = "INSERT INTO orders (org_id, hostname, at) SELECT id, ?, ? FROM orgs WHERE slug = ? RETURNING id";
    let added = sqlx::query_scalar(sql).bind(hostname.as_str()).bind(to_i64(now)).bind(org.as_str());
    Ok(added.fetch_one(&mut **tx).await?)
}

/// An order that never reached an issuer is not counted.
pub(crate) async fn forget(tx: &mut Tx, id: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM orders WHERE id = ?").bind(id).execute(&mut **tx).await?;
    Ok(())
}
