//! Maintenance mode by request: stored, then told to the edge.

use std::sync::Arc;

use api::{
    internal::{MaintenanceNotice, MaintenanceView},
    public::maintenance::{BeginMaintenance, Maintenance, RETRY_AFTER_S},
};
use kit::clock::unix_ms;
use model::{AppName, Timestamp};
use tokio::sync::watch;

use crate::{
    Control,
    error::Error,
    store::{apps::AppRow, maintenance},
};

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 1000;
/// The longest time after which visitors are told to try again, in seconds.
const MAX_RETRY_AFTER_S: u32 = 86_400;

impl Control {
    /// The apps that are in maintenance mode, now and at every change.
    pub fn maintenance(&self) -> watch::Receiver<Arc<MaintenanceView>> {
        self.maintenance.subscribe()
    }

    /// Begins it, or changes what visitors are told.
    pub(crate) async fn begin_maintenance(
        &self,
        app: &AppRow,
        request: BeginMaintenance,
    ) -> Result<Maintenance, Error> {
        app.require_living()?;
        let notice = notice(request)?;
        let mut tx = self.store.begin().await?;
        maintenance::put(&mut tx, app.id, &notice).await?;
        self.store.commit(tx).await?;
        self.tell_maintenance().await?;
        Ok(self.maintenance_of(&app.name))
    }

    /// Ends it.
    pub(crate) async fn end_maintenance(&self, app: &AppRow) -> Result<Maintenance, Error> {
        let mut tx = self.store.begin().await?;
        maintenance::delete(&mut tx, app.id).await?;
        self.store.commit(tx).await?;
        self.tell_maintenance().await?;
        Ok(self.maintenance_of(&app.name))
    }

    /// Whether an app is in it.
    pub(crate) fn maintenance_of(&self, app: &AppName) -> Maintenance {
        let view = self.maintenance.borrow();
        view.get(app).map_or_else(Maintenance::default, |notice| Maintenance {
            enabled: true,
            since: Some(notice.since),
            message: notice.message.clone(),
            retry_after_s: Some(notice.retry_after_s),
        })
    }

    /// Tells the edge what is stored. Whoever reads later tells later, so that nothing older is told last.
    pub(crate) async fn tell_maintenance(&self) -> Result<(), Error> {
        let _told_in_order = self.telling.lock().await;
        let view = maintenance::all(self.store.reader()).await?;
        self.maintenance.send_if_modified(|told| {
            let differs = **told != view;
            if differs {
                *told = Arc::new(view);
            }
            differs
        });
        Ok(())
    }
}

fn notice(request: BeginMaintenance) -> Result<MaintenanceNotice, Error> {
    let BeginMaintenance { message, retry_after_s } = request;
    let retry_after_s = retry_after_s.unwrap_or(RETRY_AFTER_S);
    if message.len() > MAX_MESSAGE {
        return Err(Error::invalid(format!("message: {} bytes; at most {MAX_MESSAGE} are shown", message.len())));
    }
    if !(1..=MAX_RETRY_AFTER_S).contains(&retry_after_s) {
        return Err(Error::invalid(format!("retry_after_s: {retry_after_s}; say 1 to {MAX_RETRY_AFTER_S} seconds")));
    }
    Ok(MaintenanceNotice { since: Timestamp(unix_ms()), message, retry_after_s })
}
