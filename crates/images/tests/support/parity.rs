//! Compares what the kernel sees in a converted image, mounted, with what umoci unpacks from the same layers.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{self, Metadata},
    os::unix::{
        ffi::OsStringExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use api::internal::RootfsSource;
use images::rootfs::{Limits, RootfsStore};
use model::ImageSpec;
use sha2::{Digest as _, Sha256};

use super::layout::Layout;

/// What is known of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    content: Option<[u8; 32]>,
    target: Option<PathBuf>,
    device: u64,
    mtime: i64,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// All names of the same inode, if there are several.
    names: BTreeSet<PathBuf>,
}

/// Why nothing can be compared here, if so.
pub fn missing() -> Option<&'static str> {
    let runs = |program: &str, argument| Command::new(program).arg(argument).output().is_ok();
    if !runs("umoci", "--version") {
        return Some("umoci is not installed");
    }
    let probe = tempfile::tempdir().ok()?;
    let mounted = Mounted::tmpfs(probe.path()).is_some();
    (!mounted).then_some("mounting filesystems needs root")
}

/// Asserts that an image of a layout is, entry by entry, what umoci makes of it. Returns the number of entries.
///
/// Left out: `lost+found`, which every ext4 filesystem has; the time of directories that no layer describes, for
/// which the reference takes the time of the run; SELinux labels, which the reference drops.
pub async fn assert_equal(layout: &Path, tag: &str) -> usize {
    let work = tempfile::tempdir().unwrap();
    let bundle = work.path().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    let unpacked = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().unwrap();
    assert!(unpacked.status.success(), "umoci: {}", String::from_utf8_lossy(&unpacked.stderr));
    let theirs = tree(&bundle.join("rootfs"));

    let layout = Layout::at(layout);
    let digest = layout.images().into_iter().find(|(name, _)| name == tag).unwrap().1;
    let store = RootfsStore::open(work.path().join("rootfs"), layout, Limits::default(), 1).unwrap();
    let rootfs = store.rootfs(&ImageSpec { reference: image, digest }).await.unwrap();
    let mount = work.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let mounted = Mounted::image(&rootfs.path, &mount).expect("the image is a filesystem that the kernel mounts");
    let ours = tree(&mount);
    drop(mounted);

    compare(&theirs, &ours);
    ours.len()
}

fn compare(theirs: &BTreeMap<PathBuf, Seen>, ours: &BTreeMap<PathBuf, Seen>) {
    let mut differences = Vec::new();
    for path in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        match (theirs.get(path), ours.get(path)) {
            (Some(theirs), Some(ours)) => {
                let mut theirs = theirs.clone();
                theirs.xattrs.remove("security.selinux");
                if ours.kind == "directory" && ours.mtime == 0 {
                    theirs.mtime = 0;
                }
                if theirs != *ours {
                    differences.push(format!("{path:?}:\n  umoci {theirs:?}\n  ours  {ours:?}"));
                }
            }
            (Some(_), None) => differences.push(format!("{path:?} is missing")),
            (None, _) => differences.push(format!("{path:?} should not be there")),
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

/// Everything below a directory, by its path in there.
fn tree(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut found, mut ahead) = (Vec::new(), vec![root.to_owned()]);
    let mut names: BTreeMap<u64, BTreeSet<PathBuf>> = BTreeMap::new();
    while let Some(path) = ahead.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let inside = path.strip_prefix(root).unwrap().to_owned();
        if inside == Path::new("lost+found") {
            continue;
        }
        if metadata.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            names.entry(metadata.ino()).or_default().insert(inside.clone());
        }
        found.push((inside, path, metadata));
    }
    let shared = |metadata: &Metadata| names.get(&metadata.ino()).filter(|names| names.len() > 1).cloned();
    let seen =
        |path: &Path, metadata: &Metadata| Seen { names: shared(metadata).unwrap_or_default(), ..seen(path, metadata) };
    found.into_iter().map(|(inside, path, metadata)| (inside, seen(&path, &metadata))).collect()
}

fn seen(path: &Path, metadata: &Metadata) -> Seen {
    let kind = kind(metadata);
    let content = metadata.is_file().then(|| {
        let mut hash = Sha256::new();
        std::io::copy(&mut fs::File::open(path).unwrap(), &mut Hasher(&mut hash)).unwrap();
        hash.finalize().into()
    });
    Seen {
        kind,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        size: if metadata.is_dir() { 0 } else { metadata.size() },
        content,
        target: metadata.is_symlink().then(|| fs::read_link(path).unwrap()),
        device: metadata.rdev(),
        mtime: metadata.mtime(),
        xattrs: xattrs(path),
        names: BTreeSet::new(),
    }
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_file() => "file",
        () if kind.is_symlink() => "symbolic link",
        () if kind.is_char_device() => "character device",
        () if kind.is_block_device() => "block device",
        () if kind.is_fifo() => "pipe",
        () => "socket",
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(path, OsString::from_vec(name.to_vec()), &mut value).unwrap();
        value.truncate(len);
        value
    };
    names.map(|name| (String::from_utf8_lossy(name).into_owned(), value(name))).collect()
}

struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A mounted filesystem; dropping it unmounts it.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path) -> Option<Self> {
        Self::mount(&["-t", "tmpfs", "tmpfs"], at)
    }

    fn image(image: &Path, at: &Path) -> Option<Self> {
        Self::mount(&["-t", "ext4", "-o", "ro,loop", image.to_str()?], at)
    }

    fn mount(arguments: &[&str], at: &Path) -> Option<Self> {
        let output = Command::new("mount").args(arguments).arg(at).output().ok()?;
        output.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount works");
    }
}
