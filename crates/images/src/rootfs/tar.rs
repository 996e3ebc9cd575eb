//! A reader of tar archives (POSIX.1-2017 ustar and pax, GNU, star, V7) that says where a file's bytes lie instead
//! of handing them out.
//!
//! Archives come from anywhere. Wherever readers are known to disagree it is either as strict as it can be (checksums,
//! numbers, lengths, bytes after the end) or does as Go's `archive/tar` does, which unpacks nearly all the world's
//! images: entries that have no content by their type have none whatever their size field says; global pax headers
//! are skipped; a GNU long name wins over a pax path.

mod header;
mod pax;
mod sparse;

pub use header::Time;

use self::{
    header::{BLOCK, Header},
    pax::Records,
};
use super::fault::{Fault, quoted};

/// The most bytes of one extension header (a long name, or a set of pax records). Go has the same limit.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Where an archive comes from, piece by piece.
pub trait Source {
    /// The bytes that come next, empty at the end. They come again until they are consumed.
    fn chunk(&mut self) -> Result<&[u8], Fault>;
    /// Marks the first `len` bytes of the chunk as read.
    fn consume(&mut self, len: usize);
}

impl Source for &[u8] {
    fn chunk(&mut self) -> Result<&[u8], Fault> {
        Ok(self)
    }
    fn consume(&mut self, len: usize) {
        *self = &self[len..];
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name for an entry before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, with everything that extension headers said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its path as written, with slashes before, after and between.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed.
    pub mtime: Time,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The size of a file, holes included.
    pub size: u64,
    /// Where its bytes are.
    pub content: Content,
}

/// Where the bytes of a file lie in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// All of them, one after another, from this position on.
    Dense(u64),
    /// In pieces with holes between, in ascending order.
    Sparse(Box<[Piece]>),
}

/// A part of a sparse file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is, never 0.
    pub len: u64,
    /// Where in the archive it begins.
    pub position: u64,
}

/// Reads entries one after another.
pub struct Reader<S> {
    source: S,
    position: u64,
    /// Bytes of content before the next header, its padding left out.
    left: u64,
    /// The last entry's name, for errors.
    name: Vec<u8>,
}

/// What extension headers said about the entry that follows them.
#[derive(Default, PartialEq, Eq)]
struct Extensions {
    pax: Option<Result<Records, String>>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<S: Source> Reader<S> {
    /// A reader at the start of an archive.
    pub fn new(source: S) -> Self {
        Self { source, position: 0, left: 0, name: Vec::new() }
    }

    /// The source, wherever the reader stands in it.
    pub fn into_source(self) -> S {
        self.source
    }

    /// The next entry; `None` once, at the end, after checking that nothing but zeros follows it.
    pub fn next(&mut self) -> Result<Option<Member>, Fault> {
        self.skip(self.left)?;
        let mut extensions = Extensions::default();
        while let Some(header) = self.header()? {
            match header.type_flag() {
                b'x' => extensions.pax = Some(Records::parse(&self.extension(&header)?)),
                b'g' => self.skip_extension(&header)?,
                b'L' => extensions.long_path = Some(self.long_name(&header)?),
                b'K' => extensions.long_link = Some(self.long_name(&header)?),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
        if extensions != Extensions::default() {
            return Err(self.fault("the archive ends after an extension header"));
        }
        Ok(None)
    }

    fn header(&mut self) -> Result<Option<Header>, Fault> {
        self.left = 0;
        self.skip_padding()?;
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return self.end().map(|()| None);
        }
        let header = Header::check(block).map_err(|why| match self.name.as_slice() {
            [] => Fault::unusable(why),
            before => Fault::unusable(format!("after entry {}: {why}", quoted(before))),
        })?;
        self.name = header.path();
        Ok(Some(header))
    }

    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member, Fault> {
        let Extensions { pax, long_path, long_link } = extensions;
        // Malformed records are reported under the name of the entry that they belong to.
        self.name = header.path();
        let mut pax = pax.unwrap_or(Ok(Records::default())).map_err(|why| self.fault(why))?;
        let path = long_path.or(pax.sparse.name.take()).or(pax.path.take()).unwrap_or_else(|| header.path());
        self.name.clone_from(&path);
        let kind = header.kind(&path).map_err(|why| self.fault(why))?;
        let link = long_link.or(pax.link.take()).unwrap_or_else(|| header.link());
        let mut member = pax.member(header, kind, path, link).map_err(|why| self.fault(why))?;
        if kind == Kind::File {
            self.find_content(header, &pax.sparse, &mut member)?;
        }
        Ok(member)
    }

    /// Finds out where the content of a file lies. Up to here its size is that of the stored bytes.
    fn find_content(&mut self, header: &Header, sparse: &pax::Sparse, member: &mut Member) -> Result<(), Fault> {
        let mut stored = member.size;
        self.left = stored;
        let map = if header.type_flag() == b'S' {
            member.size = header.real_size().map_err(|why| self.fault(why))?;
            self.old_sparse_map(header)?
        } else if sparse.map_is_in_content() {
            member.size = sparse.real_size().map_err(|why| self.fault(why))?;
            self.inline_sparse_map(&mut stored)?
        } else if let Some(map) = sparse.map().map_err(|why| self.fault(why))? {
            member.size = sparse.real_size().map_err(|why| self.fault(why))?;
            map
        } else {
            member.content = Content::Dense(self.position);
            return Ok(());
        };
        let pieces = sparse::place(&map, member.size, stored, self.position).map_err(|why| self.fault(why))?;
        member.content = Content::Sparse(pieces);
        Ok(())
    }

    /// The map of the old GNU format: in the header, and in blocks between it and the content.
    fn old_sparse_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, Fault> {
        let (mut map, mut more) = header.sparse_map().map_err(|why| self.fault(why))?;
        while more {
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            more = sparse::extend_old(&mut map, &block).map_err(|why| self.fault(why))?;
        }
        Ok(map)
    }

    /// The map of the GNU 1.0 format: decimal lines in front of the content, which is shorter by its blocks.
    fn inline_sparse_map(&mut self, stored: &mut u64) -> Result<Vec<(u64, u64)>, Fault> {
        let mut lines = sparse::InlineMap::default();
        loop {
            let rest = stored.checked_sub(BLOCK as u64);
            *stored = rest.ok_or_else(|| self.fault("the map of a sparse file is cut off"))?;
            let block = self.block()?.ok_or_else(|| self.truncated())?;
            self.left -= BLOCK as u64;
            if let Some(map) = lines.feed(&block).map_err(|why| self.fault(why))? {
                return Ok(map);
            }
        }
    }

    fn skip_extension(&mut self, header: &Header) -> Result<(), Fault> {
        let size = header.size().map_err(|why| self.fault(why))?;
        self.skip(size)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let mut name = self.extension(header)?;
        name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
        Ok(name)
    }

    /// The whole content of an extension header.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, Fault> {
        let size = header.size().map_err(|why| self.fault(why))?;
        if size > MAX_EXTENSION_BYTES {
            return Err(self.fault(format!("an extension header of {size} bytes; the limit is {MAX_EXTENSION_BYTES}")));
        }
        let mut content = vec![0; size as usize];
        self.read(&mut content)?;
        Ok(content)
    }

    /// The next block, or `None` at the end of the source.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        if self.source.chunk()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        self.read(&mut block)?;
        Ok(Some(block))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Fault> {
        let mut filled = 0;
        while filled < into.len() {
            let chunk = self.source.chunk()?;
            let len = chunk.len().min(into.len() - filled);
            into[filled..filled + len].copy_from_slice(&chunk[..len]);
            self.advance(len)?;
            filled += len;
        }
        Ok(())
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), Fault> {
        while bytes > 0 {
            let len = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.source.chunk()?.len());
            self.advance(len)?;
            bytes -= len as u64;
        }
        Ok(())
    }

    /// Goes on to where a block begins. Some writers leave the padding of the last entry out.
    fn skip_padding(&mut self) -> Result<(), Fault> {
        let rest = self.position.next_multiple_of(BLOCK as u64) - self.position;
        if self.source.chunk()?.is_empty() { Ok(()) } else { self.skip(rest) }
    }

    fn advance(&mut self, len: usize) -> Result<(), Fault> {
        if len == 0 {
            return Err(self.truncated());
        }
        self.source.consume(len);
        self.position += len as u64;
        Ok(())
    }

    /// Reads what follows the end mark.
    fn end(&mut self) -> Result<(), Fault> {
        loop {
            let chunk = self.source.chunk()?;
            let (len, clean) = (chunk.len(), chunk.iter().all(|byte| *byte == 0));
            if len == 0 {
                return Ok(());
            }
            if !clean {
                return Err(self.fault("the archive goes on after its end mark"));
            }
            self.source.consume(len);
        }
    }

    fn truncated(&self) -> Fault {
        self.fault("the archive is cut off here")
    }

    fn fault(&self, why: impl AsRef<str>) -> Fault {
        if self.name.is_empty() { Fault::unusable(why.as_ref()) } else { Fault::entry(&self.name, why) }
    }
}
