//! Writing the image's file: many small writes at ascending places become few large ones.

use std::{fs::File, io, os::unix::fs::FileExt};

use mkext4::RegionSink;

use super::{BLOCK, place::Copy};

/// What is collected before it is written, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that begins as one hole.
pub struct Output<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
}

impl<'a> Output<'a> {
    /// Nothing is written yet.
    pub fn new(file: &'a File) -> Self {
        Self { file, buffer: Vec::with_capacity(BUFFER_BYTES), start: 0 }
    }

    /// Copies bytes of an archive.
    pub fn copy(&mut self, archive: &File, copy: &Copy) -> io::Result<()> {
        let (mut from, mut to, mut left) = (copy.from, copy.to, copy.len);
        while left > 0 {
            self.go_to(to)?;
            let held = self.buffer.len();
            let len = left.min((BUFFER_BYTES - held) as u64);
            self.buffer.resize(held + len as usize, 0);
            archive.read_exact_at(&mut self.buffer[held..], from)?;
            (from, to, left) = (from + len, to + len, left - len);
        }
        Ok(())
    }

    /// Writes what was collected.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.start)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Sees to it that the buffer ends at `offset` and has room.
    fn go_to(&mut self, offset: u64) -> io::Result<()> {
        let end = self.start + self.buffer.len() as u64;
        // What is left of the last block is nobody else's, and zero.
        let rest_of_block = offset > end && offset == end.next_multiple_of(BLOCK);
        if rest_of_block && offset - self.start <= BUFFER_BYTES as u64 {
            self.buffer.resize((offset - self.start) as usize, 0);
        } else if offset != end {
            self.flush()?;
            self.start = offset;
        }
        if self.buffer.len() == BUFFER_BYTES { self.flush() } else { Ok(()) }
    }
}

impl RegionSink for Output<'_> {
    fn data(&mut self, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        let mut offset = offset;
        while !bytes.is_empty() {
            self.go_to(offset)?;
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            (offset, bytes) = (offset + now.len() as u64, later);
        }
        Ok(())
    }

    /// The file is a hole there already.
    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
