//! The last good picture on the disk: rows and their generation as JSON. What cannot be read of it is left out row by
//! row; a file that cannot be read at all counts as absent, since the node will speak soon.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{MachineRoute, Quarantined, Snapshot};

/// Why the catalog could not be kept.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The file could not be written.
    #[error("the catalog could not be saved to {}; check that the disk has room and may be written", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The file as written.
#[derive(Serialize)]
struct Written<'a> {
    generation: u64,
    machines: Vec<&'a MachineRoute>,
}

/// The file as read: each row by itself.
#[derive(Deserialize)]
struct Read {
    generation: u64,
    machines: Vec<Value>,
}

/// The rows of a picture as they go to the disk.
pub(crate) fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut machines: Vec<&MachineRoute> = snapshot.machines().map(AsRef::as_ref).collect();
    machines.sort_by(|a, b| a.id.cmp(&b.id));
    let written = Written { generation: snapshot.generation, machines };
    serde_json::to_vec(&written).expect("a row is plain data with text keys")
}

/// The picture that lies on the disk, as far as it can be read.
pub(crate) fn decode(bytes: &[u8]) -> Result<Snapshot, serde_json::Error> {
    let file: Read = serde_json::from_slice(bytes)?;
    let mut unreadable = Vec::new();
    let rows: Vec<MachineRoute> = file.machines.into_iter().filter_map(|row| read_row(row, &mut unreadable)).collect();
    let mut snapshot = Snapshot::of_rows(file.generation, rows);
    snapshot.quarantined.extend(unreadable);
    Ok(snapshot)
}

fn read_row(row: Value, unreadable: &mut Vec<Quarantined>) -> Option<MachineRoute> {
    let word = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let (app, machine) = (word("app").and_then(|app| app.parse().ok()), word("id").and_then(|id| id.parse().ok()));
    serde_json::from_value(row)
        .map_err(|error| {
            unreadable.push(Quarantined { app, machine, reason: format!("its row cannot be read: {error}") })
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_cannot_be_read_takes_no_other_with_it() {
        let good = crate::build::tests::row("shop", 1);
        let mut poisoned = serde_json::to_value(&good).unwrap();
        poisoned["id"] = "not a machine id".into();
        let file = serde_json::json!({"generation": 7, "machines": [poisoned, good]});
        let snapshot = decode(file.to_string().as_bytes()).unwrap();
        assert_eq!(snapshot.generation, 7);
        assert_eq!(snapshot.machines().count(), 1);
        assert_eq!(snapshot.quarantined.len(), 1);
        assert_eq!(snapshot.quarantined[0].app.as_ref().unwrap().as_str(), "shop");
    }
}
