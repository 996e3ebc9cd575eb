//! How large the filesystem must be. The layout takes what it needs from the front, and what it leaves is a hole in
//! the image's file, so these are upper bounds: simple, and a little too much.

use super::{BLOCK, declare::JOURNAL_BLOCKS, place};
use crate::rootfs::{
    layer::stored_bytes,
    tree::{Body, Directory, Inode, Tree},
};

/// Blocks of a group, whose bitmap is one block.
const GROUP_BLOCKS: u64 = 32_768;
/// The most inodes that are put into a group. With more, the inode tables of sixteen groups, which lie together,
/// would not fit into the first of them.
const GROUP_INODES: u64 = 28_000;
/// Inodes in a block of an inode table.
const BLOCK_INODES: u64 = 16;
/// Inodes that ext4 keeps for itself.
const RESERVED_INODES: u64 = 11;
/// The smallest filesystem: the journal may be a quarter of it.
const MIN_BLOCKS: u64 = 4 * JOURNAL_BLOCKS as u64 + 64;
/// Bytes of a directory's block that entries may fill: all but the checksum.
const LEAF_BYTES: u64 = BLOCK - 12;
/// The largest directory entry, which may be just too large for what is left of a block.
const MAX_RECORD_BYTES: u64 = 264;
/// Room for attributes in an inode itself: 256 bytes without its fields, two marks left out.
const INODE_XATTR_BYTES: usize = 256 - 128 - 32 - 4 - 4;
/// References that a block of an extent tree or of a directory's index holds at least.
const FAN_OUT: u64 = 340;
/// Blocks that one extent covers at most.
const EXTENT_BLOCKS: u64 = 32_768;

/// What a filesystem needs.
pub struct Need {
    /// Blocks, all told.
    pub blocks: u64,
    /// Those of them that `mkext4` makes in memory for the tree: directories, attributes, link targets, extents.
    pub own_blocks: u64,
    /// Inodes, those of ext4 itself included.
    pub inodes: u32,
}

/// Measures a tree.
pub fn measure(tree: &Tree) -> Need {
    let (mut data_blocks, mut own_blocks, mut inodes) = (0, 0, RESERVED_INODES);
    for inode in tree.named_inodes() {
        let (data, own) = inode_blocks(inode);
        (data_blocks, own_blocks, inodes) = (data_blocks + data, own_blocks + own, inodes + 1);
    }
    // The journal and the directory lost+found.
    let fixed = u64::from(JOURNAL_BLOCKS) + 16;
    let blocks = with_groups(fixed + data_blocks + own_blocks, inodes);
    Need { blocks, own_blocks, inodes: u32::try_from(inodes).unwrap_or(u32::MAX) }
}

/// Adds what the groups themselves take, until it is enough.
fn with_groups(content: u64, inodes: u64) -> u64 {
    let mut groups = 1;
    loop {
        let tables = groups * (inodes.div_ceil(groups).div_ceil(BLOCK_INODES) + 2);
        // Every group is counted as one with a copy of the superblock and of the group descriptors.
        let copies = groups * (1 + (groups * 32).div_ceil(BLOCK));
        let blocks = content + tables + copies;
        let enough = blocks.div_ceil(GROUP_BLOCKS).max(inodes.div_ceil(GROUP_INODES));
        if enough <= groups {
            // Whole groups: a last one of a few blocks would have no room for its own tables.
            return if groups == 1 { blocks.max(MIN_BLOCKS) } else { groups * GROUP_BLOCKS };
        }
        groups = enough;
    }
}

/// Blocks of content, and blocks around it.
fn inode_blocks(inode: &Inode) -> (u64, u64) {
    let xattrs = u64::from(stored_bytes(&inode.xattrs) > INODE_XATTR_BYTES);
    match &inode.body {
        Body::Directory(directory) => {
            let blocks = directory_blocks(directory);
            (0, xattrs + blocks + extent_blocks(blocks, 1))
        }
        Body::File { size, content } => {
            let runs = place::data_runs(&place::pieces(*size, content), *size);
            let blocks = runs.iter().map(|(_, len)| len.div_ceil(BLOCK)).sum();
            (blocks, xattrs + extent_blocks(blocks, runs.len() as u64))
        }
        Body::Symlink(target) if target.len() > 59 => (0, xattrs + 1),
        _ => (0, xattrs),
    }
}

fn directory_blocks(directory: &Directory) -> u64 {
    let record = |name: &str| (8 + name.len() as u64).next_multiple_of(4);
    // "." and "..", and in the root "lost+found".
    let bytes = 12 + 12 + 20 + directory.children.keys().map(|name| record(name)).sum::<u64>();
    if bytes <= LEAF_BYTES {
        return 1;
    }
    let leaves = bytes.div_ceil(LEAF_BYTES - MAX_RECORD_BYTES);
    leaves + leaves.div_ceil(FAN_OUT) + 2
}

/// The blocks of an inode's extent tree. A run is cut where it is longer than an extent, and where a group's own
/// blocks lie in its way.
fn extent_blocks(blocks: u64, runs: u64) -> u64 {
    let extents = runs + 2 * (blocks / EXTENT_BLOCKS) + 2;
    if extents <= 4 { 0 } else { extents.div_ceil(FAN_OUT) + extents.div_ceil(FAN_OUT * FAN_OUT) + 1 }
}
