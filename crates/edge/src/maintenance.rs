//! Apps in maintenance mode: their visitors are told to come back later.
//!
//! What was told last lies on the disk, so that an edge that starts while the control plane is down opens no app that
//! its owner has closed. A file that cannot be read counts as absent: the control plane will speak.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use api::internal::{MaintenanceNotice, MaintenanceView};
use arc_swap::ArcSwap;
use model::AppName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Largest file that is read: thousands of apps with the longest messages.
const MAX_BYTES: u64 = 64 << 20;

/// The apps that are in maintenance mode.
pub struct Maintenance {
    path: PathBuf,
    view: ArcSwap<MaintenanceView>,
    /// There are none: what each request asks has to cost little.
    is_empty: AtomicBool,
}

impl Maintenance {
    /// What was told last, kept in the file `path`.
    pub fn open(path: PathBuf) -> Arc<Self> {
        let read = || -> io::Result<MaintenanceView> {
            if fs::metadata(&path)?.len() > MAX_BYTES {
                return Err(io::Error::other("it is too large"));
            }
            Ok(serde_json::from_slice(&fs::read(&path)?)?)
        };
        let view = read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!("which apps are in maintenance mode cannot be read from {}: {error}", path.display());
            }
            MaintenanceView::new()
        });
        let is_empty = AtomicBool::new(view.is_empty());
        Arc::new(Self { view: ArcSwap::from_pointee(view), is_empty, path })
    }

    /// Follows what the control plane tells, and keeps it on the disk, until `stop`.
    pub async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<MaintenanceView>>, stop: CancellationToken) {
        views.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = views.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let view = views.borrow_and_update().clone();
                    self.apply(view);
                    self.save().await;
                }
            }
        }
    }

    /// What holds now.
    pub fn view(&self) -> Arc<MaintenanceView> {
        self.view.load_full()
    }

    /// Holds from now on.
    pub fn apply(&self, view: Arc<MaintenanceView>) {
        let is_empty = view.is_empty();
        self.view.store(view);
        self.is_empty.store(is_empty, SeqCst);
    }

    async fn save(self: &Arc<Self>) {
        let this = self.clone();
        let saved = tokio::task::spawn_blocking(move || {
            let content = serde_json::to_vec(this.view.load().as_ref())?;
            kit::durable::write(&this.path, &content, 0o600)
        });
        if let Ok(Err(error)) = saved.await {
            tracing::error!("which apps are in maintenance mode cannot be kept in {}: {error}", self.path.display());
        }
    }

    /// What visitors of an app are told, if it is in maintenance mode.
    pub(crate) fn notice(&self, app: &str) -> Option<(AppName, MaintenanceNotice)> {
        if self.is_empty.load(Relaxed) {
            return None;
        }
        self.view.load().get_key_value(app).map(|(app, notice)| (app.clone(), notice.clone()))
    }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::*;

    #[tokio::test]
    async fn what_was_told_last_is_known_after_a_restart_and_a_damaged_file_closes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("maintenance.json");
        let notice = MaintenanceNotice { since: Timestamp(1), message: "soon".into(), retry_after_s: 60 };
        let view = MaintenanceView::from([("shop".parse().unwrap(), notice.clone())]);
        let maintenance = Maintenance::open(path.clone());
        maintenance.apply(Arc::new(view));
        maintenance.save().await;
        assert_eq!(Maintenance::open(path.clone()).notice("shop").map(|(_, notice)| notice), Some(notice));
        fs::write(&path, "{").unwrap();
        assert_eq!(Maintenance::open(path).notice("shop"), None);
    }
}
