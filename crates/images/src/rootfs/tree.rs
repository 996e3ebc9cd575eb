//! Layers flattened into one tree, in memory and without any filesystem's help: nothing that a layer names is ever
//! looked up on the host.
//!
//! A layer is applied in two steps. First its whiteouts take away what the layers below left; then its entries are
//! added in their order. So a whiteout never takes away an entry of its own layer, wherever in the archive it stands.
//!
//! The rules that archives leave open are those of the container engines: an entry replaces what has its path, except
//! that a directory on a directory only changes its owner, mode, time and attributes; the directories above an entry
//! are made if they are missing; a symbolic link above an entry is followed inside the root (so `lib/x` lands in
//! `usr/lib/x` where `lib` leads there), one at the entry's own path is not.

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    fault::{Fault, quoted},
    layer::{Entry, LayerIndex, Meta, Node, Whiteout, Xattr},
    limits::Limits,
    tar::{Content, Time},
};

/// Names an inode in a tree.
pub type Id = u32;
/// The root directory.
pub const ROOT: Id = 0;

/// As many symbolic links Linux follows in one path.
const MAX_LINKS: u32 = 40;
/// So many steps may be taken through symbolic links for each entry that an image may have, on average: hostile
/// links could lead a single path through 80 000 directories.
const LINK_STEPS_PER_ENTRY: u64 = 32;
/// More names a file of ext4 cannot have.
const MAX_NAMES: u32 = 65_000;
/// What a directory is that no layer describes.
const IMPLICIT: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Time { seconds: 0, nanoseconds: 0 } };

/// The files of an image.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    max_inodes: u64,
    max_depth: u16,
    link_steps_left: u64,
}

/// A file, directory, link or device; names lie in the directories.
#[derive(Debug)]
pub struct Inode {
    /// Owner, mode and time.
    pub meta: Meta,
    /// Extended attributes.
    pub xattrs: Box<[Xattr]>,
    /// What it is.
    pub body: Body,
    /// The layer that it came with: its content lies there.
    pub layer: u32,
    names: u32,
}

/// What an inode is.
#[derive(Debug)]
pub enum Body {
    /// A directory.
    Directory(Directory),
    /// A file.
    File {
        /// Its size, holes included.
        size: u64,
        /// Where its bytes are in the archive of its layer.
        content: Content,
    },
    /// A symbolic link to this text.
    Symlink(Box<str>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// The content of a directory.
#[derive(Debug)]
pub struct Directory {
    /// What has which name in it.
    pub children: BTreeMap<Box<str>, Id>,
    parent: Id,
    depth: u16,
}

/// What to do about a missing directory on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Make it, for an entry of this layer.
    Make(u32),
    /// Give up.
    Stop,
}

/// Where one part of a path leads.
enum Step<'a> {
    /// To this directory.
    To(Id),
    /// On to the target of a symbolic link.
    Link(&'a str),
    /// To something of this layer that is no directory.
    Other(u32),
    /// Nowhere.
    Nothing,
}

impl Tree {
    /// An empty root directory.
    pub fn new(limits: &Limits) -> Self {
        let root = Inode::new(directory(ROOT, 0), IMPLICIT, [].into(), 0);
        Self {
            inodes: vec![root],
            max_inodes: limits.entries.min(u64::from(Id::MAX) - 1),
            max_depth: limits.depth,
            link_steps_left: limits.entries.saturating_mul(LINK_STEPS_PER_ENTRY),
        }
    }

    /// Puts the layer of this number on top.
    pub fn apply(&mut self, number: u32, layer: LayerIndex) -> Result<(), Fault> {
        for whiteout in layer.whiteouts {
            let (Whiteout::Path(path) | Whiteout::Opaque(path)) = &whiteout;
            self.take_away(&whiteout).map_err(|why| Fault::entry(path.as_bytes(), format!("its whiteout: {why}")))?;
        }
        for entry in layer.entries {
            let path = entry.path.clone();
            self.add(number, entry).map_err(|why| Fault::entry(path.as_bytes(), why))?;
        }
        Ok(())
    }

    /// The inode of this number.
    pub fn inode(&self, id: Id) -> &Inode {
        &self.inodes[id as usize]
    }

    /// Everything that is in the image, once, however many names it has.
    pub fn named_inodes(&self) -> impl Iterator<Item = &Inode> {
        self.inodes.iter().enumerate().filter(|(id, inode)| *id == ROOT as usize || inode.names > 0).map(|(_, i)| i)
    }

    fn take_away(&mut self, whiteout: &Whiteout) -> Result<(), String> {
        match whiteout {
            Whiteout::Path(path) => {
                let (above, name) = split(path);
                if let Some(parent) = self.walk(above, Missing::Stop)?
                    && let Some(removed) = self.directory_mut(parent).children.remove(name)
                {
                    self.unlink(removed);
                }
            }
            Whiteout::Opaque(path) => {
                if let Some(id) = self.walk(path, Missing::Stop)? {
                    let removed = std::mem::take(&mut self.directory_mut(id).children);
                    removed.into_values().for_each(|id| self.unlink(id));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, layer: u32, entry: Entry) -> Result<(), String> {
        let Entry { path, node, meta, xattrs } = entry;
        let (above, name) = split(&path);
        let parent = self.walk(above, Missing::Make(layer))?.ok_or("the directory above it is missing")?;
        if name.is_empty() {
            self.describe(ROOT, meta, xattrs);
            return Ok(());
        }
        let present = self.directory(parent).children.get(name).copied();
        if let (Node::Directory, Some(id)) = (&node, present)
            && self.is_directory(id)
        {
            self.describe(id, meta, xattrs);
            return Ok(());
        }
        let id = match node {
            Node::HardLink(target) => self.named(&target)?,
            node => {
                let body = self.body(node, parent)?;
                self.insert(Inode::new(body, meta, xattrs, layer))?
            }
        };
        self.link(parent, name, id);
        Ok(())
    }

    /// What a hard link to this path means.
    fn named(&mut self, path: &str) -> Result<Id, String> {
        let (above, name) = split(path);
        let parent = self.walk(above, Missing::Stop)?;
        let target = parent.and_then(|parent| self.directory(parent).children.get(name).copied());
        let shown = quoted(path.as_bytes());
        match target {
            None => Err(format!("it is a hard link to {shown}, which is not in the image before it")),
            Some(id) if self.is_directory(id) => Err(format!("it is a hard link to the directory {shown}")),
            Some(id) if self.inode(id).names >= MAX_NAMES => {
                Err(format!("it is one more name of {shown}, which already has {MAX_NAMES}"))
            }
            Some(id) => Ok(id),
        }
    }

    fn body(&self, node: Node, parent: Id) -> Result<Body, String> {
        Ok(match node {
            Node::Directory => self.below(parent)?,
            Node::File { size, content } => Body::File { size, content },
            Node::Symlink(target) => Body::Symlink(target),
            Node::CharDevice(major, minor) => Body::CharDevice(major, minor),
            Node::BlockDevice(major, minor) => Body::BlockDevice(major, minor),
            Node::Fifo => Body::Fifo,
            Node::HardLink(_) => unreachable!("a hard link has no body of its own"),
        })
    }

    /// The directory at `path` from the root on, through symbolic links. `None` if something on the way is missing
    /// or is no directory, and is not to be made.
    fn walk(&mut self, path: &str, missing: Missing) -> Result<Option<Id>, String> {
        let (mut at, mut links) = (ROOT, 0);
        let mut ahead: Vec<Cow<'_, str>> = parts_backwards(path).map(Cow::Borrowed).collect();
        while let Some(part) = ahead.pop() {
            at = match (self.look(at, &part), missing) {
                (Step::To(id), _) => id,
                (Step::Link(_), _) if links == MAX_LINKS => {
                    return Err(format!("more than {MAX_LINKS} symbolic links lead to the directory above it"));
                }
                (Step::Link(target), _) => {
                    links += 1;
                    let (start, before) = (if target.starts_with('/') { ROOT } else { at }, ahead.len());
                    ahead.extend(parts_backwards(target).map(|part| Cow::Owned(part.to_owned())));
                    self.pay_for_steps(ahead.len() - before)?;
                    start
                }
                (_, Missing::Stop) => return Ok(None),
                (Step::Nothing, Missing::Make(layer)) => self.make_directory(at, &part, layer)?,
                // What a lower layer left in the way of the entry's own path is replaced, as a union filesystem does.
                (Step::Other(below), Missing::Make(layer)) if links == 0 && below < layer => {
                    self.make_directory(at, &part, layer)?
                }
                (Step::Other(_), Missing::Make(_)) => {
                    return Err(format!("{part:?} above it is neither a directory nor a link to one"));
                }
            };
        }
        Ok(Some(at))
    }

    /// What a part of a path leads to.
    fn look(&self, at: Id, part: &str) -> Step<'_> {
        let directory = self.directory(at);
        let id = match part {
            "." => return Step::To(at),
            ".." => return Step::To(directory.parent),
            name => directory.children.get(name).copied(),
        };
        let Some(id) = id else { return Step::Nothing };
        match self.inode(id) {
            Inode { body: Body::Directory(_), .. } => Step::To(id),
            Inode { body: Body::Symlink(target), .. } => Step::Link(target),
            other => Step::Other(other.layer),
        }
    }

    fn pay_for_steps(&mut self, steps: usize) -> Result<(), String> {
        let left = self.link_steps_left.checked_sub(steps as u64);
        self.link_steps_left = left.ok_or("following all the image's symbolic links would take too long")?;
        Ok(())
    }

    fn make_directory(&mut self, parent: Id, name: &str, layer: u32) -> Result<Id, String> {
        let body = self.below(parent)?;
        let id = self.insert(Inode::new(body, IMPLICIT, [].into(), layer))?;
        self.link(parent, name, id);
        Ok(id)
    }

    /// A new directory in another. Symbolic links can lead deeper than any path is long.
    fn below(&self, parent: Id) -> Result<Body, String> {
        let depth = self.directory(parent).depth.saturating_add(1);
        if depth > self.max_depth {
            return Err(format!("it lies more than {} directories deep", self.max_depth));
        }
        Ok(directory(parent, depth))
    }

    fn insert(&mut self, inode: Inode) -> Result<Id, String> {
        // Missing directories count too, or a short archive could make many.
        if self.inodes.len() as u64 > self.max_inodes {
            let limit = self.max_inodes;
            return Err(format!("the image has more than {limit} entries and directories, the limit of this host"));
        }
        self.inodes.push(inode);
        Ok((self.inodes.len() - 1) as Id)
    }

    fn link(&mut self, parent: Id, name: &str, id: Id) {
        // Counted first: the name may replace another of the same inode, or the directory that holds it.
        self.inodes[id as usize].names += 1;
        if let Some(replaced) = self.directory_mut(parent).children.insert(name.into(), id) {
            self.unlink(replaced);
        }
    }

    /// Takes one name away from an inode, and with a directory all that lies in it.
    fn unlink(&mut self, id: Id) {
        let mut removed = vec![id];
        while let Some(id) = removed.pop() {
            let inode = &mut self.inodes[id as usize];
            inode.names -= 1;
            if let Body::Directory(directory) = &mut inode.body {
                removed.extend(std::mem::take(&mut directory.children).into_values());
            }
        }
    }

    fn describe(&mut self, id: Id, meta: Meta, xattrs: Box<[Xattr]>) {
        let inode = &mut self.inodes[id as usize];
        (inode.meta, inode.xattrs) = (meta, xattrs);
    }

    fn is_directory(&self, id: Id) -> bool {
        matches!(self.inode(id).body, Body::Directory(_))
    }

    fn directory(&self, id: Id) -> &Directory {
        match &self.inode(id).body {
            Body::Directory(directory) => directory,
            _ => unreachable!("only directories are walked through"),
        }
    }

    fn directory_mut(&mut self, id: Id) -> &mut Directory {
        match &mut self.inodes[id as usize].body {
            Body::Directory(directory) => directory,
            _ => unreachable!("only directories are walked through"),
        }
    }
}

impl Inode {
    fn new(body: Body, meta: Meta, xattrs: Box<[Xattr]>, layer: u32) -> Self {
        Self { meta, xattrs, body, layer, names: 0 }
    }
}

fn directory(parent: Id, depth: u16) -> Body {
    Body::Directory(Directory { children: BTreeMap::new(), parent, depth })
}

/// The directory above, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn parts_backwards(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit('/').filter(|part| !part.is_empty())
}
