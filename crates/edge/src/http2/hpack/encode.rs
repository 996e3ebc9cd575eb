//! Writing blocks of fields (RFC 7541, 6).
//!
//! A field whose value is said a second time on a connection is added to the table, and from then on takes a byte or two:
//! what comes only once, such as a request's name, never takes the room of what comes again. Cookies are never added, nor
//! may anybody else add them (RFC 7541, 7.1.3).

use bytes::{BufMut, BytesMut};
use http::StatusCode;

use super::table::{Entry, SIZE, STATIC, Table};

/// How many values are remembered that were said once; a power of two.
const ONCE: usize = 64;

/// Writes the blocks of one connection, one after the other.
#[derive(Debug)]
pub struct Encoder {
    /// What was said, with the hash of its text.
    table: Table<u32>,
    /// The hashes of what was said once.
    once: [u32; ONCE],
    /// Sizes to be told: the smallest since the last block, and the present one.
    resized: Option<(usize, usize)>,
    /// The text of a field.
    text: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Table::default(), once: [0; ONCE], resized: None, text: Vec::new() }
    }
}

impl Encoder {
    /// The other side keeps no more than this from now on.
    pub fn resize(&mut self, max: usize) {
        let max = max.min(SIZE);
        let smallest = self.resized.map_or(self.table.max, |(smallest, _)| smallest).min(max);
        if max != self.table.max || self.resized.is_some() {
            self.resized = Some((smallest, max));
        }
        self.table.resize(max);
    }

    /// Begins a block with an answer's status.
    pub fn status(&mut self, out: &mut BytesMut, status: StatusCode) {
        self.begin(out);
        let known = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => return self.field(out, b":status", status.as_str().as_bytes()),
        };
        out.put_u8(0x80 | known);
    }

    /// Begins a block: what has changed of the table is said first (RFC 7541, 4.2).
    pub fn begin(&mut self, out: &mut BytesMut) {
        let Some((smallest, max)) = self.resized.take() else { return };
        if smallest < max {
            number(out, 0x20, 5, smallest);
        }
        number(out, 0x20, 5, max);
    }

    /// Writes a field; its name may be in any case, and is written in lower case.
    pub fn field(&mut self, out: &mut BytesMut, name: &[u8], value: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(name);
        self.text.make_ascii_lowercase();
        self.text.extend_from_slice(value);
        let hash = hash(&self.text, name.len());
        let is_same =
            |entry: &Entry<u32>| entry.mark == hash && entry.name().len() == name.len() && *entry.text() == *self.text;
        if let Some(age) = self.table.iter().position(is_same) {
            return number(out, 0x80, 7, STATIC.len() + 1 + age);
        }
        let is_secret = self.text.starts_with(b"set-cookie");
        let place = &mut self.once[hash as usize % ONCE];
        let comes_again = std::mem::replace(place, hash) == hash && !is_secret;
        let (pattern, bits) = match comes_again {
            true => (0x40, 6),
            false if is_secret => (0x10, 4),
            false => (0x00, 4),
        };
        match static_name(&self.text[..name.len()]) {
            Some(known) => number(out, pattern, bits, known),
            None => {
                out.put_u8(pattern);
                string(out, &self.text[..name.len()]);
            }
        }
        string(out, value);
        if comes_again {
            self.table.add(Entry::new(&self.text, name.len(), hash));
        }
    }
}

/// Which entry of the table that everybody knows has this name.
fn static_name(name: &[u8]) -> Option<usize> {
    // Those that answers have; the rest are for requests.
    Some(match name {
        b":status" => 8,
        b"accept-ranges" => 18,
        b"access-control-allow-origin" => 20,
        b"age" => 21,
        b"allow" => 22,
        b"cache-control" => 24,
        b"content-disposition" => 25,
        b"content-encoding" => 26,
        b"content-language" => 27,
        b"content-length" => 28,
        b"content-location" => 29,
        b"content-range" => 30,
        b"content-type" => 31,
        b"date" => 33,
        b"etag" => 34,
        b"expires" => 36,
        b"last-modified" => 44,
        b"link" => 45,
        b"location" => 46,
        b"refresh" => 52,
        b"retry-after" => 53,
        b"server" => 54,
        b"set-cookie" => 55,
        b"strict-transport-security" => 56,
        b"vary" => 59,
        b"via" => 60,
        b"www-authenticate" => 61,
        _ => return None,
    })
}

/// Writes a number behind the bits of a pattern (RFC 7541, 5.1).
fn number(out: &mut BytesMut, pattern: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        return out.put_u8(pattern | number as u8);
    }
    out.put_u8(pattern | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn string(out: &mut BytesMut, text: &[u8]) {
    number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// A hash of a name and a value, never 0. Whoever finds two of one hash gains nothing: they are compared.
fn hash(text: &[u8], name: usize) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = text.as_chunks::<8>();
    let hash = words.iter().fold((text.len() << 16 | name) as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let hash = mix(hash, rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
    (hash >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Decoder, *};

    fn read(decoder: &mut Decoder, block: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let list = decoder.decode(block, 1 << 20).unwrap();
        let text = |(begin, length): (u32, u32)| list.text[begin as usize..][..length as usize].to_vec();
        list.places.iter().map(|place| (text(place.name), text(place.value))).collect()
    }

    #[test]
    fn what_comes_again_takes_a_byte_and_what_does_not_takes_no_room() {
        let mut encoder = Encoder::default();
        let mut lengths = Vec::new();
        for n in 0..4 {
            let mut out = BytesMut::new();
            encoder.status(&mut out, StatusCode::OK);
            encoder.field(&mut out, b"Content-Type", b"text/plain");
            encoder.field(&mut out, b"x-request-id", n.to_string().repeat(20).as_bytes());
            encoder.field(&mut out, b"set-cookie", b"secret");
            lengths.push(out.len());
        }
        assert_eq!(lengths[0], lengths[1] + 1, "a shorter way to write a name");
        assert_eq!((lengths[2], lengths[3]), (lengths[0] - 12, lengths[0] - 12));
        assert_eq!(encoder.table.iter().count(), 1);
    }

    #[test]
    fn fields_that_are_the_same_text_are_not_the_same_field() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for _ in 0..3 {
            let mut out = BytesMut::new();
            encoder.field(&mut out, b"x-a", b"bc");
            encoder.field(&mut out, b"x-ab", b"c");
            let names: Vec<_> = read(&mut decoder, &out).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, [b"x-a".to_vec(), b"x-ab".to_vec()]);
        }
    }

    #[test]
    fn the_names_of_answers_are_where_the_standard_has_them() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            if let Some(known) = static_name(name.as_bytes()) {
                assert_eq!(STATIC[known - 1].0, *name);
                assert!(*name == ":status" || known == at + 1);
            }
        }
    }

    #[test]
    fn a_table_that_shrinks_and_grows_again_is_told_of_both() {
        let mut encoder = Encoder::default();
        encoder.resize(0);
        encoder.resize(100_000);
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        assert_eq!(out[..], [0x20, 0x3f, 0xe1, 0x1f]);
        out.clear();
        encoder.begin(&mut out);
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(
            blocks in prop::collection::vec(
                (prop::collection::vec(("[a-zA-Z-]{1,12}", "[ -~]{0,30}"), 0..12), prop::option::of(0usize..5000)), 0..12),
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            // All of them twice, so that what comes again does.
            for (fields, resized) in blocks.iter().chain(&blocks).chain(&blocks) {
                if let Some(max) = resized {
                    encoder.resize(*max);
                }
                let mut out = BytesMut::new();
                encoder.status(&mut out, StatusCode::IM_A_TEAPOT);
                fields.iter().for_each(|(name, value)| encoder.field(&mut out, name.as_bytes(), value.as_bytes()));
                let wanted = fields.iter().map(|(name, value)| (name.to_ascii_lowercase().into_bytes(), value.clone().into_bytes()));
                let wanted: Vec<_> = std::iter::once((b":status".to_vec(), b"418".to_vec())).chain(wanted).collect();
                prop_assert_eq!(read(&mut decoder, &out), wanted);
            }
        }
    }
}
