//! Garbage collection: mark what is reachable, sweep the rest.
//!
//! ```text
//! tags ──────────┐
//! in use ────────┤                      ┌─▶ configuration
//! fresh ─────────┼─▶ manifests ─────────┼─▶ layers
//! being pushed ──┘     ▲  │             └─▶ manifests of an index
//!                      │  └─ referrers (manifests of the same repository whose subject it is)
//!                      └──────┘
//! ```
//!
//! A push may go on all the while. Whatever it relies on it wants first ([`BlobStore::want`]), and the sweep removes
//! nothing that was wanted since the collection began, under the lock that wanting takes. A manifest whose parts were
//! wanted before is linked before the marking begins ([`Registry::wait_for_links`]).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use model::Digest;
use thiserror::Error;

use crate::{
    document::{DOCKER_LIST, Manifest, OCI_INDEX, known_media_type},
    layers::read_bounded,
    registry::{Registry, repository::Repository},
    rootfs::RootfsStore,
    store::{BlobStore, Collection, absent_is_none},
};

/// Why nothing, or not everything, was collected.
#[derive(Debug, Error)]
pub enum CollectError {
    /// Nobody could say what is in use, so nothing was removed.
    #[error("nothing was collected, because what is in use is not known: {0}")]
    UseUnknown(String),
    /// The disk failed.
    #[error("the collection of unused images stopped; it goes on the next time")]
    Io(#[from] io::Error),
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: usize,
    /// What they took, in bytes.
    pub bytes: u64,
    /// Root filesystems.
    pub root_filesystems: usize,
}

/// What is to be collected.
pub(crate) struct Sweep<'a> {
    pub registry: &'a Registry,
    pub rootfs: &'a RootfsStore,
    /// The manifests that releases and machines use.
    pub in_use: Vec<Digest>,
    /// What was wanted in so long a time before now stays.
    pub grace: Duration,
}

impl Sweep<'_> {
    /// Marks and sweeps.
    pub fn run(self, collection: &Collection) -> io::Result<Collected> {
        self.registry.wait_for_links();
        let last_wanted = SystemTime::now().checked_sub(self.grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let repositories = self.repositories()?;
        let marked = self.mark(&repositories, last_wanted)?;
        let mut collected = Collected::default();
        for garbage in unmarked(&self.registry.store, &repositories, &marked)? {
            if let Some(bytes) = collection.remove(&garbage.digest, last_wanted, &garbage.links)? {
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        let live: BTreeSet<Digest> = marked.into_iter().chain(collection.wanted()).collect();
        collected.root_filesystems = self.rootfs.collect(&live, self.grace)?;
        Ok(collected)
    }

    fn repositories(&self) -> io::Result<Vec<Listed>> {
        let pushing = self.registry.uploads.repositories();
        let names = self.registry.repositories.list()?;
        let listed = names.iter().map(|name| {
            let repository = self.registry.repositories.get(name);
            let manifests = repository.manifests()?.into_iter().collect();
            Ok(Listed { repository, manifests, pushing: pushing.contains(name) })
        });
        listed.collect()
    }

    fn mark(&self, repositories: &[Listed], last_wanted: SystemTime) -> io::Result<HashSet<Digest>> {
        let store = &self.registry.store;
        let mut marks = Marks { store, repositories, marked: HashSet::new(), pending: self.in_use.clone() };
        for Listed { repository, manifests, pushing } in repositories {
            for tag in repository.tags()? {
                marks.pending.extend(repository.tag(&tag)?);
            }
            for manifest in manifests {
                if *pushing || is_fresh(&store.path(manifest), last_wanted)? {
                    marks.pending.push(manifest.clone());
                }
            }
            if *pushing {
                marks.marked.extend(repository.blobs()?);
            }
        }
        marks.follow()
    }
}

/// A repository as it was when the collection began.
struct Listed {
    repository: Repository,
    manifests: HashSet<Digest>,
    /// Whether an upload to it is under way: then all that it holds stays.
    pushing: bool,
}

/// The mark phase.
struct Marks<'a> {
    store: &'a BlobStore,
    repositories: &'a [Listed],
    marked: HashSet<Digest>,
    /// Manifests to follow.
    pending: Vec<Digest>,
}

impl Marks<'_> {
    /// Follows the pending manifests to everything that they reach.
    fn follow(mut self) -> io::Result<HashSet<Digest>> {
        let mut followed = HashSet::new();
        while let Some(digest) = self.pending.pop() {
            if followed.insert(digest.clone()) {
                self.follow_one(&digest)?;
                self.marked.insert(digest);
            }
        }
        Ok(self.marked)
    }

    fn follow_one(&mut self, digest: &Digest) -> io::Result<()> {
        for Listed { repository, manifests, .. } in self.repositories {
            if manifests.contains(digest) {
                self.pending.extend(repository.referrers(digest)?);
            }
        }
        let Some(content) = absent_is_none(read_bounded(&self.store.path(digest)))? else { return Ok(()) };
        match Manifest::parse(&content, None) {
            Ok(manifest) => {
                for part in manifest.children() {
                    match known_media_type(&part.media_type) {
                        Some(_) => self.pending.push(part.digest.clone()),
                        None => _ = self.marked.insert(part.digest.clone()),
                    }
                }
            }
            Err(error) => tracing::warn!(%digest, %error, "a manifest in use cannot be read; its parts are not kept"),
        }
        Ok(())
    }
}

/// A blob that nothing reaches, and the links to it.
struct Garbage {
    digest: Digest,
    links: Vec<PathBuf>,
    rank: Rank,
}

/// The order of removal: what refers before what is referred to, so that no manifest is left without its parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Index,
    Image,
    #[default]
    Blob,
}

fn unmarked(store: &BlobStore, repositories: &[Listed], marked: &HashSet<Digest>) -> io::Result<Vec<Garbage>> {
    let mut links: HashMap<Digest, (Vec<PathBuf>, Rank)> = HashMap::new();
    for Listed { repository, manifests, .. } in repositories {
        for digest in manifests.iter().filter(|digest| !marked.contains(digest)) {
            let (links, rank) = links.entry(digest.clone()).or_default();
            links.extend(links_of_manifest(store, repository, digest));
            *rank = rank_of(repository.manifest(digest)?.as_deref());
        }
        for digest in repository.blobs()?.into_iter().filter(|digest| !marked.contains(digest)) {
            let link = repository.blob_link(&digest);
            links.entry(digest).or_default().0.push(link);
        }
    }
    let digests = store.list()?.into_iter().filter(|digest| !marked.contains(digest));
    let mut garbage: Vec<Garbage> = digests
        .map(|digest| {
            let (links, rank) = links.remove(&digest).unwrap_or_default();
            Garbage { digest, links, rank }
        })
        .collect();
    garbage.sort_by_key(|garbage| garbage.rank);
    Ok(garbage)
}

fn rank_of(media_type: Option<&str>) -> Rank {
    match media_type {
        Some(OCI_INDEX | DOCKER_LIST) => Rank::Index,
        Some(_) => Rank::Image,
        None => Rank::Blob,
    }
}

fn links_of_manifest(store: &BlobStore, repository: &Repository, digest: &Digest) -> Vec<PathBuf> {
    let manifest = read_bounded(&store.path(digest)).ok().and_then(|content| Manifest::parse(&content, None).ok());
    let subject = manifest.as_ref().and_then(Manifest::subject);
    let referrer = subject.map(|subject| repository.referrer_link(&subject.digest, digest));
    referrer.into_iter().chain([repository.manifest_link(digest)]).collect()
}

fn is_fresh(path: &Path, last_wanted: SystemTime) -> io::Result<bool> {
    let Some(metadata) = absent_is_none(fs::metadata(path))? else { return Ok(false) };
    Ok(metadata.modified()? > last_wanted)
}
