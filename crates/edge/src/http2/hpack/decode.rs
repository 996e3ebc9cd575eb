//! Reading blocks of fields (RFC 7541, 6).
//!
//! ```text
//!  1xxxxxxx  a field of a table            01xxxxxx  a literal that is added to the table
//!  001xxxxx  the table's size              000xxxxx  a literal that is not, or never is
//! ```

use bytes::BytesMut;
use thiserror::Error;

use super::{
    huffman,
    table::{Entry, OVERHEAD, SIZE, STATIC, Table},
};
use crate::http1::Place;

/// How many times as much as is allowed is read before a block is no longer taken for a mistake.
const BOMB: usize = 16;

/// A block that cannot be read. Nothing that follows it can be, either: the tables are no longer the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadBlock {
    /// It ends too soon.
    #[error("it ends in the middle of a field")]
    CutOff,
    /// A number is too large.
    #[error("a number in it is too large")]
    Number,
    /// It names a field that is in no table.
    #[error("it names a field that is in no table")]
    NoSuchField,
    /// A string is none of the code.
    #[error("a string in it is none")]
    Huffman,
    /// It stands for far more than it may.
    #[error("it stands for far more than it may")]
    Bomb,
    /// It changes the table's size where it must not, or to more than it may be.
    #[error("it changes the size of its table where it may not")]
    Resize,
}

/// The fields of a block, in their order, as places in a text that holds nothing else.
#[derive(Debug, Default)]
pub struct List {
    /// The text.
    pub text: BytesMut,
    /// The fields in it.
    pub places: Vec<Place>,
    /// There were more than were allowed; what is here is only the beginning.
    pub is_cut: bool,
}

/// Reads the blocks of one connection, one after the other.
#[derive(Debug, Default)]
pub struct Decoder {
    table: Table<()>,
}

impl Decoder {
    /// Reads a block. Its fields may take up to `limit` bytes, each counted with 32 more (RFC 9113, 6.5.2); what is more
    /// is read and dropped.
    pub fn decode(&mut self, mut block: &[u8], limit: usize) -> Result<List, BadBlock> {
        let mut list = List::default();
        list.text.reserve(256.max(block.len() * 2).min(limit));
        let (mut size, mut is_first) = (0, true);
        while let Some(first) = block.first() {
            if first & 0xe0 == 0x20 {
                let max = number(&mut block, 5)?;
                if !is_first || max > SIZE {
                    return Err(BadBlock::Resize);
                }
                self.table.resize(max);
                continue;
            }
            is_first = false;
            let place = self.field(&mut block, &mut list.text)?;
            size += (place.name.1 + place.value.1) as usize + OVERHEAD;
            list.is_cut |= size > limit;
            if size > limit.saturating_mul(BOMB) {
                return Err(BadBlock::Bomb);
            }
            if list.is_cut {
                list.text.truncate(place.name.0 as usize);
            } else {
                if list.places.capacity() == 0 {
                    list.places.reserve(16);
                }
                list.places.push(place);
            }
        }
        Ok(list)
    }

    /// Reads a field to the end of a text.
    fn field(&mut self, block: &mut &[u8], text: &mut BytesMut) -> Result<Place, BadBlock> {
        let (first, begin) = (block[0], text.len());
        if first & 0x80 != 0 {
            let name = self.copy(number(block, 7)?, text, true)?;
            return Ok(place(begin, name, text.len()));
        }
        let is_added = first & 0x40 != 0;
        let name = match number(block, if is_added { 6 } else { 4 })? {
            0 => string(block, text)?,
            known => self.copy(known, text, false)?,
        };
        string(block, text)?;
        if is_added {
            self.table.add(Entry::new(&text[begin..], name, ()));
        }
        Ok(place(begin, name, text.len()))
    }

    /// Copies what a table holds by a number. Tells how long its name is.
    fn copy(&self, known: usize, text: &mut BytesMut, whole: bool) -> Result<usize, BadBlock> {
        let age = known.checked_sub(1).ok_or(BadBlock::NoSuchField)?;
        if let Some((name, value)) = STATIC.get(age) {
            text.extend_from_slice(name.as_bytes());
            if whole {
                text.extend_from_slice(value.as_bytes());
            }
            return Ok(name.len());
        }
        let entry = self.table.get(age - STATIC.len()).ok_or(BadBlock::NoSuchField)?;
        text.extend_from_slice(if whole { entry.text() } else { entry.name() });
        Ok(entry.name().len())
    }
}

fn place(begin: usize, name: usize, end: usize) -> Place {
    let short = |length: usize| u32::try_from(length).expect("blocks are short");
    Place { name: (short(begin), short(name)), value: (short(begin + name), short(end - begin - name)) }
}

/// A number whose first bits share a byte with something else (RFC 7541, 5.1).
fn number(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (first, rest) = block.split_first().ok_or(BadBlock::CutOff)?;
    *block = rest;
    let most = (1 << bits) - 1;
    let mut number = usize::from(*first) & most;
    if number < most {
        return Ok(number);
    }
    for shift in [0, 7, 14] {
        let (byte, rest) = block.split_first().ok_or(BadBlock::CutOff)?;
        *block = rest;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(BadBlock::Number)
}

/// A string, read to the end of a text (RFC 7541, 5.2). Tells how long it is.
fn string(block: &mut &[u8], text: &mut BytesMut) -> Result<usize, BadBlock> {
    let is_coded = block.first().ok_or(BadBlock::CutOff)? & 0x80 != 0;
    let length = number(block, 7)?;
    let (string, rest) = block.split_at_checked(length).ok_or(BadBlock::CutOff)?;
    *block = rest;
    let begin = text.len();
    if is_coded {
        text.reserve(length * 8 / 5);
        huffman::decode(string, |byte| text.extend_from_slice(&[byte])).ok_or(BadBlock::Huffman)?;
    } else {
        text.extend_from_slice(string);
    }
    Ok(text.len() - begin)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(list: &List) -> Vec<(String, String)> {
        let text = |(begin, length): (u32, u32)| {
            String::from_utf8_lossy(&list.text[begin as usize..][..length as usize]).into_owned()
        };
        list.places.iter().map(|place| (text(place.name), text(place.value))).collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_requests_of_the_standard_are_read_with_and_without_the_code() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let coded = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        let wanted: [&[(&str, &str)]; 3] = [
            &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "www.example.com"),
                ("cache-control", "no-cache"),
            ],
            &[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/index.html"),
                (":authority", "www.example.com"),
                ("custom-key", "custom-value"),
            ],
        ];
        for blocks in [plain, coded] {
            let mut decoder = Decoder::default();
            for (block, wanted) in blocks.iter().zip(wanted) {
                let list = decoder.decode(&hex(block), 16_384).unwrap();
                let wanted: Vec<_> = wanted.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
                assert_eq!((fields(&list), list.is_cut), (wanted, false));
            }
        }
    }

    #[test]
    fn fields_that_no_longer_fit_are_forgotten() {
        // The answers of RFC 7541, C.5, whose table holds 256 bytes.
        let mut decoder = Decoder::default();
        let blocks = [
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
        ];
        let lists: Vec<_> = blocks.iter().map(|block| fields(&decoder.decode(&hex(block), 16_384).unwrap())).collect();
        assert_eq!(lists[1][0], (":status".into(), "307".into()));
        assert_eq!(lists[1][1..], lists[0][1..]);
        assert_eq!(decoder.decode(&hex("c1"), 100).map(|list| fields(&list)[0].0.clone()), Ok("cache-control".into()));
        assert_eq!(decoder.decode(&hex("c2"), 100).unwrap_err(), BadBlock::NoSuchField);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (block, bad) in [
            ("80", BadBlock::NoSuchField),
            ("be", BadBlock::NoSuchField),
            ("ff", BadBlock::CutOff),
            ("ffffffff7f", BadBlock::Number),
            ("0001", BadBlock::CutOff),
            ("00016105", BadBlock::CutOff),
            ("00016181ff", BadBlock::Huffman),
            ("3fe21f", BadBlock::Resize),
            ("8220", BadBlock::Resize),
        ] {
            assert_eq!(Decoder::default().decode(&hex(block), 1000).unwrap_err(), bad, "{block}");
        }
    }

    #[test]
    fn a_list_that_is_too_long_is_cut_but_read_to_its_end() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40, 1, b'a', 100];
        block.extend([b'x'; 100]);
        // The same field again and again takes one byte each.
        block.extend([0xbe; 100]);
        let list = decoder.decode(&block, 1000).unwrap();
        assert!(list.is_cut && list.text.len() <= 1000 && list.places.len() == 7);
        assert_eq!(decoder.decode(&[0xbe; 1000], 1000).unwrap_err(), BadBlock::Bomb);
        assert_eq!(fields(&decoder.decode(&[0xbe], 1000).unwrap())[0].0, "a", "the table is kept");
    }

    proptest! {
        #[test]
        fn whatever_comes_no_more_is_kept_than_may_be(block: Vec<u8>, limit in 0usize..2000) {
            if let Ok(list) = Decoder::default().decode(&block, limit) {
                prop_assert!(list.text.len() + list.places.len() * OVERHEAD <= limit);
            }
        }
    }
}
