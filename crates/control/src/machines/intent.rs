//! Handing what is wanted of a machine to its node: stored first, then told.
//!
//! One intent at a time is on its way, so that a repair never overtakes a request. The node answers as soon as the
//! intent is in its ledger, so the turn is short.

use api::internal::{Launch, NodeError};
use model::{MachineId, machine::MachineSpec};

use crate::{
    Control,
    error::Error,
    store::{apps, leases, machines},
};

impl Control {
    /// Wants a new machine. What the node refuses at once is forgotten again. A deployment holds a lease on what it
    /// makes.
    pub(crate) async fn launch(
        &self,
        app: i64,
        spec: MachineSpec,
        launch: Launch,
        lease: Option<&leases::LeaseRow>,
    ) -> Result<(), Error> {
        let _turn = self.intents.lock().await;
        let known = machines::find(self.store.reader(), app, &spec.id).await?;
        let is_new = known.is_none();
        let spec = match known {
            // Going on after a crash: the spec that was stored then is the one the node may know.
            Some(row) => row.spec,
            None => {
                let mut tx = self.store.begin().await?;
                // Whoever destroys the app has said so before looking for its machines, so none is overlooked.
                if !apps::stays(&mut *tx, app).await? {
                    return Err(Error::not_found("app", spec.app.as_str()));
                }
                machines::insert(&mut tx, app, &spec, launch).await?;
                if let Some(lease) = lease {
                    leases::put(&mut tx, lease).await?;
                }
                self.store.commit(tx).await?;
                spec
            }
        };
        let id = spec.id.clone();
        match self.ports.node.create(spec, launch).await {
            Ok(_) => Ok(()),
            Err(refused) if !is_new => Err(refused.into()),
            Err(refused) => {
                let mut tx = self.store.begin().await?;
                machines::delete(&mut tx, &id).await?;
                self.store.commit(tx).await?;
                Err(refused.into())
            }
        }
    }

    /// Wants another spec of a machine, if it still has the version that the caller has seen. What the node refuses
    /// is taken back.
    pub(crate) async fn give_spec(&self, app: i64, spec: MachineSpec, expected: Option<&str>) -> Result<(), Error> {
        let _turn = self.intents.lock().await;
        let id = spec.id.clone();
        let before = machines::find(self.store.reader(), app, &id).await?;
        let before = before.filter(|row| !row.gone).ok_or_else(|| Error::not_found("machine", id.as_str()))?.spec;
        if let Some(expected) = expected.filter(|expected| !expected.is_empty() && *expected != before.version.as_str())
        {
            return Err(Error::Conflict {
                message: format!("machine {id} has version {} by now, not {expected}", before.version),
                hint: "read the machine again and apply the change to what it is now",
            });
        }
        self.store_spec(&spec).await?;
        match self.ports.node.update(spec).await {
            Ok(_) => Ok(()),
            Err(refused) => {
                self.store_spec(&before).await?;
                Err(refused.into())
            }
        }
    }

    async fn store_spec(&self, spec: &MachineSpec) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        machines::set_spec(&mut tx, spec).await?;
        self.store.commit(tx).await
    }

    /// Changes a machine's labels, which makes no new version.
    pub(crate) async fn change_metadata(
        &self,
        app: i64,
        id: &MachineId,
        change: impl FnOnce(&mut std::collections::BTreeMap<String, String>) + Send,
    ) -> Result<(), Error> {
        let _turn = self.intents.lock().await;
        let row = machines::find(self.store.reader(), app, id).await?;
        let mut spec = row.ok_or_else(|| Error::not_found("machine", id.as_str()))?.spec;
        change(&mut spec.config.metadata);
        self.store_spec(&spec).await?;
        Ok(self.ports.node.set_metadata(id, spec.config.metadata).await?)
    }

    /// Wants a machine gone, and waits until it is. A node that refuses keeps it.
    pub(crate) async fn remove(&self, id: &MachineId, force: bool) -> Result<(), Error> {
        self.set_gone(id, true).await?;
        match self.ports.node.destroy(id, force).await {
            Ok(()) | Err(NodeError::NotFound(_)) => {}
            Err(refused @ NodeError::Denied { .. }) => {
                self.set_gone(id, false).await?;
                return Err(refused.into());
            }
            // It stays wanted gone; the sweep tries again.
            Err(error) => return Err(error.into()),
        }
        let mut tx = self.store.begin().await?;
        leases::delete(&mut tx, id).await?;
        machines::set_destroyed(&mut tx, id).await?;
        self.store.commit(tx).await
    }

    async fn set_gone(&self, id: &MachineId, gone: bool) -> Result<(), Error> {
        let _turn = self.intents.lock().await;
        let mut tx = self.store.begin().await?;
        machines::set_gone(&mut tx, id, gone).await?;
        self.store.commit(tx).await
    }
}
