//! What a follower hears becomes its own catalog. What it hears is bounded, whoever says it.

use std::{
    collections::{BTreeSet, HashSet},
    mem,
    sync::Arc,
};

use model::MachineId;
use thiserror::Error;

use crate::{Publisher, Quarantined, RowChange, lines::Line};

/// Longest line: a machine with thousands of ports of its own fits.
const MAX_LINE_BYTES: usize = 4 << 20;
/// How many lines that cannot be read are remembered.
const MAX_UNREADABLE: usize = 1_000;

/// Why what was heard cannot be followed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IntakeError {
    /// A line does not end.
    #[error("a line of the catalog is longer than {MAX_LINE_BYTES} bytes; is that the address of a control plane?")]
    TooLong,
}

/// What a follower hears, put together.
pub struct Intake {
    catalog: Arc<Publisher>,
    /// The beginning of a line.
    line: Vec<u8>,
    /// What has been told again, if all is to be.
    told: Option<HashSet<MachineId>>,
    /// Something was told that does not count yet.
    uncounted: bool,
    unreadable: BTreeSet<Quarantined>,
}

impl Intake {
    /// What is heard from now on becomes part of this catalog.
    pub fn new(catalog: Arc<Publisher>) -> Self {
        Self { catalog, line: Vec::new(), told: None, uncounted: false, unreadable: BTreeSet::new() }
    }

    /// The catalog that it becomes.
    pub fn catalog(&self) -> &Arc<Publisher> {
        &self.catalog
    }

    /// From which generation on to ask for more; `None` if all has to be told.
    pub fn since(&self) -> Option<u64> {
        let generation = self.catalog.reader().load().generation;
        (!self.uncounted && generation > 0).then_some(generation)
    }

    /// Another connection begins: what was cut off is told again.
    pub fn begin(&mut self) {
        self.line.clear();
        self.told = None;
    }

    /// Hears some bytes.
    ///
    /// # Errors
    /// If it is no catalog.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line = mem::take(&mut self.line);
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.take(&line);
            line.clear();
            self.line = line;
        }
        if self.line.len() + rest.len() > MAX_LINE_BYTES {
            return Err(IntakeError::TooLong);
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    fn take(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        match serde_json::from_slice(line) {
            Ok(Line::Whole(())) => self.told = Some(HashSet::new()),
            Ok(Line::Row(row)) => {
                if let Some(told) = &mut self.told {
                    told.insert(row.id.clone());
                }
                self.stage(RowChange::Put(row));
            }
            Ok(Line::Gone(id)) => self.stage(RowChange::Remove(id)),
            Ok(Line::Generation(generation)) => self.count(generation),
            Err(error) if self.unreadable.len() < MAX_UNREADABLE => {
                self.unreadable.insert(Quarantined::unreadable(line, &error));
            }
            Err(_) => {}
        }
    }

    fn stage(&mut self, change: RowChange) {
        self.uncounted = true;
        self.catalog.stage(change);
    }

    /// All that was told counts.
    fn count(&mut self, generation: u64) {
        self.catalog.commit(generation, self.told.take().as_ref(), &self.unreadable);
        self.uncounted = false;
    }
}
