//! One writer, many readers.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::internal::NodeView;
use arc_swap::ArcSwap;
use kit::report::Report;
use model::{MachineId, machine::Observed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{CatalogError, Change, MachineRoute, Quarantined, Snapshot, Worker, build::Builder, disk::Disk};

/// How long changes gather before they are saved.
const SAVE_AFTER: Duration = Duration::from_millis(200);
/// How long after a failure saving is tried again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Reads the catalog. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pictures: Arc<Pictures>,
    generation: watch::Receiver<u64>,
}

/// How many pictures are kept beside that of the moment. They share what is the same, so that one costs what it changed.
const KEPT: usize = 64;

/// The picture of the moment, and those before it.
#[derive(Default)]
struct Pictures {
    current: ArcSwap<Snapshot>,
    before: Mutex<VecDeque<Arc<Snapshot>>>,
}

impl Reader {
    /// The picture of this moment, without a lock.
    pub fn load(&self) -> Arc<Snapshot> {
        self.pictures.current.load_full()
    }

    /// A picture of the past, if it is still kept.
    pub(crate) fn kept(&self, generation: u64) -> Option<Arc<Snapshot>> {
        let before = self.pictures.before.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.load();
        let all = before.iter().chain([&now]);
        all.rev().find(|picture| picture.generation == generation).cloned()
    }

    /// Tells of each new picture by its generation.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// Makes the pictures, and keeps the last good one on the disk.
pub struct Publisher {
    pictures: Arc<Pictures>,
    generation: watch::Sender<u64>,
    writer: Mutex<Writer>,
    /// Held while the file is written: whoever saves next waits for it.
    disk: Mutex<Option<Disk>>,
}

/// What pictures are made from.
struct Writer {
    builder: Builder,
    /// What the node that lives now has said, if it has.
    said: Option<BTreeMap<MachineId, Arc<Observed>>>,
    /// By whom the node's machines are reached from other hosts.
    worker: Option<Arc<Worker>>,
}

/// What is new of one machine.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// It is there, and so it stands.
    Put(Box<MachineRoute>),
    /// It is no more.
    Remove(MachineId),
}

impl Publisher {
    /// Opens the catalog kept in `path` and publishes the last good picture; an empty one if there is none.
    pub fn open(path: PathBuf) -> Self {
        let mut builder = Builder::default();
        let (disk, snapshot) = Disk::open(path, &mut builder);
        Self::new(builder, Some(disk), snapshot)
    }

    /// An empty catalog that is kept nowhere.
    pub fn in_memory() -> Self {
        Self::new(Builder::default(), None, Snapshot::default())
    }

    fn new(builder: Builder, disk: Option<Disk>, snapshot: Snapshot) -> Self {
        let publisher = Self {
            pictures: Arc::default(),
            generation: watch::Sender::new(snapshot.generation),
            writer: Mutex::new(Writer { builder, said: None, worker: None }),
            disk: Mutex::new(disk),
        };
        publisher.swap(snapshot);
        publisher
    }

    /// A reader of this catalog.
    pub fn reader(&self) -> Reader {
        Reader { pictures: self.pictures.clone(), generation: self.generation.subscribe() }
    }

    /// The machines of every view from now on are reached from other hosts by this worker.
    pub fn reached_by(&self, worker: Worker) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).worker = Some(Arc::new(worker));
    }

    /// Publishes the picture of a view. A view older than one published before in this life changes nothing.
    pub fn apply(&self, view: &NodeView) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.said.is_some() && view.generation < self.pictures.current.load().generation {
            return;
        }
        writer.hear(view);
        self.swap(writer.builder.publish(view.generation));
    }

    /// Publishes the picture that these changes make of the one before. It costs what the apps have that change.
    pub fn change(&self, generation: u64, changes: impl IntoIterator<Item = RowChange>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        changes.into_iter().for_each(|change| writer.stage(change));
        self.swap(writer.builder.publish(generation));
    }

    /// Takes a change in that is published with the next picture.
    pub(crate) fn stage(&self, change: RowChange) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).stage(change);
    }

    /// Publishes all that was taken in. Of machines, only those of `all` stay, if it is given.
    pub(crate) fn commit(&self, generation: u64, all: Option<&HashSet<MachineId>>, unreadable: &BTreeSet<Quarantined>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = all {
            writer.builder.keep(|row| all.contains(&row.id));
        }
        writer.builder.unreadable(unreadable.clone());
        self.swap(writer.builder.publish(generation));
    }

    /// Publishes the picture that another process keeps in the same place now.
    pub fn reload(&self) {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = disk.as_ref().map(|disk| disk.path().to_owned()) else { return };
        let mut read = Builder::default();
        let (fresh, there) = Disk::open(path, &mut read);
        *disk = Some(fresh);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.builder.become_like(&read);
        self.swap(writer.builder.publish(there.generation));
    }

    /// Saves the picture if its rows have changed since it was last saved. Blocks on the disk.
    pub fn save(&self) -> Result<(), CatalogError> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.as_mut().map_or(Ok(()), |disk| disk.save(&self.pictures.current.load_full()))
    }

    /// Publishes every view of a node and saves what has changed, until `stop` or until the node is gone. Saving goes
    /// on beside publishing and never delays it.
    pub async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<NodeView>>, stop: CancellationToken) {
        views.mark_changed();
        let last = CancellationToken::new();
        let saver = tokio::spawn(self.clone().keep(last.clone()));
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
        last.cancel();
        let _ = saver.await;
    }

    /// Saves what has changed, until `stop` or until nothing can change any more.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.clone().save_in_time()).await;
        self.save_blocking().await;
    }

    /// Saves a little after each change, so that a burst of them is saved once.
    async fn save_in_time(self: Arc<Self>) {
        let mut changes = self.generation.subscribe();
        while changes.changed().await.is_ok() {
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
        let (generation, snapshot) = (snapshot.generation, Arc::new(snapshot));
        let before = self.pictures.current.swap(snapshot.clone());
        report(&before, &snapshot);
        let mut kept = self.pictures.before.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(before);
        if kept.len() > KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.generation.send_replace(generation);
    }
}

impl Writer {
    fn stage(&mut self, change: RowChange) {
        match change {
            RowChange::Put(row) => self.builder.put(*row),
            RowChange::Remove(id) => self.builder.remove(&id),
        }
    }

    /// Takes in what is new in a view. The node that lives now is right about itself: what the disk knew beside its first
    /// view is no more.
    fn hear(&mut self, view: &NodeView) {
        let said = self.said.take().unwrap_or_else(|| {
            self.builder.unreadable(Default::default());
            self.builder.keep(|row| view.machines.contains_key(&row.id));
            BTreeMap::new()
        });
        let same = |(id, now): &(&MachineId, &Arc<Observed>)| said.get(*id).is_some_and(|it| Arc::ptr_eq(it, now));
        for (id, observed) in view.machines.iter().filter(|it| !same(it)) {
            match MachineRoute::of(observed) {
                Some(row) => self.builder.put(MachineRoute { worker: self.worker.clone(), ..row }),
                None => self.builder.remove(id),
            }
        }
        said.keys().filter(|id| !view.machines.contains_key(*id)).for_each(|id| self.builder.remove(id));
        self.said = Some(view.machines.clone());
    }
}

/// Reports what is newly left out.
fn report(before: &Snapshot, now: &Snapshot) {
    for change in now.left_out.changes(&before.left_out) {
        let (before, now) = match change {
            Change::Came(now) => (None, now),
            Change::Became { before, now } => (Some(before), now),
            Change::Went(_) => continue,
        };
        for left_out in now.what.iter().filter(|it| !before.as_ref().is_some_and(|before| before.what.contains(it))) {
            let name = |name: Option<String>| name.unwrap_or_else(|| "?".into());
            let app = name(left_out.app.clone().map(String::from));
            let machine = name(left_out.machine.clone().map(String::from));
            tracing::warn!(app, machine, "left out of the catalog: {}", left_out.reason);
        }
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
