//! Custom host names: whose each is, and the certificate that proves it.
//!
//! ```text
//!  control ──HostnameView──▶ follow ──▶ Table (immutable, swapped whole) ──▶ route, TLS handshake
//!                              │  ▲
//!                              ▼  │ at start
//!                       one file per name, its key sealed
//! ```
//!
//! What is served here must not stop because something else is down. The names and their certificates lie on the disk,
//! so that a restart needs no control plane; a file that cannot be read takes no other with it; a view that could not
//! be read whole removes nothing; and a certificate that cannot be used does not take the place of one that can.
//! Private keys stay sealed until the first handshake that needs them.

mod disk;
mod entry;

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::internal::{ChallengeAnswer, ChallengeDoor, HostnameView};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use kit::seal::SealingKey;
use model::{AppName, Hostname, Timestamp};
use rustls::{ServerConfig, server::ClientHello, sign::CertifiedKey};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::{disk::Disk, entry::Entry};
use crate::tls::Challenges;

/// When names that could not be saved are saved again.
const SAVE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The custom host names that this edge serves, and the challenges that it answers for them.
pub struct Hostnames {
    table: ArcSwap<Table>,
    disk: Disk,
    sealing_key: SealingKey,
    /// Names whose files differ from what is served.
    unsaved: Mutex<BTreeSet<Hostname>>,
    changed: Notify,
    challenges: Challenges,
}

/// The names of one moment. Immutable.
#[derive(Default)]
struct Table(HashMap<Hostname, Arc<Entry>>);

impl Table {
    /// The entry that answers to a name: its own, or that of the wildcard above it.
    fn find(&self, name: &str) -> Option<&Arc<Entry>> {
        self.0.get(name).or_else(|| self.wildcard(name))
    }

    fn wildcard(&self, name: &str) -> Option<&Arc<Entry>> {
        Hostname::wildcard_over(name).and_then(|wildcard| self.0.get(wildcard.as_str()))
    }

    /// The table of a view, as much of this one kept as is the same, or better.
    fn followed_by(&self, view: &HostnameView, key: &SealingKey) -> Self {
        let told = view.rows.iter().map(|(name, row)| {
            let before = self.0.get(name);
            let same = before.filter(|before| *before.told == **row);
            (name.clone(), same.cloned().unwrap_or_else(|| Arc::new(Entry::told(row, before.map(AsRef::as_ref), key))))
        });
        let mut table: HashMap<_, _> = told.collect();
        if view.incomplete {
            for (name, entry) in &self.0 {
                table.entry(name.clone()).or_insert_with(|| entry.clone());
            }
        }
        Self(table)
    }

    /// The names whose entries differ.
    fn differences(&self, other: &Self) -> BTreeSet<Hostname> {
        let same = |name: &Hostname, entry: &Arc<Entry>, in_table: &Self| {
            in_table.0.get(name).is_some_and(|it| Arc::ptr_eq(it, entry))
        };
        let here = self.0.iter().filter(|(name, entry)| !same(name, entry, other));
        let there = other.0.iter().filter(|(name, _)| !self.0.contains_key(*name));
        here.chain(there).map(|(name, _)| name.clone()).collect()
    }
}

impl Hostnames {
    /// The names that lie in a directory, which is made when there is something to put into it. Keys are opened with
    /// `sealing_key`.
    pub fn open(directory: PathBuf, sealing_key: SealingKey) -> Arc<Self> {
        let disk = Disk::new(directory);
        let rows = disk.read_all();
        let entries = rows.into_iter().map(|row| (row.hostname.clone(), Arc::new(Entry::read(row))));
        Arc::new(Self {
            table: ArcSwap::from_pointee(Table(entries.collect())),
            disk,
            sealing_key,
            unsaved: Mutex::default(),
            changed: Notify::new(),
            challenges: Challenges::default(),
        })
    }

    /// Serves every view that comes, and keeps it on the disk, until `stop`. Saving never delays serving.
    pub async fn follow(self: Arc<Self>, mut views: watch::Receiver<Arc<HostnameView>>, stop: CancellationToken) {
        views.mark_changed();
        let saver = tokio::spawn(self.clone().save_in_time(stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = views.changed() => {
                    if changed.is_err() {
                        stop.cancelled().await;
                        break;
                    }
                    let view = views.borrow_and_update().clone();
                    self.apply(&view);
                }
            }
        }
        let _ = saver.await;
    }

    /// Serves a view from now on.
    pub fn apply(&self, view: &HostnameView) {
        let before = self.table.load_full();
        let table = before.followed_by(view, &self.sealing_key);
        let differences = table.differences(&before);
        self.table.store(Arc::new(table));
        self.unsaved().extend(differences);
        self.changed.notify_one();
    }

    async fn save_in_time(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let saved = self.clone().save_blocking().await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(SAVE_AGAIN_AFTER), if !saved => {}
                () = stop.cancelled() => break,
            }
        }
        self.save_blocking().await;
    }

    /// Saves where blocking is allowed. Tells whether everything is saved.
    async fn save_blocking(self: Arc<Self>) -> bool {
        tokio::task::spawn_blocking(move || self.save()).await.unwrap_or(false)
    }

    /// Brings the files of changed names in line with what is served. Tells whether that was done.
    pub fn save(&self) -> bool {
        let changed = std::mem::take(&mut *self.unsaved());
        let table = self.table.load_full();
        let mut failed = BTreeSet::new();
        for name in changed {
            let kept = match table.0.get(&name) {
                Some(entry) => self.disk.write(&entry.served_row()),
                None => self.disk.remove(&name),
            };
            if let Err(error) = kept {
                tracing::error!(hostname = %name, "a host name could not be saved and will be again: {error}");
                failed.insert(name);
            }
        }
        let saved = failed.is_empty();
        self.unsaved().extend(failed);
        saved
    }

    fn unsaved(&self) -> std::sync::MutexGuard<'_, BTreeSet<Hostname>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app that answers to a name in lower case.
    pub(crate) fn app(&self, name: &str) -> Option<AppName> {
        self.table.load().find(name).map(|entry| entry.told.app.clone())
    }

    /// The best certificate for a name in lower case: its own, or that of the wildcard above it if both belong to one
    /// app.
    pub(crate) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let (table, now) = (self.table.load(), Timestamp(kit::clock::unix_ms()));
        let entry = table.find(name)?;
        let usable = |entry: &Entry| entry.certificate(now, &self.sealing_key);
        usable(entry)
            .or_else(|| table.wildcard(name).filter(|over| over.told.app == entry.told.app).and_then(|it| usable(it)))
    }

    /// How to speak with an ACME server that asks for the proof of a name that is pending here (RFC 8737).
    pub(crate) fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        self.challenges.tls(hello)
    }

    /// What an ACME server that asks for this path by plain HTTP is to be told (RFC 8555, 8.3), if a proof is pending.
    pub(crate) fn http_challenge(&self, host: &str, path: &str) -> Option<String> {
        self.challenges.http(host, path)
    }
}

#[async_trait]
impl ChallengeDoor for Hostnames {
    fn present(&self, answer: &ChallengeAnswer) -> Result<(), String> {
        self.challenges.present(answer)
    }

    fn withdraw(&self, answer: &ChallengeAnswer) {
        self.challenges.withdraw(answer);
    }
}

#[cfg(test)]
#[path = "hostnames/tests.rs"]
mod tests;
