//! From a blob's file to the bytes of its archive.

use std::{
    fs::File,
    io::{self, BufRead, Read},
};

use model::Digest;
use sha2::{Digest as _, Sha256};

use super::PIECE_BYTES;
use crate::{
    layers::{Compression, Layer},
    rootfs::fault::{Fault, storage},
};

/// The largest window that a zstd frame may ask for, as a power of two: what the `zstd` tool accepts by itself.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Unpacks a blob and checks that it is the one that was asked for.
pub struct Unpacker<'a> {
    layer: &'a Layer,
    stream: Stream<Hashing<'a>>,
}

enum Stream<R: BufRead> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<'a> Unpacker<'a> {
    /// Stands at the start of the blob.
    pub fn new(layer: &'a Layer, blob: &'a File) -> Result<Self, Fault> {
        let hashing = Hashing { blob, hash: Sha256::new(), buffer: vec![0; PIECE_BYTES], filled: 0, taken: 0 };
        let stream = match layer.compression {
            Compression::None => Stream::Plain(hashing),
            Compression::Gzip => Stream::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(hashing))),
            Compression::Zstd => Stream::Zstd(Box::new(zstd_decoder(hashing).map_err(storage("unpacking a layer"))?)),
        };
        Ok(Self { layer, stream })
    }

    /// The next piece of the archive, empty at its end.
    pub fn piece(&mut self, mut buffer: Vec<u8>) -> Result<Vec<u8>, Fault> {
        buffer.resize(PIECE_BYTES, 0);
        let mut filled = 0;
        while filled < PIECE_BYTES {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        buffer.truncate(filled);
        if filled == 0 {
            self.check_digest()?;
        }
        Ok(buffer)
    }

    /// Something did not unpack. If the blob is another than was asked for, that is the reason to give.
    fn broken(&mut self, error: io::Error) -> Fault {
        match self.check_digest() {
            Err(fault) => fault,
            Ok(()) => Fault::unusable(format!("its {:?} data are broken: {error}", self.layer.compression)),
        }
    }

    fn check_digest(&mut self) -> Result<(), Fault> {
        let digest = self.stream.blob().finish().map_err(storage("reading a layer"))?;
        if digest != self.layer.digest {
            return Err(Fault::unusable(format!("its blob has the digest {digest}, not the one it is named by")));
        }
        Ok(())
    }
}

fn zstd_decoder<R: BufRead>(blob: R) -> io::Result<zstd::stream::read::Decoder<'static, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

impl<R: BufRead> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: BufRead> Stream<R> {
    fn blob(&mut self) -> &mut R {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// Reads a file and hashes what it reads.
struct Hashing<'a> {
    blob: &'a File,
    hash: Sha256,
    buffer: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Hashing<'_> {
    /// The digest of the whole file, whose rest is read for it.
    fn finish(&mut self) -> io::Result<Digest> {
        while !self.fill_buf()?.is_empty() {
            self.taken = self.filled;
        }
        Ok(Digest::sha256(self.hash.finalize_reset().into()))
    }
}

impl BufRead for Hashing<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, self.blob.read(&mut self.buffer)?);
            self.hash.update(&self.buffer[..self.filled]);
        }
        Ok(&self.buffer[self.taken..self.filled])
    }
    fn consume(&mut self, len: usize) {
        self.taken += len;
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let len = from.read(into)?;
        self.consume(len);
        Ok(len)
    }
}
