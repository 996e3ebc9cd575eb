//! The ways in which distributions compress kernels and modules.

use std::{
    io::{self, Read, Write},
    process::{Command, Stdio},
};

/// A compressed format, known by how it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    /// The format of `lz4 -l`, which the kernel uses: blocks without a frame.
    Lz4Legacy,
    Xz,
    Zstd,
}

/// The most that one block of legacy LZ4 holds.
const LZ4_BLOCK_BYTES: usize = 8 * 1024 * 1024;

const MAGICS: [(&[u8], Compression); 4] = [
    (b"\x1f\x8b", Compression::Gzip),
    (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
];

impl Compression {
    /// The format of these bytes; `None` if they are in none that is known.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, compression)| *compression)
    }

    /// Expands `bytes` to at most `max_bytes`.
    pub(super) fn expand(self, bytes: &[u8], max_bytes: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read_bounded(flate2::read::GzDecoder::new(bytes), max_bytes),
            Self::Zstd => read_bounded(zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame(), max_bytes),
            Self::Lz4Legacy => expand_lz4(&bytes[4..], max_bytes),
            Self::Xz => expand_xz(bytes, max_bytes),
        }
    }
}

/// Blocks, each after its size (32 bits, little endian). A kernel's last block may be followed by the kernel's size,
/// which is larger than a block can be and so ends the list.
fn expand_lz4(mut rest: &[u8], max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut expanded = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        let Some((compressed, next)) = tail.split_at_checked(u32::from_le_bytes(*size) as usize) else { break };
        let length = lz4_flex::block::decompress_into(compressed, &mut block).map_err(io::Error::other)?;
        if expanded.len() + length > max_bytes {
            return Err(too_large(max_bytes));
        }
        expanded.extend_from_slice(&block[..length]);
        rest = next;
    }
    Ok(expanded)
}

/// By the program `xz`, which every distribution that compresses with it has.
fn expand_xz(bytes: &[u8], max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut xz = Command::new("xz")
        .args(["--decompress", "--stdout", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), "the program xz is needed to expand it; install xz-utils"))?;
    let mut stdin = xz.stdin.take().expect("it is piped");
    let stdout = xz.stdout.take().expect("it is piped");
    let expanded = std::thread::scope(|scope| {
        // What stands behind the stream makes xz stop reading; that is no failure.
        scope.spawn(move || stdin.write_all(bytes));
        read_bounded(stdout, max_bytes)
    });
    let status = xz.wait()?;
    let expanded = expanded?;
    if status.success() && !expanded.is_empty() {
        Ok(expanded)
    } else {
        Err(io::Error::other("xz could not expand it"))
    }
}

fn read_bounded(reader: impl Read, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut expanded = Vec::new();
    reader.take(max_bytes as u64 + 1).read_to_end(&mut expanded)?;
    if expanded.len() > max_bytes { Err(too_large(max_bytes)) } else { Ok(expanded) }
}

fn too_large(max_bytes: usize) -> io::Error {
    io::Error::other(format!("expanded, it is larger than {} MiB", max_bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0..100_000u32).flat_map(|number| number.to_string().into_bytes()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut compressed = b"\x02\x21\x4c\x18".to_vec();
        for block in bytes.chunks(LZ4_BLOCK_BYTES) {
            let block = lz4_flex::block::compress(block);
            compressed.extend_from_slice(&(block.len() as u32).to_le_bytes());
            compressed.extend_from_slice(&block);
        }
        compressed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        compressed
    }

    #[test]
    fn each_format_is_known_and_expanded_within_bounds() {
        let text = text();
        for compressed in [gzip(&text), lz4(&text), zstd::encode_all(&text[..], 1).unwrap()] {
            let compression = Compression::of(&compressed).unwrap();
            assert_eq!(compression.expand(&compressed, text.len()).unwrap(), text, "{compression:?}");
            assert!(compression.expand(&compressed, text.len() - 1).is_err(), "{compression:?}");
            let cut = compression.expand(&compressed[..compressed.len() / 2], text.len());
            assert!(cut.is_err() || cut.is_ok_and(|part| part.len() < text.len()), "{compression:?}");
        }
        assert_eq!(Compression::of(b"\x7fELF"), None);
    }

    #[test]
    fn xz_is_expanded_by_its_program_whatever_follows_it() {
        let name = "xz_is_expanded_by_its_program_whatever_follows_it";
        let Ok(mut xz) = Command::new("xz").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() else {
            eprintln!("skipped: {name}: xz is not installed");
            return;
        };
        xz.stdin.take().unwrap().write_all(b"a module").unwrap();
        let mut compressed = xz.wait_with_output().unwrap().stdout;
        compressed.extend_from_slice(&8u32.to_le_bytes());
        assert_eq!(Compression::of(&compressed), Some(Compression::Xz));
        assert_eq!(Compression::Xz.expand(&compressed, 100).unwrap(), b"a module");
        assert!(Compression::Xz.expand(&compressed[..20], 100).is_err());
    }
}
