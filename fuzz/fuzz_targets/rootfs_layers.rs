//! Arbitrary bytes as the layers of an image: archive, whiteouts, flattening, layout of the filesystem. No disk.
//!
//! `cargo fuzz run -s none rootfs_layers`

#![no_main]

use images::rootfs::{Limits, examine};
use libfuzzer_sys::fuzz_target;

const BLOCK: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some((layers, rest)) = data.split_first() else { return };
    let limits = Limits { entries: 2_000, metadata_bytes: 1 << 20, file_bytes: 1 << 40, ..Limits::default() };
    let _ = examine(&split(rest, layers % 3 + 1), &limits);
    // No mutation finds a checksum, so every block gets its own: then any block may be a header.
    let mut signed = rest.to_vec();
    signed.chunks_exact_mut(BLOCK).filter(|block| block.iter().any(|byte| *byte != 0)).for_each(sign);
    let layers = split(&signed, layers % 3 + 1);
    let first = examine(&layers, &limits);
    assert_eq!(first, examine(&layers, &limits), "the same layers mean the same");
});

/// Cuts the data into so many archives of whole blocks.
fn split(data: &[u8], count: u8) -> Vec<&[u8]> {
    let blocks = data.len() / BLOCK;
    let each = (blocks / usize::from(count)).max(1) * BLOCK;
    data.chunks(each).collect()
}

fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
