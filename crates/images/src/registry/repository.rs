//! Repositories on disk. A repository owns no content: it links to blobs of the store, and shows only those.
//!
//! ```text
//! <data>/registry/<name, with + for />/
//!   blobs/<hex>                     empty: this blob is part of the repository
//!   manifests/<hex>                 the manifest's media type
//!   tags/<tag>.tag                  a digest
//!   referrers/<subject>/<hex>       empty: this manifest of the repository has that subject
//! ```

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{
    Digest, InvalidName,
    image::{is_repository, is_tag},
};

use crate::store::{absent_is_none, digest_of_hex};

/// The name of a repository; safe to build a path of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_repository(text) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "lower-case letters, digits, and single . _ - between them, in parts divided by /, at most 255";
        // What came may be long and hostile; a beginning of it is enough for people.
        Err(InvalidName { kind: "repository name", text: text.chars().take(64).collect(), rule })
    }
}

impl RepositoryName {
    /// The name as clients write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn directory_name(&self) -> String {
        self.0.replace('/', "+")
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All repositories.
pub struct Repositories {
    directory: PathBuf,
    /// Held by whoever changes a repository, so that each change sees the one before whole.
    changes: Arc<Mutex<()>>,
}

impl Repositories {
    /// Opens the repositories in `directory`, making it if it is missing, and finishes interrupted removals.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(".removed.") {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Self { directory: directory.to_owned(), changes: Arc::default() })
    }

    /// The repository of that name, whether it exists or not.
    pub fn get(&self, name: &RepositoryName) -> Repository {
        let directory = self.directory.join(name.directory_name());
        Repository { directory, changes: Arc::clone(&self.changes) }
    }

    /// The names of all repositories.
    pub fn list(&self) -> io::Result<Vec<RepositoryName>> {
        let names = fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.file_name()));
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?.iter().filter_map(|name| name.to_str()?.replace('+', "/").parse().ok()).collect())
    }

    /// Removes the repositories `name` and `name/…`.
    pub fn remove(&self, name: &RepositoryName) -> io::Result<()> {
        let below = format!("{name}/");
        for repository in self.list()? {
            if repository == *name || repository.as_str().starts_with(&below) {
                self.get(&repository).remove()?;
            }
        }
        Ok(())
    }
}

/// One repository.
pub struct Repository {
    directory: PathBuf,
    changes: Arc<Mutex<()>>,
}

impl Repository {
    /// Whether anything was ever pushed to it.
    pub fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    /// Whether the blob is part of the repository.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_link(digest).is_file()
    }

    /// Makes a blob of the store a part of the repository.
    pub fn link_blob(&self, digest: &Digest) -> io::Result<()> {
        let _changes = self.changes();
        link(&self.blob_link(digest))
    }

    /// Takes a blob out of the repository; false if it was not in it.
    pub fn unlink_blob(&self, digest: &Digest) -> io::Result<bool> {
        let _changes = self.changes();
        remove(&self.blob_link(digest))
    }

    /// The media type of a manifest of the repository.
    pub fn manifest(&self, digest: &Digest) -> io::Result<Option<String>> {
        absent_is_none(fs::read_to_string(self.manifest_link(digest)))
    }

    /// Makes a manifest of the store a part of the repository, and then `tag` point to it.
    pub fn link_manifest(
        &self,
        digest: &Digest,
        media_type: &str,
        subject: Option<&Digest>,
        tag: Option<&str>,
    ) -> io::Result<()> {
        let _changes = self.changes();
        if let Some(subject) = subject {
            link(&self.referrers_of(subject).join(digest.hex()))?;
        }
        write(&self.manifest_link(digest), media_type)?;
        tag.map_or(Ok(()), |tag| write(&self.tag_file(tag), digest.as_str()))
    }

    /// Takes a manifest and the tags that point to it out of the repository; false if it was not in it. `subject` is
    /// the subject of the manifest.
    pub fn unlink_manifest(&self, digest: &Digest, subject: Option<&Digest>) -> io::Result<bool> {
        let _changes = self.changes();
        for tag in self.tags()? {
            if self.tag(&tag)?.as_ref() == Some(digest) {
                remove(&self.tag_file(&tag))?;
            }
        }
        if let Some(subject) = subject {
            remove(&self.referrers_of(subject).join(digest.hex()))?;
        }
        remove(&self.manifest_link(digest))
    }

    /// What a tag points to.
    pub fn tag(&self, tag: &str) -> io::Result<Option<Digest>> {
        let text = absent_is_none(fs::read_to_string(self.tag_file(tag)))?;
        let digest = text.map(|text| text.parse().map_err(|error| io::Error::new(ErrorKind::InvalidData, error)));
        digest.transpose()
    }

    /// Removes a tag; false if there was none.
    pub fn remove_tag(&self, tag: &str) -> io::Result<bool> {
        let _changes = self.changes();
        remove(&self.tag_file(tag))
    }

    /// All tags, in order.
    pub fn tags(&self) -> io::Result<BTreeSet<String>> {
        entries(&self.directory.join("tags"), |name| {
            name.strip_suffix(".tag").filter(|tag| is_tag(tag)).map(str::to_owned)
        })
    }

    /// The manifests of the repository whose subject this is, in order.
    pub fn referrers(&self, subject: &Digest) -> io::Result<BTreeSet<Digest>> {
        entries(&self.referrers_of(subject), digest_of_hex)
    }

    /// All blobs that are part of the repository.
    pub fn blobs(&self) -> io::Result<BTreeSet<Digest>> {
        entries(&self.directory.join("blobs"), digest_of_hex)
    }

    /// All manifests that are part of the repository.
    pub fn manifests(&self) -> io::Result<BTreeSet<Digest>> {
        entries(&self.directory.join("manifests"), digest_of_hex)
    }

    /// The file that makes a blob a part of the repository.
    pub fn blob_link(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs").join(digest.hex())
    }

    /// The file that makes a manifest a part of the repository.
    pub fn manifest_link(&self, digest: &Digest) -> PathBuf {
        self.directory.join("manifests").join(digest.hex())
    }

    /// The file that makes a manifest a referrer of another.
    pub fn referrer_link(&self, subject: &Digest, digest: &Digest) -> PathBuf {
        self.referrers_of(subject).join(digest.hex())
    }

    fn referrers_of(&self, subject: &Digest) -> PathBuf {
        self.directory.join("referrers").join(subject.hex())
    }

    /// # Panics
    /// If `tag` is not a tag; the doors have checked it.
    fn tag_file(&self, tag: &str) -> PathBuf {
        assert!(is_tag(tag), "a tag is checked before it becomes a path");
        self.directory.join("tags").join(format!("{tag}.tag"))
    }

    /// Removes the repository: at one moment it is there, at the next it is not.
    fn remove(&self) -> io::Result<()> {
        let _changes = self.changes();
        let removed = self.directory.with_file_name(format!(".removed.{}", kit::random::token()));
        fs::rename(&self.directory, &removed)?;
        kit::durable::sync_directory_of(&removed)?;
        fs::remove_dir_all(&removed)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an empty file, durably, with the directories above it.
fn link(path: &Path) -> io::Result<()> {
    if path.is_file() { Ok(()) } else { write(path, "") }
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        fs::create_dir_all(parent)?;
        // A new directory lives in its parent, and that one may be new too, up to the directory of all repositories.
        for directory in parent.ancestors().take(3) {
            kit::durable::sync_directory_of(directory)?;
        }
    }
    kit::durable::write(path, content.as_bytes(), 0o644)
}

fn remove(path: &Path) -> io::Result<bool> {
    let removed = absent_is_none(fs::remove_file(path))?.is_some();
    if removed {
        kit::durable::sync_directory_of(path)?;
    }
    Ok(removed)
}

/// The entries of a directory whose names mean something; none if there is no such directory.
fn entries<T: Ord>(directory: &Path, read: impl Fn(&str) -> Option<T>) -> io::Result<BTreeSet<T>> {
    let Some(listing) = absent_is_none(fs::read_dir(directory))? else { return Ok(BTreeSet::new()) };
    let mut found = BTreeSet::new();
    for entry in listing {
        found.extend(OsStr::to_str(&entry?.file_name()).and_then(&read));
    }
    Ok(found)
}
