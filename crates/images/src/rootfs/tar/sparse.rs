//! Maps of sparse files: the old GNU format (in headers), GNU's pax formats 0.0 and 0.1 (in records) and 1.0 (in
//! front of the content). See "Storing Sparse Files" in the manual of GNU tar.

use super::{
    Piece,
    header::{BLOCK, unsigned},
    pax::decimal,
};

/// The most pieces of one file.
const MAX_PIECES: usize = 1 << 16;

type Outcome<T> = Result<T, String>;

/// Checks a map of `(offset, length)` against the file's size and the stored bytes, and places its pieces in the
/// archive from `position` on.
pub fn place(map: &[(u64, u64)], size: u64, stored: u64, mut position: u64) -> Outcome<Box<[Piece]>> {
    let (mut end, mut total) = (0, 0u64);
    let mut pieces = Vec::with_capacity(map.len());
    for (offset, len) in map.iter().copied() {
        let next = offset.checked_add(len).filter(|next| offset >= end && *next <= size);
        end = next.ok_or("the map of a sparse file overlaps or exceeds its size")?;
        total += len;
        if total > stored {
            return Err("a sparse file has less content than its map says".to_owned());
        }
        if len > 0 {
            pieces.push(Piece { offset, len, position });
            position += len;
        }
    }
    if total != stored {
        return Err("a sparse file has more content than its map says".to_owned());
    }
    Ok(pieces.into())
}

/// Numbers, two for each piece.
pub fn pairs(numbers: &[u64]) -> Outcome<Vec<(u64, u64)>> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * MAX_PIECES {
        return Err(format!("the map of a sparse file is malformed or has more than {MAX_PIECES} pieces"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Reads pieces of the old format out of a header or an extension block. True once an empty one ended the map.
pub fn read_old(map: &mut Vec<(u64, u64)>, slots: &[u8]) -> Outcome<bool> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 {
            return Ok(true);
        }
        if map.len() == MAX_PIECES {
            return Err(format!("a sparse file has more than {MAX_PIECES} pieces"));
        }
        map.push((unsigned(&slot[..12], "map")?, unsigned(&slot[12..], "map")?));
    }
    Ok(false)
}

/// Reads an extension block of the old format. True if another follows.
pub fn extend_old(map: &mut Vec<(u64, u64)>, block: &[u8; BLOCK]) -> Outcome<bool> {
    read_old(map, &block[..21 * 24])?;
    Ok(block[21 * 24] != 0)
}

/// Reads a map of format 1.0, block by block: the number of pieces, then offset and length of each, a line each.
#[derive(Default)]
pub struct InlineMap {
    line: Vec<u8>,
    count: Option<u64>,
    numbers: Vec<u64>,
}

impl InlineMap {
    /// Takes the next block; returns the map once it is whole.
    pub fn feed(&mut self, block: &[u8; BLOCK]) -> Outcome<Option<Vec<(u64, u64)>>> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            self.take_line()?;
            if self.count == Some(self.numbers.len() as u64 / 2) && self.numbers.len().is_multiple_of(2) {
                return pairs(&self.numbers).map(Some);
            }
        }
        // No number has that many digits.
        if self.line.len() > BLOCK { Err("the map of a sparse file is malformed".to_owned()) } else { Ok(None) }
    }

    fn take_line(&mut self) -> Outcome<()> {
        let number = decimal(&std::mem::take(&mut self.line))?;
        match self.count {
            Some(_) => self.numbers.push(number),
            None if number > MAX_PIECES as u64 => return Err(format!("a sparse file has {number} pieces")),
            None => self.count = Some(number),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_agree_with_size_and_content() {
        let pieces = place(&[(0, 10), (100, 5), (200, 0)], 200, 15, 1000).unwrap();
        let piece = |offset, len, position| Piece { offset, len, position };
        assert_eq!(*pieces, [piece(0, 10, 1000), piece(100, 5, 1010)]);
        for (map, size, stored) in [
            (&[(0, 10), (5, 10)][..], 100, 20),
            (&[(0, 10)], 5, 10),
            (&[(u64::MAX, 2)], u64::MAX, 2),
            (&[(0, 10)], 100, 11),
            (&[(0, 10)], 100, 9),
        ] {
            assert!(place(map, size, stored, 0).is_err(), "{map:?}");
        }
    }
}
