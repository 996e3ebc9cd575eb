//! One writer, many readers.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::internal::NodeView;
use arc_swap::ArcSwap;
use kit::report::Report;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{CatalogError, Quarantined, Snapshot, disk};

/// How long changes gather before they are saved.
const SAVE_AFTER: Duration = Duration::from_millis(200);
/// How long after a failure saving is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Reads the catalog. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Receiver<u64>,
}

impl Reader {
    /// The picture of this moment, without a lock.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Tells of each new picture by its generation.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// Makes the pictures, and keeps the last good one on the disk.
pub struct Publisher {
    path: PathBuf,
    current: Arc<ArcSwap<Snapshot>>,
    generation: watch::Sender<u64>,
    /// The picture comes from a node of this life, not from the disk.
    live: AtomicBool,
    /// The rows differ from those on the disk; cleared before they are encoded, so that none is missed.
    unsaved: AtomicBool,
    /// Held while the file is written: whoever saves next waits for it.
    saving: Mutex<()>,
    /// What has been reported already.
    reported: Mutex<BTreeSet<Quarantined>>,
}

impl Publisher {
    /// Opens the catalog kept in `path` and publishes the last good picture; an empty one if there is none.
    pub fn open(path: PathBuf) -> Self {
        let snapshot = last_good(&path);
        let publisher = Self {
            path,
            generation: watch::Sender::new(snapshot.generation),
            current: Arc::new(ArcSwap::from_pointee(Snapshot::default())),
            live: AtomicBool::new(false),
            unsaved: AtomicBool::new(false),
            saving: Mutex::default(),
            reported: Mutex::default(),
        };
        publisher.swap(snapshot);
        publisher
    }

    /// A reader of this catalog.
    pub fn reader(&self) -> Reader {
        Reader { current: self.current.clone(), generation: self.generation.subscribe() }
    }

    /// Publishes the picture of a view. A view older than one published before in this life changes nothing.
    pub fn apply(&self, view: &NodeView) {
        let before = self.current.load_full();
        if self.live.swap(true, Ordering::Relaxed) && view.generation < before.generation {
            return;
        }
        let snapshot = Snapshot::of_view(view);
        if !snapshot.same_rows(&before) {
            self.unsaved.store(true, Ordering::Relaxed);
        }
        self.swap(snapshot);
    }

    /// Publishes the picture that another process keeps in the same place now.
    pub fn reload(&self) {
        let snapshot = last_good(&self.path);
        if !snapshot.same_rows(&self.current.load()) {
            self.swap(snapshot);
        }
    }

    /// Saves the picture if its rows have changed since it was last saved. Blocks on the disk.
    pub fn save(&self) -> Result<(), CatalogError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let content = disk::encode(&self.current.load());
        kit::durable::write(&self.path, &content, 0o600).map_err(|source| {
            self.unsaved.store(true, Ordering::Relaxed);
            CatalogError::Save { path: self.path.clone(), source }
        })
    }

    /// Publishes every view of a node and saves what has changed, until `stop` or until the node is gone. Saving goes
    /// on beside publishing and never delays it.
    pub async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<NodeView>>, stop: CancellationToken) {
        views.mark_changed();
        let saver = tokio::spawn(self.clone().save_in_time(stop.child_token()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = views.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let view = views.borrow_and_update().clone();
                    self.apply(&view);
                }
            }
        }
        saver.abort();
        let _ = saver.await;
        self.save_blocking().await;
    }

    /// Saves a little after each change, so that a burst of them is saved once.
    async fn save_in_time(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.generation.subscribe();
        while !stop.is_cancelled() && changes.changed().await.is_ok() {
            tokio::time::sleep(SAVE_AFTER).await;
            changes.mark_unchanged();
            while !self.clone().save_blocking().await {
                tokio::time::sleep(SAVE_AGAIN_AFTER).await;
            }
        }
    }

    /// Saves where blocking is allowed, and reports a failure. Tells whether it is saved.
    async fn save_blocking(self: Arc<Self>) -> bool {
        let saved = tokio::task::spawn_blocking(move || self.save()).await;
        match saved {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!("{}", Report(&error));
                false
            }
            Err(_) => false,
        }
    }

    fn swap(&self, snapshot: Snapshot) {
        self.report(&snapshot.quarantined);
        let generation = snapshot.generation;
        self.current.store(Arc::new(snapshot));
        self.generation.send_replace(generation);
    }

    /// Reports what is newly left out.
    fn report(&self, quarantined: &[Quarantined]) {
        let now: BTreeSet<Quarantined> = quarantined.iter().cloned().collect();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        for Quarantined { app, machine, reason } in now.difference(&reported) {
            let name = |name: Option<String>| name.unwrap_or_else(|| "?".into());
            let (app, machine) = (name(app.clone().map(String::from)), name(machine.clone().map(String::from)));
            tracing::warn!(app, machine, "left out of the catalog: {reason}");
        }
        *reported = now;
    }
}

/// The picture on the disk, or an empty one, with the reason told.
fn last_good(path: &Path) -> Snapshot {
    let read = fs::read(path).and_then(|bytes| disk::decode(&bytes).map_err(io::Error::from));
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!("{} cannot be read and is made anew: {error}", path.display());
        }
        Snapshot::default()
    })
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
