//! One layer's blob, read once from front to back: hashed, unpacked, hashed again, spooled and indexed on the way.
//!
//! ```text
//!   thread 1: blob file ──▶ SHA-256 = digest ──▶ gzip | zstd ──▶ piece ─┐ bounded queue
//!   thread 2: index ◀── archive reader ◀── spool file ◀── SHA-256 = diff_id ◀─┘
//! ```
//!
//! Memory: a few pieces, whatever the layer's size. The spool is a file without a name, so nothing is left of it
//! whatever happens; the content of files is copied from there once it is known which files are in the image. A blob
//! that is a plain archive needs no spool.

mod unpacker;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use model::Digest;
use sha2::{Digest as _, Sha256};

use self::unpacker::Unpacker;
use super::{
    fault::{Fault, storage},
    layer::LayerIndex,
    limits::Budget,
    tar::{Reader, Source},
};
use crate::layers::{Compression, Layer};

/// What is handed from thread to thread at a time, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// So many pieces are under way at most.
const PIECES: usize = 4;

/// A layer that was read to its end and is what it claims to be.
#[derive(Debug)]
pub struct Unpacked {
    /// What is in it.
    pub index: LayerIndex,
    /// The archive; positions of content are positions in this file.
    pub archive: File,
}

/// Reads a layer. `spool_directory` is on a disk with room for it.
pub fn unpack(
    layer: &Layer,
    spool_directory: &Path,
    budget: &Budget<'_>,
    stop: &AtomicBool,
) -> Result<Unpacked, Fault> {
    let blob = File::open(&layer.path).map_err(storage("opening a layer"))?;
    let stored = blob.metadata().map_err(storage("opening a layer"))?.len();
    if stored != layer.size_bytes {
        return Err(Fault::unusable(format!("its blob has {stored} bytes; its manifest says {}", layer.size_bytes)));
    }
    let spool = match layer.compression {
        Compression::None => None,
        Compression::Gzip | Compression::Zstd => Some(spool_file(spool_directory).map_err(storage("making a spool"))?),
    };
    let (full, pieces) = sync_channel(PIECES);
    let (used, empty) = channel();
    let (index, spool) = thread::scope(|scope| {
        scope.spawn(|| produce(layer, &blob, full, empty));
        let mut reader = Reader::new(Pieces::new(layer, spool, pieces, used, budget, stop));
        let index = LayerIndex::read(&mut reader, budget)?;
        reader.into_source().finish().map(|spool| (index, spool))
    })?;
    Ok(Unpacked { index, archive: spool.unwrap_or(blob) })
}

/// A file for reading and writing that has no name any more.
fn spool_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("{}.tmp", kit::random::token()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// The first thread: reads and unpacks until the end, an error, or until nobody wants more.
fn produce(layer: &Layer, blob: &File, full: SyncSender<Result<Vec<u8>, Fault>>, empty: Receiver<Vec<u8>>) {
    let mut unpacker = match Unpacker::new(layer, blob) {
        Ok(unpacker) => unpacker,
        Err(fault) => return drop(full.send(Err(fault))),
    };
    loop {
        let buffer = empty.try_recv().unwrap_or_default();
        let piece = unpacker.piece(buffer);
        let last = piece.as_ref().map_or(true, Vec::is_empty);
        if full.send(piece).is_err() || last {
            return;
        }
    }
}

/// The second thread's view: the unpacked archive, hashed and spooled as it comes.
struct Pieces<'a> {
    layer: &'a Layer,
    spool: Option<File>,
    pieces: Receiver<Result<Vec<u8>, Fault>>,
    used: Sender<Vec<u8>>,
    budget: &'a Budget<'a>,
    stop: &'a AtomicBool,
    piece: Vec<u8>,
    taken: usize,
    hash: Sha256,
    total: u64,
    ended: bool,
}

impl<'a> Pieces<'a> {
    fn new(
        layer: &'a Layer,
        spool: Option<File>,
        pieces: Receiver<Result<Vec<u8>, Fault>>,
        used: Sender<Vec<u8>>,
        budget: &'a Budget<'a>,
        stop: &'a AtomicBool,
    ) -> Self {
        let (piece, hash) = (Vec::new(), Sha256::new());
        Self { layer, spool, pieces, used, budget, stop, piece, taken: 0, hash, total: 0, ended: false }
    }

    /// Checks the digest of the archive, all of which was read. Returns the spool, if there is one.
    fn finish(mut self) -> Result<Option<File>, Fault> {
        while !self.chunk()?.is_empty() {
            self.taken = self.piece.len();
        }
        // A plain archive's digest is that of its blob, which was compared already.
        let digest = match self.spool {
            Some(_) => Digest::sha256(self.hash.finalize().into()),
            None => self.layer.digest.clone(),
        };
        if digest != self.layer.diff_id {
            let (is, should) = (digest, &self.layer.diff_id);
            return Err(Fault::unusable(format!(
                "its archive has the digest {is}; the image's configuration says {should}"
            )));
        }
        Ok(self.spool)
    }

    fn next_piece(&mut self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::Stopped);
        }
        let _ = self.used.send(std::mem::take(&mut self.piece));
        let lost = || Fault::unusable("its archive could not be unpacked");
        self.piece = self.pieces.recv().unwrap_or_else(|_| Err(lost()))?;
        (self.taken, self.ended) = (0, self.piece.is_empty());
        self.total += self.piece.len() as u64;
        self.check_size()?;
        if let Some(spool) = &mut self.spool {
            self.hash.update(&self.piece);
            spool.write_all(&self.piece).map_err(storage("unpacking a layer"))?;
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), Fault> {
        self.budget.take_archive(self.piece.len() as u64).map_err(Fault::Unusable)?;
        let limits = self.budget.limits;
        let allowed = self.layer.size_bytes.saturating_mul(limits.ratio).max(limits.ratio_exempt_bytes);
        if self.total > allowed {
            let (stored, ratio) = (self.layer.size_bytes, limits.ratio);
            let why = format!(
                "its {stored} bytes unpack to more than {allowed}; a ratio over {ratio} is taken for an attack"
            );
            return Err(Fault::unusable(why));
        }
        Ok(())
    }
}

impl Source for Pieces<'_> {
    fn chunk(&mut self) -> Result<&[u8], Fault> {
        if self.taken == self.piece.len() && !self.ended {
            self.next_piece()?;
        }
        Ok(&self.piece[self.taken..])
    }
    fn consume(&mut self, len: usize) {
        self.taken += len;
    }
}
