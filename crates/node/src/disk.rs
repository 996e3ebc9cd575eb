//! Disks of machines: writable layers and volumes, both ext4 in sparse files.
//!
//! A writable layer is a copy of a formatted template, made once per size: a reflink where the file system can, else a
//! copy of the few blocks that hold data. Formatting one of several GiB anew for each start would cost seconds.
//! A volume is formatted once, under another name, and renamed when it is whole.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use model::{AppName, MachineId};
use rustix::{
    fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::process::Command;

const GIB: u64 = 1 << 30;
const FORMAT_TIMEOUT: Duration = Duration::from_secs(120);
/// How many volumes of one name an app may have on a host.
const MAX_SIBLINGS: u32 = 1000;
/// What a file that is being made ends with. Files of that name are nobody's after a crash.
const UNFINISHED: &str = ".new";

/// Why a disk could not be made.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be formatted.
    #[error("cannot format {}: {reason}; check that e2fsprogs is installed and the disk is not full", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What `mke2fs` said.
        reason: String,
    },
    /// Volumes without end.
    #[error("app {app} has {MAX_SIBLINGS} volumes named {name} on this host; remove some")]
    TooMany {
        /// The app.
        app: AppName,
        /// The volumes' name.
        name: String,
    },
}

/// Which volume a machine holds. Volumes of one app and name are told apart by an index, as one machine at a time has
/// one volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeClaim {
    /// The app.
    pub app: AppName,
    /// The name in the app's configuration.
    pub name: String,
    /// Which of that name, from 0.
    pub index: u32,
}

/// The disks of one node.
pub struct Disks {
    templates: PathBuf,
    volumes: PathBuf,
    overlay_size_gb: u32,
    /// Who holds which volume. Claims are also in the machines' records, which is where they come from at start.
    claims: Mutex<BTreeMap<VolumeClaim, MachineId>>,
    /// One format at a time: they would only slow each other down, and a template is made once.
    formatting: tokio::sync::Mutex<()>,
}

impl Disks {
    /// The disks below `data_dir`. Files that an earlier process left half made are removed.
    pub fn open(data_dir: &Path, overlay_size_gb: u32) -> Result<Self, DiskError> {
        let (templates, volumes) = (data_dir.join("machines/.templates"), data_dir.join("volumes"));
        for directory in [&templates, &volumes] {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
            sweep_unfinished(directory).map_err(failed("sweep", directory))?;
        }
        let (claims, formatting) = (Mutex::default(), tokio::sync::Mutex::new(()));
        Ok(Self { templates, volumes, overlay_size_gb, claims, formatting })
    }

    /// Makes a fresh writable layer for the user `uid`. What was at `path` is lost.
    pub async fn make_overlay(&self, path: &Path, uid: u32) -> Result<(), DiskError> {
        let template = self.template().await?;
        let target = path.to_owned();
        let made = tokio::task::spawn_blocking(move || {
            remove_file(&target)?;
            copy_sparse(&template, &target)?;
            give_to(&target, uid)
        });
        made.await.map_err(io::Error::other).and_then(|made| made).map_err(failed("make the writable layer", path))
    }

    /// Removes a writable layer, if it is there.
    pub fn remove_overlay(&self, path: &Path) -> Result<(), DiskError> {
        remove_file(path).map_err(failed("remove", path))
    }

    /// Takes note of a claim that a record holds.
    pub fn note_claim(&self, claim: VolumeClaim, machine: &MachineId) {
        self.claims.lock().expect(NOT_POISONED).insert(claim, machine.clone());
    }

    /// Claims a volume of this name for a machine: the first that exists and is free, else the first that does not exist.
    /// The claim holds in this process; the machine's record makes it last.
    pub fn claim(&self, app: &AppName, name: &str, machine: &MachineId) -> Result<VolumeClaim, DiskError> {
        let mut claims = self.claims.lock().expect(NOT_POISONED);
        let claim = |index| VolumeClaim { app: app.clone(), name: name.to_owned(), index };
        let free: Vec<_> = (0..MAX_SIBLINGS).map(claim).filter(|claim| !claims.contains_key(claim)).collect();
        let existing = free.iter().find(|claim| self.volume_path(claim).exists());
        let chosen = existing.or(free.first()).cloned();
        let chosen = chosen.ok_or_else(|| DiskError::TooMany { app: app.clone(), name: name.to_owned() })?;
        claims.insert(chosen.clone(), machine.clone());
        Ok(chosen)
    }

    /// Gives a volume back. Its content stays.
    pub fn release(&self, claim: &VolumeClaim) {
        self.claims.lock().expect(NOT_POISONED).remove(claim);
    }

    /// Removes all volumes of an app, unless a machine holds one of them: that machine is returned.
    pub fn remove_volumes(&self, app: &AppName) -> Result<Option<MachineId>, DiskError> {
        let claims = self.claims.lock().expect(NOT_POISONED);
        if let Some((_, machine)) = claims.iter().find(|(claim, _)| claim.app == *app) {
            return Ok(Some(machine.clone()));
        }
        let directory = self.volumes.join(app.as_str());
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &directory)(error)),
            _ => Ok(None),
        }
    }

    /// Makes a claimed volume for the user `uid`, if it does not exist, and returns its file.
    pub async fn make_volume(&self, claim: &VolumeClaim, size_gb: u32, uid: u32) -> Result<PathBuf, DiskError> {
        let path = self.volume_path(claim);
        if !path.exists() {
            let directory = path.parent().expect("a volume lies in its app's directory");
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
            let _turn = self.formatting.lock().await;
            format(&path, u64::from(size_gb) * GIB, &[]).await?;
        }
        give_to(&path, uid).map_err(failed("change the owner of", &path))?;
        Ok(path)
    }

    /// The file of a volume.
    pub fn volume_path(&self, claim: &VolumeClaim) -> PathBuf {
        self.volumes.join(claim.app.as_str()).join(format!("{}-{}.ext4", claim.name, claim.index))
    }

    async fn template(&self) -> Result<PathBuf, DiskError> {
        let path = self.templates.join(format!("overlay-{}g.ext4", self.overlay_size_gb));
        let _turn = self.formatting.lock().await;
        if !path.exists() {
            // The layer is made anew at each start, so there is nothing for a journal to save.
            format(&path, u64::from(self.overlay_size_gb) * GIB, &["-O", "^has_journal"]).await?;
        }
        Ok(path)
    }
}

const NOT_POISONED: &str = "nothing panics while it holds the claims";

/// Whether a volume's name can be part of a file name: letters, digits, underscores and dashes, at most 63.
pub fn is_volume_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Bytes that the file system of `path` has left for us.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes an ext4 file system in a sparse file that is whole or absent.
async fn format(path: &Path, size_bytes: u64, options: &[&str]) -> Result<(), DiskError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let file = File::create(&unfinished).map_err(failed("create", &unfinished))?;
    file.set_len(size_bytes).map_err(failed("extend", &unfinished))?;
    // No reserved blocks; tables need no zeroing, since a sparse file reads as zeros.
    let mke2fs = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,discard"])
        .args(options)
        .arg(&unfinished)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let refused = |reason: String| DiskError::Format { path: path.to_owned(), reason };
    let output = tokio::time::timeout(FORMAT_TIMEOUT, mke2fs).await;
    let output = output.map_err(|_| refused("mke2fs does not end".into()))?;
    let output = output.map_err(|error| refused(format!("mke2fs does not run: {error}")))?;
    if !output.status.success() {
        let _ = remove_file(&unfinished);
        return Err(refused(String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect()));
    }
    file.sync_all()
        .and_then(|()| fs::rename(&unfinished, path))
        .and_then(|()| kit::durable::sync_directory_of(path))
        .map_err(failed("finish", path))
}

/// Copies a file that is mostly holes. The copy shares its blocks where the file system can.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).open(to)?;
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    target.set_len(source.metadata()?.len())?;
    let mut at = 0;
    while let Some((begin, end)) = next_data(&source, at)? {
        copy_range(&source, &target, begin, end)?;
        at = end;
    }
    Ok(())
}

/// The next stretch of a file that is no hole.
fn next_data(file: &File, from: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(begin) => Ok(Some((begin, seek(file, SeekFrom::Hole(begin))?))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn copy_range(source: &File, target: &File, begin: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (begin, begin);
    while from < end {
        let length = usize::try_from(end - from).unwrap_or(usize::MAX);
        if copy_file_range(source, Some(&mut from), target, Some(&mut to), length)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn give_to(path: &Path, uid: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    chown(path, Some(uid), Some(uid))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes unfinished files in a directory and in those directly below it.
fn sweep_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            sweep_unfinished(&path)?;
        } else if path.as_os_str().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn disks(test: &str) -> Option<(tempfile::TempDir, Disks)> {
        if std::process::Command::new("mke2fs").arg("-V").output().is_err() {
            eprintln!("skipped: {test}: needs mke2fs");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let disks = Disks::open(directory.path(), 1).unwrap();
        Some((directory, disks))
    }

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    #[tokio::test]
    async fn a_writable_layer_is_whole_sparse_and_fresh_each_time() {
        let Some((directory, disks)) = disks("a_writable_layer_is_whole_sparse_and_fresh_each_time") else { return };
        let path = directory.path().join("overlay.ext4");
        for _ in 0..2 {
            disks.make_overlay(&path, own_uid()).await.unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), GIB);
            assert!(metadata.blocks() * 512 < 32 << 20, "{} bytes on the disk", metadata.blocks() * 512);
            let mut block = [1; 8];
            file.read_exact_at(&mut block, GIB - 8).unwrap();
            assert_eq!(block, [0; 8]);
            file.write_all_at(b"data", GIB - 8).unwrap();
        }
        let check = std::process::Command::new("e2fsck").args(["-fn"]).arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        disks.remove_overlay(&path).unwrap();
        disks.remove_overlay(&path).unwrap();
    }

    #[test]
    fn a_copy_has_the_same_holes_and_the_same_data() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let source = File::create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 3] {
            source.write_all_at(b"abc", at).unwrap();
        }
        copy_sparse(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    }

    #[tokio::test]
    async fn a_volume_is_formatted_once_and_keeps_what_is_in_it() {
        let Some((directory, disks)) = disks("a_volume_is_formatted_once_and_keeps_what_is_in_it") else { return };
        let (app, machine) = ("app".parse().unwrap(), MachineId::from_random([1; 7]));
        let claim = disks.claim(&app, "data", &machine).unwrap();
        assert_eq!(disks.claim(&app, "data", &machine).unwrap().index, 1);
        let path = disks.make_volume(&claim, 1, own_uid()).await.unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"kept", GIB - 4).unwrap();
        disks.make_volume(&claim, 1, own_uid()).await.unwrap();
        assert!(fs::read(&path).unwrap().ends_with(b"kept"));

        fs::write(directory.path().join("volumes/app/data-7.ext4.new"), "").unwrap();
        let again = Disks::open(directory.path(), 1).unwrap();
        assert_eq!(
            fs::read_dir(directory.path().join("volumes/app")).unwrap().count(),
            1,
            "the unfinished one is gone"
        );
        assert_eq!(again.claim(&app, "data", &machine).unwrap(), claim, "the one that exists comes first");
    }
}
