//! Apps in maintenance mode.

use api::internal::{MaintenanceNotice, MaintenanceView};
use model::{AppName, Timestamp};
use sqlx::SqliteExecutor;

use super::{Tx, to_i64};
use crate::error::Error;

#[derive(sqlx::FromRow)]
struct Row {
    #[sqlx(try_from = "String")]
    name: AppName,
    #[sqlx(try_from = "i64")]
    since: u64,
    message: String,
    retry_after_s: u32,
}

/// All of them.
pub(crate) async fn all(db: impl SqliteExecutor<'_>) -> Result<MaintenanceView, Error> {
    let sql = "SELECT a.name, m.since, m.message, m.retry_after_s FROM maintenance m JOIN apps a ON a.id = m.app_id";
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(db).await?;
    let notice = |row: Row| {
        let Row { name, since, message, retry_after_s } = row;
        (name, MaintenanceNotice { since: Timestamp(since), message, retry_after_s })
    };
    Ok(rows.into_iter().map(notice).collect())
}

/// Says what visitors of an app are told. It stays in maintenance mode since it was first.
pub(crate) async fn put(tx: &mut Tx, app: i64, notice: &MaintenanceNotice) -> Result<(), Error> {
    let sql = "INSERT INTO maintenance (app_id, since, message, retry_after_s) VALUES (?, ?, ?, ?)
               ON CONFLICT (app_id) DO UPDATE SET message = excluded.message, retry_after_s = excluded.retry_after_s";
    sqlx::query(sql)
        .bind(app)
        .bind(to_i64(notice.since.0))
        .bind(&notice.message)
        .bind(notice.retry_after_s)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// It is over.
pub(crate) async fn delete(tx: &mut Tx, app: i64) -> Result<(), Error> {
    sqlx::query("DELETE FROM maintenance WHERE app_id = ?").bind(app).execute(&mut **tx).await?;
    Ok(())
}
