//! Converting layers in a directory of the test, and reading the image back.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
};

use model::{Digest, ImageConfig};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{
    layers::{Compression, ImageLayers, Layer},
    rootfs::{Limits, convert},
};

/// Everything in an image by its path; `/lost+found` is left out.
pub type Seen = BTreeMap<String, Node>;

/// One path of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub what: What,
    pub mode: u16,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    /// Equal for names of the same file.
    pub inode: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Directory,
    File(Vec<u8>),
    /// A file too large to read, by its size.
    Large(u64),
    Symlink(String),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A directory with layers in it.
pub struct Bench {
    pub directory: TempDir,
    pub layers: Vec<Layer>,
    pub limits: Limits,
}

impl Bench {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), layers: Vec::new(), limits: Limits::default() }
    }

    /// One uncompressed layer for each archive, lowest first.
    pub fn of<'a>(archives: impl IntoIterator<Item = &'a Vec<u8>>) -> Self {
        let mut bench = Self::new();
        archives.into_iter().for_each(|archive| bench.push(archive, Compression::None));
        bench
    }

    pub fn push(&mut self, archive: &[u8], compression: Compression) {
        self.push_blob(&compress(archive, compression), compression, sha256(archive));
    }

    pub fn push_blob(&mut self, blob: &[u8], compression: Compression, diff_id: Digest) {
        let digest = sha256(blob);
        let path = self.directory.path().join(format!("blob-{}", self.layers.len()));
        std::fs::write(&path, blob).unwrap();
        self.layers.push(Layer { path, compression, digest, size_bytes: blob.len() as u64, diff_id });
    }

    pub fn image(&self) -> ImageLayers {
        // Of what the layers are, not of where they lie, so that each run makes the same image: names are hashed by it, and
        // where two names of one hash fall into two blocks of a directory `ext4_view` finds only the first one.
        let digests: Vec<&Digest> = self.layers.iter().map(|layer| &layer.digest).collect();
        let manifest = sha256(format!("{digests:?}").as_bytes());
        ImageLayers { manifest, config: ImageConfig::default(), layers: self.layers.clone() }
    }

    /// Converts and reads back. e2fsck must find nothing where it is installed.
    pub fn see(&self) -> Seen {
        let out = self.convert().unwrap();
        check_filesystem(&out);
        see(&out)
    }

    /// Converts, and returns the path of the image.
    pub fn convert(&self) -> Result<PathBuf, String> {
        let work = self.directory.path().join("rootfs");
        std::fs::create_dir_all(&work).unwrap();
        let result = convert::convert(&self.image(), &work, &self.limits, &AtomicBool::new(false));
        let result = result.map(|draft| {
            let path = self.directory.path().join("image.ext4");
            draft.publish(&path).unwrap();
            path
        });
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0, "a conversion leaves nothing behind");
        result.map_err(|fault| fault.to_string())
    }

    /// Converts, expecting that to fail. The reason comes back.
    pub fn refusal(&self) -> String {
        self.convert().expect_err("the conversion should be refused")
    }
}

/// What the uncompressed archives make together.
pub fn flatten<'a>(archives: impl IntoIterator<Item = &'a Vec<u8>>) -> Seen {
    Bench::of(archives).see()
}

/// Why one uncompressed archive is refused.
pub fn refusal_of(archive: &[u8]) -> String {
    Bench::of([&archive.to_vec()]).refusal()
}

pub fn sha256(content: &[u8]) -> Digest {
    Digest::sha256(Sha256::digest(content).into())
}

pub fn compress(archive: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => archive.to_vec(),
        Compression::Zstd => zstd::encode_all(archive, 3).unwrap(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(archive).unwrap();
            encoder.finish().unwrap()
        }
    }
}

/// Asserts that e2fsck finds nothing, where it is installed. Returns whether it is.
pub fn check_filesystem(image: &Path) -> bool {
    match Command::new("e2fsck").args(["-fn"]).arg(image).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "e2fsck: {said}{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => false,
    }
}

/// How many bytes the image takes on disk.
pub fn disk_bytes(image: &Path) -> u64 {
    std::fs::metadata(image).unwrap().blocks() * 512
}

/// Reads an image: with `ext4-view` what it can tell, the rest with the writer's own reader.
pub fn see(image: &Path) -> Seen {
    let view = ext4_view::Ext4::load_from_path(image).unwrap();
    let raw = mkext4::reader::Fs::open(File::open(image).unwrap()).unwrap();
    let root = raw.resolve("/").unwrap();
    let mut seen = Seen::new();
    let mut ahead = vec![(String::new(), root)];
    seen.insert("/".to_owned(), node(&view, &raw, "/", root));
    while let Some((directory, number)) = ahead.pop() {
        let numbers = raw.read_dir(number).unwrap().into_iter().map(|entry| (entry.name, entry.inode));
        let numbers: BTreeMap<Vec<u8>, u32> = numbers.collect();
        for entry in view.read_dir(format!("{directory}/").as_str()).unwrap() {
            let name = entry.unwrap().file_name().as_str().unwrap().to_owned();
            let (path, number) = (format!("{directory}/{name}"), numbers[name.as_bytes()]);
            if [".", ".."].contains(&name.as_str()) || path == "/lost+found" {
                continue;
            }
            let node = node(&view, &raw, &path, number);
            if node.what == What::Directory {
                ahead.push((path.clone(), number));
            }
            seen.insert(path, node);
        }
    }
    seen
}

fn node(view: &ext4_view::Ext4, raw: &mkext4::reader::Fs<File>, path: &str, number: u32) -> Node {
    let metadata = view.symlink_metadata(path).unwrap();
    let inode = raw.inode(number).unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        What::Directory
    } else if kind.is_symlink() {
        What::Symlink(view.read_link(path).unwrap().to_str().unwrap().to_owned())
    } else if kind.is_fifo() {
        What::Fifo
    } else if kind.is_char_dev() {
        device(&inode, What::Char)
    } else if kind.is_block_dev() {
        device(&inode, What::Block)
    } else if metadata.len() > 8 << 20 {
        What::Large(metadata.len())
    } else {
        What::File(view.read(path).unwrap())
    };
    let xattrs = raw.xattrs(number).unwrap().into_iter();
    let modified = metadata.modified();
    Node {
        what,
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        mtime: (modified.seconds(), modified.nanoseconds()),
        inode: number,
        xattrs: xattrs.map(|x| (String::from_utf8(x.full_name().unwrap()).unwrap(), x.value)).collect(),
    }
}

fn device(inode: &mkext4::spec::Inode, kind: fn(u32, u32) -> What) -> What {
    let (major, minor) = inode.dev_numbers().unwrap();
    kind(major, minor)
}
