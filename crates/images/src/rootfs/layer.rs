//! What one layer asks for: its archive read into entries and whiteouts, with names that are checked and clean.

mod acl;
mod path;

use std::collections::BTreeMap;

use self::path::PathRules;
use super::{
    fault::{Fault, quoted},
    limits::Budget,
    tar::{Content, Kind, Member, Reader, Source, Time},
};

/// Prefix of names that take something away (OCI image specification, "Whiteouts").
const WHITEOUT: &str = ".wh.";
/// The name that takes away everything that lower layers have in its directory.
const OPAQUE: &str = ".wh..wh..opq";
/// Prefix of AUFS's own files, which old Docker engines left in layers.
const AUFS: &str = ".wh..wh.";
/// All that fits into the one block that ext4 has for an inode's attributes: its header and end mark are left out.
const XATTR_BLOCK_BYTES: usize = 4096 - 32 - 4;
/// The largest file of ext4, whose blocks have numbers of 32 bits.
const MAX_FILE_BYTES: u64 = (u32::MAX as u64) * 4096;
/// The moments that ext4 can tell: 34 bits of seconds, from 1901 on.
const SECONDS: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

/// The index of a layer. The bytes of its files stay where they are.
#[derive(Debug, Default)]
pub struct LayerIndex {
    /// What it takes away from the layers below.
    pub whiteouts: Vec<Whiteout>,
    /// What it adds, in the archive's order.
    pub entries: Vec<Entry>,
}

/// Something that a layer takes away. Paths are clean: no leading slash, no empty, `.` or `..` parts.
#[derive(Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// What has this path.
    Path(Box<str>),
    /// Everything in the directory of this path.
    Opaque(Box<str>),
}

/// Something that a layer adds.
#[derive(Debug)]
pub struct Entry {
    /// Its clean path; empty for the root itself.
    pub path: Box<str>,
    /// What it is.
    pub node: Node,
    /// Owner, mode and time.
    pub meta: Meta,
    /// Extended attributes in the form in which ext4 stores them.
    pub xattrs: Box<[Xattr]>,
}

/// What an entry is.
#[derive(Debug)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file of `size` bytes.
    File {
        /// Its size, holes included.
        size: u64,
        /// Where its bytes are in the layer's archive.
        content: Content,
    },
    /// A symbolic link to this text.
    Symlink(Box<str>),
    /// Another name of what has this clean path.
    HardLink(Box<str>),
    /// A character device.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Owner, mode and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, set-user-id and the like included.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed.
    pub mtime: Time,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xattr {
    /// Its name with the namespace, such as `security.capability`.
    pub name: Box<str>,
    /// Its value.
    pub value: Box<[u8]>,
}

impl LayerIndex {
    /// Reads an archive to its end.
    pub fn read<S: Source>(archive: &mut Reader<S>, budget: &Budget<'_>) -> Result<Self, Fault> {
        let rules = PathRules { max_bytes: budget.limits.path_bytes, max_depth: budget.limits.depth };
        let mut index = Self::default();
        while let Some(member) = archive.next()? {
            let name = member.path.clone();
            index.take(member, &rules, budget).map_err(|why| Fault::entry(&name, why))?;
        }
        Ok(index)
    }

    fn take(&mut self, member: Member, rules: &PathRules, budget: &Budget<'_>) -> Result<(), String> {
        let path = rules.clean(&member.path)?;
        budget.take_entry(metadata_bytes(&member))?;
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if directory.split('/').any(|part| part.starts_with(AUFS)) || (name.starts_with(AUFS) && name != OPAQUE) {
            return Ok(());
        }
        if directory.split('/').any(|part| part.starts_with(WHITEOUT)) {
            return Err("it lies in a directory whose name is reserved for whiteouts".into());
        }
        if name == OPAQUE {
            self.whiteouts.push(Whiteout::Opaque(directory.into()));
        } else if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.whiteouts.push(Whiteout::Path(whited_out(directory, hidden)?));
        } else {
            self.entries.push(entry(path, member, rules, budget)?);
        }
        Ok(())
    }
}

fn whited_out(directory: &str, hidden: &str) -> Result<Box<str>, String> {
    match hidden {
        "" | "." | ".." => Err("a whiteout that names nothing".into()),
        _ if directory.is_empty() => Ok(hidden.into()),
        _ => Ok(format!("{directory}/{hidden}").into()),
    }
}

fn entry(path: String, member: Member, rules: &PathRules, budget: &Budget<'_>) -> Result<Entry, String> {
    let node = node(&member, rules, budget)?;
    if path.is_empty() && !matches!(node, Node::Directory) {
        return Err("it would replace the root directory".into());
    }
    let Time { seconds, nanoseconds } = member.mtime;
    let mtime = Time { seconds: seconds.clamp(*SECONDS.start(), *SECONDS.end()), nanoseconds };
    let meta = Meta { mode: member.mode, uid: member.uid, gid: member.gid, mtime };
    Ok(Entry { path: path.into(), node, meta, xattrs: xattrs(member.xattrs, budget.limits.xattr_bytes)? })
}

fn node(member: &Member, rules: &PathRules, budget: &Budget<'_>) -> Result<Node, String> {
    let (major, minor) = member.device;
    Ok(match member.kind {
        Kind::Directory => Node::Directory,
        Kind::Symlink => Node::Symlink(symlink_target(&member.link)?),
        Kind::HardLink => {
            let target = rules.clean(&member.link).map_err(|why| format!("it is a hard link whose target {why}"))?;
            Node::HardLink(target.into())
        }
        Kind::Fifo => Node::Fifo,
        _ if major > 0xfff || minor > 0xf_ffff => return Err("its device number is larger than Linux allows".into()),
        Kind::CharDevice => Node::CharDevice(major, minor),
        Kind::BlockDevice => Node::BlockDevice(major, minor),
        Kind::File if member.size > budget.limits.file_bytes.min(MAX_FILE_BYTES) => {
            let (size, limit) = (member.size, budget.limits.file_bytes.min(MAX_FILE_BYTES));
            return Err(format!("a file of {size} bytes; the limit of this host is {limit}"));
        }
        Kind::File => Node::File { size: member.size, content: member.content.clone() },
    })
}

fn symlink_target(target: &[u8]) -> Result<Box<str>, String> {
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        return Err("a symbolic link must lead to a path of 1 to 4095 bytes without zero bytes".into());
    }
    let target = std::str::from_utf8(target);
    target.map(Into::into).map_err(|_| "a symbolic link whose target is not valid UTF-8 cannot be stored".into())
}

/// Checks attributes and brings them into the form in which ext4 stores them. Those of other systems (macOS writes
/// `com.apple.*`) are left out, as every Linux filesystem does.
fn xattrs(given: Vec<(Vec<u8>, Vec<u8>)>, limit: usize) -> Result<Box<[Xattr]>, String> {
    let mut kept = BTreeMap::new();
    for (name, value) in given {
        let shown = quoted(&name);
        let Some(name) = std::str::from_utf8(&name).ok().filter(|name| is_storable(name)) else {
            tracing::debug!(attribute = shown, "left out an extended attribute that no Linux filesystem stores");
            continue;
        };
        if name.len() > 255 {
            return Err(format!("its attribute {shown} has a name of more than 255 bytes"));
        }
        let value = match name {
            acl::ACCESS | acl::DEFAULT => acl::to_disk(&value).ok_or("its access control list is malformed")?,
            _ => Some(value),
        };
        match value {
            Some(value) => kept.insert(Box::from(name), value),
            None => kept.remove(name),
        };
    }
    let kept: Box<[Xattr]> = kept.into_iter().map(|(name, value)| Xattr { name, value: value.into() }).collect();
    let (bytes, limit) = (stored_bytes(&kept), limit.min(XATTR_BLOCK_BYTES));
    if bytes > limit {
        return Err(format!("its extended attributes take {bytes} bytes; {limit} can be stored"));
    }
    Ok(kept)
}

fn is_storable(name: &str) -> bool {
    let namespaces = ["user.", "trusted.", "security."];
    let named = namespaces.iter().any(|space| name.strip_prefix(space).is_some_and(|rest| !rest.is_empty()));
    (named && !name.contains('\0')) || name == acl::ACCESS || name == acl::DEFAULT
}

/// What attributes take where ext4 stores them. (A little less: their namespaces are stored as numbers.)
pub fn stored_bytes(xattrs: &[Xattr]) -> usize {
    let one = |xattr: &Xattr| 16 + xattr.name.len().next_multiple_of(4) + xattr.value.len().next_multiple_of(4);
    xattrs.iter().map(one).sum()
}

/// What is kept in memory of an entry beside its fixed part.
fn metadata_bytes(member: &Member) -> u64 {
    let xattrs: usize = member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let pieces = match &member.content {
        Content::Dense(_) => 0,
        Content::Sparse(pieces) => size_of_val(&**pieces),
    };
    (member.path.len() + member.link.len() + xattrs + pieces) as u64
}
