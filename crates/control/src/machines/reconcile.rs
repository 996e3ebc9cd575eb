//! Repair: what is stored as wanted and what the node has are brought together again.
//!
//! | wanted | the node | then |
//! |---|---|---|
//! | a spec | has not heard of it | it is told to make the machine |
//! | a spec that destroys itself | has not heard of it, or destroyed it | it is written down as destroyed |
//! | a spec | has another version | it is given the spec |
//! | gone | still has it | it is told to destroy it |
//! | gone | does not have it | it is written down as destroyed |
//! | nothing | has it | it is left alone and reported: data may be at stake |

use kit::report::Report;
use model::{MachineId, machine::MachineState};

use crate::{
    Control,
    error::Error,
    store::machines::{self, MachineRow},
};

impl Control {
    /// Repairs everything. Done once at the start, before deployments go on.
    pub(crate) async fn reconcile(&self) -> Result<(), Error> {
        let rows = machines::all(self.store.reader()).await?;
        let view = self.view();
        for (id, observed) in &view.machines {
            let known = rows.iter().any(|row| row.spec.id == *id);
            if !known && observed.state != MachineState::Destroyed {
                tracing::warn!(machine = %id, app = %observed.spec.app, "the host has a machine that nobody asked for");
            }
        }
        for row in rows {
            let id = row.spec.id.clone();
            if let Err(error) = self.repair(row).await {
                tracing::error!(machine = %id, "cannot repair a machine: {}", Report(&error));
            }
        }
        Ok(())
    }

    async fn repair(&self, row: MachineRow) -> Result<(), Error> {
        let observed = self.observed(&row.spec.id);
        match observed {
            _ if row.gone => self.remove(&row.spec.id, true).await,
            None if row.spec.config.auto_destroy => self.note_destroyed(&row.spec.id).await,
            None => self.launch(row.app_id, row.spec, row.launch, None).await,
            Some(observed) if observed.spec.version != row.spec.version => {
                self.give_spec(row.app_id, row.spec, None).await
            }
            Some(observed) if observed.spec.config.metadata != row.spec.config.metadata => {
                Ok(self.ports.node.set_metadata(&row.spec.id, row.spec.config.metadata).await?)
            }
            Some(_) => Ok(()),
        }
    }

    async fn note_destroyed(&self, id: &MachineId) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        machines::set_destroyed(&mut tx, id).await?;
        self.store.commit(tx).await
    }

    /// Writes down which machines have destroyed themselves, and tries again to remove those that are wanted gone.
    pub(crate) async fn remove_leftovers(&self) -> Result<(), Error> {
        let view = self.view();
        for row in machines::all(self.store.reader()).await? {
            let id = &row.spec.id;
            if view.machines.get(id).is_some_and(|observed| observed.state == MachineState::Destroyed) {
                self.note_destroyed(id).await?;
            }
        }
        let leftovers = machines::all(self.store.reader()).await?.into_iter().filter(|row| row.gone);
        let leftovers: Vec<MachineId> = leftovers.map(|row| row.spec.id).collect();
        for id in leftovers {
            if let Err(error) = self.remove(&id, true).await {
                tracing::warn!(machine = %id, "a machine is not gone yet: {}", Report(&error));
            }
        }
        Ok(())
    }
}
