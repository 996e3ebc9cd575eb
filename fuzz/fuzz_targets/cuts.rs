//! Bytes in pieces.

/// `bytes` in pieces of these lengths, again and again; none is empty.
pub fn pieces<'b>(bytes: &'b [u8], cuts: &'b [u8]) -> impl Iterator<Item = &'b [u8]> {
    let (mut rest, mut cuts) = (bytes, cuts.iter().cycle());
    std::iter::from_fn(move || {
        let length = usize::from(*cuts.next().unwrap_or(&1)).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, left) = rest.split_at(length);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}
