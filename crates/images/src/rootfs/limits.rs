//! What one image may cost. Layers come from anywhere, so everything that they can make large has a bound.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bounds on one image; the defaults let every ordinary image pass.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files, directories, links and devices, of all layers together. Each takes about a kilobyte of memory.
    pub entries: u64,
    /// Names, link targets, extended attributes and maps of sparse files, of all layers together, in bytes. They are
    /// held in memory.
    pub metadata_bytes: u64,
    /// Directories, long link targets, large attributes and maps of fragmented files as the filesystem stores them:
    /// each in blocks of 4096 bytes, all of which are made in memory.
    pub block_bytes: u64,
    /// The uncompressed archives of all layers together, in bytes.
    pub archive_bytes: u64,
    /// How many times larger than its blob a layer may be once it is unpacked ...
    pub ratio: u64,
    /// ... as far as it is larger than this, in bytes: a few blocks of zeros pack very well and harm nobody.
    pub ratio_exempt_bytes: u64,
    /// The size of one file as it appears to a program, holes included, in bytes.
    pub file_bytes: u64,
    /// The length of one path in an archive, in bytes.
    pub path_bytes: usize,
    /// How deep directories may lie in each other.
    pub depth: u16,
    /// Extended attributes of one entry, names included, in bytes. What exceeds a block of the filesystem (about
    /// 4000 bytes) cannot be stored whatever this says.
    pub xattr_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 500_000,
            metadata_bytes: 256 << 20,
            block_bytes: 512 << 20,
            archive_bytes: 64 << 30,
            ratio: 200,
            ratio_exempt_bytes: 1 << 30,
            file_bytes: 1 << 40,
            path_bytes: 4096,
            depth: 256,
            xattr_bytes: 4096,
        }
    }
}

/// How much of the limits the layers of one image have used up together.
pub struct Budget<'a> {
    /// The limits.
    pub limits: &'a Limits,
    entries: AtomicU64,
    metadata_bytes: AtomicU64,
    archive_bytes: AtomicU64,
}

impl<'a> Budget<'a> {
    /// Nothing is used up yet.
    pub fn new(limits: &'a Limits) -> Self {
        Self { limits, entries: 0.into(), metadata_bytes: 0.into(), archive_bytes: 0.into() }
    }

    /// One more entry, with so many bytes of metadata.
    pub fn take_entry(&self, metadata_bytes: u64) -> Result<(), String> {
        take(&self.entries, 1, self.limits.entries, "entries")?;
        take(&self.metadata_bytes, metadata_bytes, self.limits.metadata_bytes, "bytes of names and attributes")
    }

    /// So many more bytes of unpacked archives.
    pub fn take_archive(&self, bytes: u64) -> Result<(), String> {
        take(&self.archive_bytes, bytes, self.limits.archive_bytes, "bytes unpacked")
    }
}

fn take(used: &AtomicU64, more: u64, limit: u64, what: &str) -> Result<(), String> {
    let before = used.fetch_add(more, Ordering::Relaxed);
    if before.saturating_add(more) > limit {
        return Err(format!("the image has more than {limit} {what}, the limit of this host"));
    }
    Ok(())
}
