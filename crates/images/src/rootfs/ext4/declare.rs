//! Telling `mkext4` what is in the filesystem.

use mkext4::{FsBuilder, InodeCount, InodeHandle, Meta, Options, SparseSeg, SpecialKind};

use super::{BLOCK, place, refused, size::Need};
use crate::rootfs::{
    fault::Fault,
    tar::Content,
    tree::{Body, Id, Inode, ROOT, Tree},
};

/// ext4 makes this directory in the root by itself.
const LOST_AND_FOUND: &str = "lost+found";
/// The smallest journal that Linux accepts, in blocks. The image is never written to, so it is never used.
pub const JOURNAL_BLOCKS: u32 = 1024;

/// A declaration under way.
pub struct Declaration<'a> {
    tree: &'a Tree,
    builder: FsBuilder,
    files: Vec<(InodeHandle, Id)>,
}

/// A name in a directory.
type Name<'a> = (InodeHandle, &'a str, Id);

impl<'a> Declaration<'a> {
    /// Declares all of a tree: directories first, then the rest in the order of the archives, so that content is
    /// both read and written from front to back. Also returns the files that have content, in that order.
    pub fn of(tree: &'a Tree, need: &Need, uuid: [u8; 16]) -> Result<(FsBuilder, Vec<(InodeHandle, Id)>), Fault> {
        let builder = FsBuilder::new(options(need, uuid)).map_err(|error| refused("the image as a whole", error))?;
        let mut declaration = Self { tree, builder, files: Vec::new() };
        let mut names = declaration.directories()?;
        names.sort_by_key(|(_, _, id)| order(tree.inode(*id), *id));
        let mut last = None;
        for name in names {
            last = Some(declaration.name(name, last).map_err(|error| refused(name.1, error))?);
        }
        Ok((declaration.builder, declaration.files))
    }

    /// Declares the directories. Returns all other names.
    fn directories(&mut self) -> Result<Vec<Name<'a>>, Fault> {
        let (tree, mut names) = (self.tree, Vec::new());
        let mut ahead = vec![(ROOT, mkext4::ROOT)];
        self.describe(mkext4::ROOT, tree.inode(ROOT)).map_err(|error| refused("/", error))?;
        while let Some((id, handle)) = ahead.pop() {
            let Body::Directory(directory) = &tree.inode(id).body else { continue };
            for (name, child) in &directory.children {
                let inode = tree.inode(*child);
                if id == ROOT && **name == *LOST_AND_FOUND {
                    spare_lost_and_found(inode)?;
                } else if let Body::Directory(_) = inode.body {
                    let made = self.directory(handle, name, inode).map_err(|error| refused(name, error))?;
                    ahead.push((*child, made));
                } else {
                    names.push((handle, &**name, *child));
                }
            }
        }
        Ok(names)
    }

    fn directory(&mut self, parent: InodeHandle, name: &str, inode: &Inode) -> mkext4::Result<InodeHandle> {
        let handle = self.builder.mkdir(parent, name, meta(inode))?;
        self.describe(handle, inode)?;
        Ok(handle)
    }

    /// Declares a name. Names of one inode come one after another; all but the first are links to it.
    fn name(&mut self, name: Name<'a>, last: Option<(Id, InodeHandle)>) -> mkext4::Result<(Id, InodeHandle)> {
        let (parent, name, id) = name;
        if let Some((last, handle)) = last.filter(|(last, _)| *last == id) {
            self.builder.hardlink(parent, name, handle)?;
            return Ok((last, handle));
        }
        let inode = self.tree.inode(id);
        let handle = self.inode(parent, name, inode)?;
        if let Body::File { size: 1.., .. } = inode.body {
            self.files.push((handle, id));
        }
        self.describe(handle, inode)?;
        Ok((id, handle))
    }

    fn inode(&mut self, parent: InodeHandle, name: &str, inode: &Inode) -> mkext4::Result<InodeHandle> {
        let (builder, meta) = (&mut self.builder, meta(inode));
        match &inode.body {
            Body::File { size: size @ 1.., content: content @ Content::Sparse(_) } => {
                builder.file_sparse(parent, name, meta, &segments(*size, content))
            }
            Body::File { size, .. } => builder.file(parent, name, meta, *size),
            Body::Symlink(target) => builder.symlink(parent, name, target, meta),
            Body::CharDevice(major, minor) => {
                builder.mknod(parent, name, meta, SpecialKind::Char { major: *major, minor: *minor })
            }
            Body::BlockDevice(major, minor) => {
                builder.mknod(parent, name, meta, SpecialKind::Block { major: *major, minor: *minor })
            }
            Body::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo),
            Body::Directory(_) => unreachable!("directories are declared before everything else"),
        }
    }

    /// Sets what a declaration leaves open.
    fn describe(&mut self, handle: InodeHandle, inode: &Inode) -> mkext4::Result<()> {
        if handle == mkext4::ROOT {
            self.builder.set_meta(handle, meta(inode))?;
        }
        inode.xattrs.iter().try_for_each(|xattr| self.builder.set_xattr(handle, &xattr.name, &xattr.value))
    }
}

fn options(need: &Need, uuid: [u8; 16]) -> Options {
    let mut options = Options::new(need.blocks * BLOCK, uuid, 0);
    options.inodes = InodeCount::Exact(need.inodes);
    options.journal_blocks = Some(JOURNAL_BLOCKS);
    options.reserved_percent = 0;
    options
}

/// Where an inode stands among the others: by its layer, then by the place of its content.
fn order(inode: &Inode, id: Id) -> (u32, u64, Id) {
    let position = match &inode.body {
        Body::File { content: Content::Dense(position), .. } => *position,
        Body::File { content: Content::Sparse(pieces), .. } => pieces.first().map_or(0, |piece| piece.position),
        _ => 0,
    };
    (inode.layer, position, id)
}

/// An empty `lost+found` of the image is as good as the one that ext4 makes; anything else has no place.
fn spare_lost_and_found(inode: &Inode) -> Result<(), Fault> {
    match &inode.body {
        Body::Directory(directory) if directory.children.is_empty() => Ok(()),
        _ => Err(Fault::entry(
            LOST_AND_FOUND.as_bytes(),
            "ext4 keeps this name for an empty directory of its own; remove it from the image",
        )),
    }
}

/// A sparse file as data and holes in turn.
fn segments(size: u64, content: &Content) -> Vec<SparseSeg> {
    let (mut segments, mut end) = (Vec::new(), 0);
    for (offset, len) in place::data_runs(&place::pieces(size, content), size) {
        if offset > end {
            segments.push(SparseSeg::Hole(offset - end));
        }
        segments.push(SparseSeg::Data(len));
        end = offset + len;
    }
    if size > end {
        segments.push(SparseSeg::Hole(size - end));
    }
    segments
}

fn meta(inode: &Inode) -> Meta {
    let meta = inode.meta;
    Meta::new(meta.mode, meta.uid, meta.gid, (meta.mtime.seconds, meta.mtime.nanoseconds))
}
