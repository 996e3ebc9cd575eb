//! What a machine and the platform say about it: one kind of record, so that one query tells the whole story.

use serde::{Deserialize, Serialize};

use crate::{AppName, MachineId, Region};

/// Who wrote a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
    /// The guest kernel and the guest's init.
    Guest,
    /// The platform: machine lifecycle, health checks, proxy errors.
    Platform,
    /// The proxy, about one request: an access record.
    Access,
}

/// One line of an app's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogRecord {
    /// When it was written: nanoseconds since 1970 (UTC).
    pub timestamp_ns: u64,
    /// The app.
    pub app: AppName,
    /// The machine, unless the record is about the app as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Where it was written.
    pub region: Region,
    /// Who wrote it.
    pub source: LogSource,
    /// The text, without its line end. Bytes that are not UTF-8 are replaced.
    pub message: String,
}
