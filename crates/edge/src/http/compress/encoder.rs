//! The four codings behind one door: bytes in, bytes out, whenever the coding has some.
//!
//! Levels are chosen so that a core compresses some tens of megabytes a second, and windows so that a stream holds about
//! a mebibyte at most.

use std::io::{self, Write};

use brotli::enc::{BrotliEncoderParams, writer::CompressorWriter};
use bytes::Bytes;
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use zstd::stream::raw::CParameter;

use super::coding::Coding;

const ZSTD_LEVEL: i32 = 3;
/// The base-2 logarithms of the window and of the two tables of zstd.
const ZSTD_LOGS: [CParameter; 3] = [CParameter::WindowLog(17), CParameter::HashLog(15), CParameter::ChainLog(15)];
const BROTLI_LEVEL: i32 = 4;
const BROTLI_WINDOW_LOG: i32 = 17;
const DEFLATE_LEVEL: u32 = 5;
/// What brotli's writer gathers before it passes it on.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// A stream being compressed.
pub enum Encoder {
    /// RFC 8878.
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// RFC 7932.
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    /// RFC 1952.
    Gzip(GzEncoder<Vec<u8>>),
    /// RFC 1950.
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    /// A stream without content yet.
    pub fn new(coding: Coding) -> io::Result<Self> {
        let level = Compression::new(DEFLATE_LEVEL);
        Ok(match coding {
            Coding::Zstd => Self::Zstd(zstd()?),
            Coding::Brotli => Self::Brotli(Box::new(brotli())),
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), level)),
            Coding::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), level)),
        })
    }

    /// Takes bytes in.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer().write_all(bytes)
    }

    /// Makes all that was taken in readable from what was given out.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer().flush()
    }

    /// Ends the stream and gives out the rest.
    pub fn finish(self) -> io::Result<Bytes> {
        let rest = match self {
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Brotli(encoder) => encoder.into_inner(),
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Deflate(encoder) => encoder.finish()?,
        };
        Ok(rest.into())
    }

    /// Gives out what is there, if it is at least so much.
    pub fn take(&mut self, at_least: usize) -> Option<Bytes> {
        let out = match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Deflate(encoder) => encoder.get_mut(),
        };
        (!out.is_empty() && out.len() >= at_least).then(|| std::mem::take(out).into())
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Zstd(encoder) => encoder,
            Self::Brotli(encoder) => encoder,
            Self::Gzip(encoder) => encoder,
            Self::Deflate(encoder) => encoder,
        }
    }
}

fn zstd() -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    ZSTD_LOGS.into_iter().try_for_each(|log| encoder.set_parameter(log))?;
    Ok(encoder)
}

fn brotli() -> CompressorWriter<Vec<u8>> {
    let params = BrotliEncoderParams { quality: BROTLI_LEVEL, lgwin: BROTLI_WINDOW_LOG, ..Default::default() };
    CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER_BYTES, &params)
}
