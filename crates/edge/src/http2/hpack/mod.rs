//! HPACK (RFC 7541): fields as numbers of two tables, one that everybody knows and one that both sides fill.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::{BadBlock, Decoder, List};
pub use encode::Encoder;
