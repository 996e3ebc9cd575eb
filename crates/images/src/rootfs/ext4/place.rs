//! Where the bytes of a file go: from pieces in an archive to extents of the image.

use super::BLOCK;
use crate::rootfs::tar::{Content, Piece};

/// Bytes to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// From here in the archive.
    pub from: u64,
    /// To there in the image.
    pub to: u64,
    /// So many.
    pub len: u64,
}

/// A file's content in pieces; one piece unless it is sparse.
pub fn pieces(size: u64, content: &Content) -> Vec<Piece> {
    match content {
        Content::Dense(_) if size == 0 => Vec::new(),
        Content::Dense(position) => vec![Piece { offset: 0, len: size, position: *position }],
        Content::Sparse(pieces) => pieces.to_vec(),
    }
}

/// The blocks that the pieces touch, joined, as `(offset, length)`. Only the last may end within a block.
pub fn data_runs(pieces: &[Piece], size: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let start = piece.offset / BLOCK * BLOCK;
        let end = (piece.offset + piece.len).next_multiple_of(BLOCK).min(size);
        match runs.last_mut() {
            Some((offset, len)) if *offset + *len >= start => *len = end - *offset,
            _ => runs.push((start, end - start)),
        }
    }
    runs
}

/// How to bring the pieces to the extents (position and length) that the layout gave to their blocks.
pub fn copies(pieces: &[Piece], size: u64, extents: &[(u64, u64)]) -> Vec<Copy> {
    let stretches = stretches(&data_runs(pieces, size), extents);
    let mut copies = Vec::with_capacity(stretches.len());
    let mut stretches = stretches.iter().peekable();
    for piece in pieces {
        let end = piece.offset + piece.len;
        while let Some(stretch) = stretches.peek() {
            let (start, stop) = (piece.offset.max(stretch.offset), end.min(stretch.offset + stretch.len));
            if start < stop {
                let (from, to) = (piece.position + start - piece.offset, stretch.at + start - stretch.offset);
                copies.push(Copy { from, to, len: stop - start });
            }
            if stretch.offset + stretch.len > end {
                break;
            }
            stretches.next();
        }
    }
    copies
}

/// A stretch of a file that lies in one piece in the image.
struct Stretch {
    offset: u64,
    len: u64,
    at: u64,
}

/// Both lists are in the order of the file and cover the same number of bytes.
fn stretches(runs: &[(u64, u64)], extents: &[(u64, u64)]) -> Vec<Stretch> {
    let (mut stretches, mut extents) = (Vec::with_capacity(extents.len()), extents.iter().copied());
    let (mut at, mut room) = (0, 0);
    for (mut offset, mut left) in runs.iter().copied() {
        while left > 0 {
            if room == 0 {
                let Some(next) = extents.next() else { return stretches };
                (at, room) = next;
            }
            let len = left.min(room);
            stretches.push(Stretch { offset, len, at });
            (offset, left, at, room) = (offset + len, left - len, at + len, room - len);
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(offset: u64, len: u64, position: u64) -> Piece {
        Piece { offset, len, position }
    }

    #[test]
    fn a_dense_file_is_cut_where_its_extents_are() {
        let copies = copies(&[piece(0, 10_000, 512)], 10_000, &[(40_960, 8192), (81_920, 1808)]);
        assert_eq!(copies, [Copy { from: 512, to: 40_960, len: 8192 }, Copy { from: 8704, to: 81_920, len: 1808 }]);
    }

    #[test]
    fn pieces_of_a_sparse_file_keep_their_place_in_their_blocks() {
        // Two pieces share the first block; the third begins in the middle of the eleventh and ends with the file.
        let pieces = [piece(10, 5, 1000), piece(4000, 200, 1005), piece(43_008, 100, 1205)];
        assert_eq!(data_runs(&pieces, 43_108), [(0, 8192), (40_960, 2148)]);
        let copies = copies(&pieces, 43_108, &[(409_600, 4096), (819_200, 4096 + 2148)]);
        assert_eq!(
            copies,
            [
                Copy { from: 1000, to: 409_610, len: 5 },
                Copy { from: 1005, to: 413_600, len: 96 },
                Copy { from: 1101, to: 819_200, len: 104 },
                Copy { from: 1205, to: 819_200 + 4096 + 2048, len: 100 },
            ]
        );
    }
}
