//! The database: SQLite in one file, opened by this room alone.
//!
//! One connection writes, a few read beside it (write-ahead logging). A transaction that has been committed is on the
//! disk (`synchronous = FULL`): nodes act on what is stored here, so it must not be forgotten when the power fails.
//! Writes are few (deployments, secrets, leases), so the price does not matter.
//!
//! The functions of the modules below take any connection, so that several of them make one transaction:
//!
//! ```text
//! let mut tx = store.begin().await?;      // the one writer, BEGIN IMMEDIATE
//! releases::insert(&mut tx, …).await?;
//! deployments::insert(&mut tx, …).await?;
//! store.commit(tx).await?;                // durable; wakes everyone who waits for a change
//! ```

pub(crate) mod apps;
pub(crate) mod deployments;
pub(crate) mod hostnames;
pub(crate) mod leases;
pub(crate) mod machines;
pub(crate) mod maintenance;
pub(crate) mod orders;
pub(crate) mod orgs;
pub(crate) mod releases;
pub(crate) mod secrets;
pub(crate) mod tokens;

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use crate::error::{ControlError, Error};

/// The control plane's database. Cheap to clone. It also answers the registry's questions (see [`crate::registry`]),
/// which is why it can be opened before the rest of the control plane.
#[derive(Clone)]
pub struct Store {
    reader: SqlitePool,
    writer: SqlitePool,
    changes: Arc<watch::Sender<u64>>,
}

/// A write transaction. Dropped, it is rolled back.
pub(crate) type Tx = Transaction<'static, Sqlite>;

const READERS: u32 = 4;
/// Longest wait for a connection: longer means that the disk does not answer.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

impl Store {
    /// Opens `<data_dir>/control.db`, makes it if there is none, and brings it up to date.
    ///
    /// # Errors
    /// If the directory cannot be written to, or the file is not a database of this version or an older one.
    pub async fn open(data_dir: &Path) -> Result<Self, ControlError> {
        let path = data_dir.join("control.db");
        create_private(data_dir, &path)
            .map_err(|source| ControlError::DataDirectory { path: data_dir.display().to_string(), source })?;
        let name = path.display().to_string();
        let database = |source| ControlError::Database { path: name.clone(), source };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        let writer = pool(1).connect_with(options.clone()).await.map_err(database)?;
        sqlx::migrate!().run(&writer).await.map_err(|source| ControlError::Migration { path: name.clone(), source })?;
        let reader = pool(READERS).connect_with(options.read_only(true)).await.map_err(database)?;
        let store = Self { reader, writer, changes: Arc::new(watch::Sender::new(0)) };
        orgs::ensure_default(&store).await?;
        Ok(store)
    }

    /// Where reads go.
    pub(crate) fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Begins a write. There is one writer, so this waits for the write before it.
    pub(crate) async fn begin(&self) -> Result<Tx, Error> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Makes a write durable and wakes everyone who waits for a change.
    pub(crate) async fn commit(&self, tx: Tx) -> Result<(), Error> {
        tx.commit().await?;
        self.changes.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Tells of every committed write from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Closes the files. What is under way fails.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Makes the database file readable for its owner alone before SQLite does it otherwise; the files beside it get the
/// same permissions from SQLite.
fn create_private(directory: &Path, path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

/// A value as the JSON of a column.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the platform's own types are written as JSON")
}

/// The value of a JSON column.
pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| Error::unreadable(what)(error.into()))
}

/// The word that an enum's JSON is, for a column that SQL compares.
pub(crate) fn to_word<T: Serialize>(value: &T) -> String {
    to_json(value).trim_matches('"').to_owned()
}

/// The enum that a column's word stands for.
pub(crate) fn from_word<T: DeserializeOwned>(what: &'static str, word: &str) -> Result<T, Error> {
    from_json(what, &format!("\"{word}\""))
}

/// A number for a column. SQLite has no unsigned ones; nothing here comes near the end of the signed.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
