//! Host names that apps bring along, and their certificates.

use api::internal::{CertificateFacts, DnsSeen, IssueError, SealedCertificate};
use model::{AppName, Hostname, OrgSlug, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::SqliteExecutor;

use super::{Tx, to_i64};
use crate::error::Error;

/// A host name of an app.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct NameRow {
    pub id: i64,
    #[sqlx(try_from = "String")]
    pub app: AppName,
    #[sqlx(try_from = "String")]
    pub org: OrgSlug,
    #[sqlx(try_from = "String")]
    pub hostname: Hostname,
    pub acme: bool,
    #[sqlx(try_from = "i64")]
    pub created_at: u64,
    pub proven_at: Option<i64>,
    seen: Option<String>,
    pub checked_at: Option<i64>,
    pub reaches_edge: bool,
    pub next_at: i64,
    pub failures: u32,
    failure: Option<String>,
    pub no_order_before: Option<i64>,
}

impl NameRow {
    /// What DNS said last.
    pub(crate) fn seen(&self) -> Option<DnsSeen> {
        serde_json::from_str(self.seen.as_deref()?).ok()
    }

    /// What went wrong last.
    pub(crate) fn failure(&self) -> Option<Failure> {
        serde_json::from_str(self.failure.as_deref()?).ok()
    }
}

/// What went wrong with a host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub code: String,
    pub message: String,
    pub remedy: String,
    pub at: u64,
    /// The issuer wants not to be asked before.
    pub rate_limited_until: Option<u64>,
}

impl Failure {
    /// A failed order.
    pub(crate) fn of(error: &IssueError, at: u64) -> Self {
        let (code, message, remedy) = (error.code().into(), error.to_string(), error.remedy().into());
        Self { code, message, remedy, at, rate_limited_until: None }
    }
}

/// A certificate of a host name.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct CertificateRow {
    pub hostname_id: i64,
    pub source: String,
    pub chain_pem: String,
    pub sealed_key: Vec<u8>,
    #[sqlx(try_from = "i64")]
    pub not_before: u64,
    #[sqlx(try_from = "i64")]
    pub not_after: u64,
    pub issuer: String,
    pub key_kind: String,
    #[sqlx(try_from = "i64")]
    pub created_at: u64,
    pub renew_at: Option<i64>,
}

impl CertificateRow {
    /// As the edge is told.
    pub(crate) fn sealed(self) -> SealedCertificate {
        SealedCertificate {
            chain_pem: self.chain_pem,
            sealed_key: self.sealed_key,
            not_before: Timestamp(self.not_before),
            not_after: Timestamp(self.not_after),
        }
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was imported.
    Custom,
    /// It was ordered.
    Acme,
}

impl Source {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Acme => "acme",
        }
    }
}

macro_rules! select_name {
    ($condition:literal) => {
        concat!(
            "SELECT h.id, a.name AS app, o.slug AS org, h.hostname, h.acme, h.created_at, h.proven_at, h.seen,
                    h.checked_at, h.reaches_edge, h.next_at, h.failures, h.failure, h.no_order_before
             FROM hostnames h JOIN apps a ON a.id = h.app_id JOIN orgs o ON o.id = a.org_id WHERE ",
            $condition
        )
    };
}

/// An app's host names, by name.
pub(crate) async fn of_app(db: impl SqliteExecutor<'_>, app: i64) -> Result<Vec<NameRow>, Error> {
    Ok(sqlx::query_as(select_name!("h.app_id = ? ORDER BY h.hostname")).bind(app).fetch_all(db).await?)
}

/// One of an app's host names.
pub(crate) async fn find(db: impl SqliteExecutor<'_>, app: i64, hostname: &Hostname) -> Result<Option<NameRow>, Error> {
    let sql = select_name!("h.app_id = ? AND h.hostname = ?");
    Ok(sqlx::query_as(sql).bind(app).bind(hostname.as_str()).fetch_optional(db).await?)
}

/// The host name of this number.
pub(crate) async fn by_id(db: impl SqliteExecutor<'_>, id: i64) -> Result<Option<NameRow>, Error> {
    Ok(sqlx::query_as(select_name!("h.id = ?")).bind(id).fetch_optional(db).await?)
}

/// Who has proven that a host name is its own.
pub(crate) async fn owner(db: impl SqliteExecutor<'_>, hostname: &Hostname) -> Result<Option<NameRow>, Error> {
    let sql = select_name!("h.hostname = ? AND h.proven_at IS NOT NULL");
    Ok(sqlx::query_as(sql).bind(hostname.as_str()).fetch_optional(db).await?)
}

/// Whether another organization has proven that one of these names is its own.
pub(crate) async fn is_anothers(tx: &mut Tx, names: &[String], org: &OrgSlug) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM hostnames h JOIN apps a ON a.id = h.app_id JOIN orgs o ON o.id = a.org_id
               WHERE h.proven_at IS NOT NULL AND o.slug <> ? AND h.hostname IN (SELECT value FROM json_each(?)))";
    let names = super::to_json(&names);
    Ok(sqlx::query_scalar(sql).bind(org.as_str()).bind(names).fetch_one(&mut **tx).await?)
}

/// All that have been proven.
pub(crate) async fn proven(db: impl SqliteExecutor<'_>) -> Result<Vec<NameRow>, Error> {
    Ok(sqlx::query_as(select_name!("h.proven_at IS NOT NULL AND a.destroying = 0")).fetch_all(db).await?)
}

/// Those that are to be looked at by now, and when the next one is.
pub(crate) async fn due(db: &sqlx::SqlitePool, now: u64, limit: u32) -> Result<(Vec<NameRow>, Option<u64>), Error> {
    let sql = select_name!("h.next_at <= ? AND a.destroying = 0 ORDER BY h.next_at LIMIT ?");
    let due = sqlx::query_as(sql).bind(to_i64(now)).bind(limit).fetch_all(db).await?;
    let next: Option<i64> = sqlx::query_scalar("SELECT min(next_at) FROM hostnames WHERE next_at > ?")
        .bind(to_i64(now))
        .fetch_one(db)
        .await?;
    Ok((due, next.map(i64::unsigned_abs)))
}

/// Adds a host name to an app. One that it has stays; with `acme`, certificates are ordered for it from now on.
pub(crate) async fn add(tx: &mut Tx, app: i64, hostname: &Hostname, acme: bool, now: u64) -> Result<i64, Error> {
    let sql = "INSERT INTO hostnames (app_id, hostname, acme, created_at, next_at) VALUES (?1, ?2, ?3, ?4, ?4)
               ON CONFLICT (app_id, hostname) DO UPDATE SET acme = acme OR excluded.acme, next_at = excluded.next_at
               RETURNING id";
    let added = sqlx::query_scalar(sql).bind(app).bind(hostname.as_str()).bind(acme).bind(to_i64(now));
    Ok(added.fetch_one(&mut **tx).await?)
}

/// Removes a host name with all that hangs from it.
pub(crate) async fn delete(tx: &mut Tx, id: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM hostnames WHERE id = ?").bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// No more certificates are ordered for it.
pub(crate) async fn order_none(tx: &mut Tx, id: i64) -> Result<(), Error> {
    let sql = "UPDATE hostnames SET acme = 0, failures = 0, failure = NULL WHERE id = ?";
    sqlx::query(sql).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// What DNS says now.
pub(crate) async fn set_seen(tx: &mut Tx, id: i64, seen: &DnsSeen, reaches_edge: bool, now: u64) -> Result<(), Error> {
    sqlx::query("UPDATE hostnames SET seen = ?, reaches_edge = ?, checked_at = ? WHERE id = ?")
        .bind(super::to_json(seen))
        .bind(reaches_edge)
        .bind(to_i64(now))
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Whether it is its app's own. Either way what was in vain before is over.
pub(crate) async fn set_proven(tx: &mut Tx, id: i64, at: Option<u64>) -> Result<(), Error> {
    sqlx::query("UPDATE hostnames SET proven_at = ?, failures = 0 WHERE id = ?")
        .bind(at.map(to_i64))
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// An order failed: when the keeper looks again, after how many failures, and before when nothing is ordered.
pub(crate) async fn set_failed(
    tx: &mut Tx,
    id: i64,
    (next_at, no_order_before): (u64, u64),
    failures: u32,
    failure: &Failure,
) -> Result<(), Error> {
    let sql = "UPDATE hostnames SET next_at = ?, no_order_before = ?, failures = ?, failure = ? WHERE id = ?";
    sqlx::query(sql)
        .bind(to_i64(next_at))
        .bind(to_i64(no_order_before))
        .bind(failures)
        .bind(super::to_json(failure))
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// An order succeeded: the keeper looks at once when the next one is due.
pub(crate) async fn set_issued(tx: &mut Tx, id: i64, now: u64) -> Result<(), Error> {
    let sql = "UPDATE hostnames SET next_at = ?, no_order_before = NULL, failures = 0, failure = NULL WHERE id = ?";
    sqlx::query(sql).bind(to_i64(now)).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// When the keeper looks again, after so many looks in vain, unless it has been hurried since `picked`.
pub(crate) async fn set_next_since(
    tx: &mut Tx,
    id: i64,
    picked: i64,
    next_at: u64,
    failures: u32,
) -> Result<(), Error> {
    let sql = "UPDATE hostnames SET next_at = ?, failures = ? WHERE id = ? AND next_at = ?";
    sqlx::query(sql).bind(to_i64(next_at)).bind(failures).bind(id).bind(picked).execute(&mut **tx).await?;
    Ok(())
}

/// Has the keeper look at once.
pub(crate) async fn hurry(tx: &mut Tx, id: i64, now: u64) -> Result<(), Error> {
    sqlx::query("UPDATE hostnames SET next_at = ? WHERE id = ?").bind(to_i64(now)).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// Has the keeper look at once at all that were waiting for something that a new start may have brought.
pub(crate) async fn hurry_after_start(tx: &mut Tx, now: u64) -> Result<(), Error> {
    let sql = "UPDATE hostnames SET next_at = ?1 WHERE next_at > ?1
               AND json_extract(failure, '$.code') IN ('acme_off', 'no_method')";
    sqlx::query(sql).bind(to_i64(now)).execute(&mut **tx).await?;
    Ok(())
}

/// The certificates of a host name, the preferred one first.
pub(crate) async fn certificates(db: impl SqliteExecutor<'_>, id: i64) -> Result<Vec<CertificateRow>, Error> {
    let sql = "SELECT * FROM certificates WHERE hostname_id = ? ORDER BY source = 'acme'";
    Ok(sqlx::query_as(sql).bind(id).fetch_all(db).await?)
}

/// Those of every host name, grouped by it.
pub(crate) async fn all_certificates(db: impl SqliteExecutor<'_>) -> Result<Vec<CertificateRow>, Error> {
    Ok(sqlx::query_as("SELECT * FROM certificates ORDER BY hostname_id, source = 'acme'").fetch_all(db).await?)
}

/// Puts a certificate in the place of the one before it.
pub(crate) async fn put_certificate(
    tx: &mut Tx,
    id: i64,
    source: Source,
    (chain_pem, sealed_key): (&str, &[u8]),
    facts: &CertificateFacts,
    now: u64,
) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO certificates
               (hostname_id, source, chain_pem, sealed_key, not_before, not_after, issuer, key_kind, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(sql)
        .bind(id)
        .bind(source.as_str())
        .bind(chain_pem)
        .bind(sealed_key)
        .bind(to_i64(facts.not_before.0))
        .bind(to_i64(facts.not_after.0))
        .bind(&facts.issuer)
        .bind(facts.key_kind)
        .bind(to_i64(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// When an ordered certificate is to be renewed.
pub(crate) async fn set_renewal(tx: &mut Tx, id: i64, at: u64) -> Result<(), Error> {
    let sql = "UPDATE certificates SET renew_at = ? WHERE hostname_id = ? AND source = 'acme'";
    sqlx::query(sql).bind(to_i64(at)).bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// Forgets a certificate.
pub(crate) async fn delete_certificate(tx: &mut Tx, id: i64, source: Source) -> Result<(), Error> {
    let sql = "DELETE FROM certificates WHERE hostname_id = ? AND source = ?";
    sqlx::query(sql).bind(id).bind(source.as_str()).execute(&mut **tx).await?;
    Ok(())
}
