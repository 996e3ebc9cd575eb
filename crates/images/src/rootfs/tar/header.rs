//! The 512-byte header in front of each entry.

use super::{Kind, sparse};

/// Archives are made of blocks of this size.
pub const BLOCK: usize = 512;

/// Seconds since 1970 and nanoseconds after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

/// A header whose checksum is right.
pub struct Header(Box<[u8; BLOCK]>);

type Outcome<T> = Result<T, String>;

impl Header {
    /// Takes a block as a header if its checksum agrees.
    pub fn check(block: [u8; BLOCK]) -> Outcome<Self> {
        let header = Self(Box::new(block));
        let stored = octal(header.field(148, 8)).map_err(|_| "a header without a checksum: this is no tar archive")?;
        // Old writers summed signed characters.
        let counted = |index: usize| if (148..156).contains(&index) { b' ' } else { header.0[index] };
        let unsigned: u64 = (0..BLOCK).map(|index| u64::from(counted(index))).sum();
        let signed: i64 = (0..BLOCK).map(|index| i64::from(counted(index) as i8)).sum();
        if stored != unsigned && i64::try_from(stored) != Ok(signed) {
            return Err("the header's checksum is wrong".to_owned());
        }
        Ok(header)
    }

    /// The letter that says what follows.
    pub fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// What the entry is.
    pub fn kind(&self, name: &[u8]) -> Outcome<Kind> {
        Ok(match self.type_flag() {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(format!("an entry of the unknown type {:?}", char::from(other))),
        })
    }

    /// The path, put together from its parts.
    pub fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.format() {
            Format::Ustar => text(self.field(345, 155)),
            Format::Star => text(self.field(345, 131)),
            Format::Gnu | Format::V7 => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// Where a link leads.
    pub fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    /// Permission bits.
    pub fn mode(&self) -> Outcome<u16> {
        number(self.field(100, 8), "mode").map(|mode| (mode & 0o7777) as u16)
    }

    /// Owner.
    pub fn uid(&self) -> Outcome<u32> {
        small(self.field(108, 8), "owner")
    }

    /// Group.
    pub fn gid(&self) -> Outcome<u32> {
        small(self.field(116, 8), "group")
    }

    /// The length of what follows the header.
    pub fn size(&self) -> Outcome<u64> {
        unsigned(self.field(124, 12), "size")
    }

    /// When the content changed.
    pub fn mtime(&self) -> Outcome<Time> {
        number(self.field(136, 12), "time").map(|seconds| Time { seconds, nanoseconds: 0 })
    }

    /// Major and minor number of a device.
    pub fn device(&self) -> Outcome<(u32, u32)> {
        if self.format() == Format::V7 {
            return Ok((0, 0));
        }
        Ok((small(self.field(329, 8), "major number")?, small(self.field(337, 8), "minor number")?))
    }

    /// The size of a sparse file of the old GNU format, holes included.
    pub fn real_size(&self) -> Outcome<u64> {
        unsigned(self.field(483, 12), "size")
    }

    /// The start of a sparse file's map in the old GNU format, and whether it goes on in the next block.
    pub fn sparse_map(&self) -> Outcome<(Vec<(u64, u64)>, bool)> {
        if self.format() != Format::Gnu {
            return Err("a sparse file of the old GNU kind in an archive that is not GNU's".to_owned());
        }
        let mut map = Vec::new();
        let complete = sparse::read_old(&mut map, self.field(386, 96))?;
        Ok((map, self.0[482] != 0 && !complete))
    }

    fn format(&self) -> Format {
        match self.field(257, 8) {
            b"ustar\x0000" if self.field(508, 4) == b"tar\0" => Format::Star,
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::V7,
        }
    }

    fn field(&self, at: usize, len: usize) -> &[u8] {
        &self.0[at..at + len]
    }
}

#[derive(PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A field up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

fn small(field: &[u8], what: &str) -> Outcome<u32> {
    u32::try_from(number(field, what)?).map_err(|_| format!("its {what} does not fit in 32 bits"))
}

/// A number that cannot be negative, such as a size.
pub fn unsigned(field: &[u8], what: &str) -> Outcome<u64> {
    u64::try_from(number(field, what)?).map_err(|_| format!("its {what} is negative"))
}

/// A number in octal digits, or in GNU's base 256 (the first bit set, then a signed big-endian number).
fn number(field: &[u8], what: &str) -> Outcome<i64> {
    let value = if field[0] & 0x80 != 0 { base256(field) } else { octal(field).ok().and_then(|n| n.try_into().ok()) };
    value.ok_or_else(|| format!("its {what} is not a number"))
}

fn octal(field: &[u8]) -> Result<u64, ()> {
    let digits = text(field.trim_ascii_start()).trim_ascii();
    let digits = if digits.is_empty() { b"0" } else { digits };
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8).and_then(|value| value.checked_add(u64::from(digit - b'0'))).ok_or(()),
        _ => Err(()),
    })
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { i128::from(field[0] as i8) } else { i128::from(field[0] & 0x3f) };
    let value = field[1..].iter().try_fold(first, |value, byte| Some(value.checked_mul(256)? + i128::from(*byte)))?;
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_octal_and_base_256() {
        assert_eq!(number(b"0000644\0", "x"), Ok(0o644));
        assert_eq!(number(b"  644 \0\0", "x"), Ok(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0", "x"), Ok(0));
        assert_eq!(number(b"77777777777 ", "x"), Ok(0o77_777_777_777));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0], "x"), Ok(256));
        assert_eq!(number(&[0xff; 12], "x"), Ok(-1));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00], "x"), Ok(-256));
        for bad in [&b"0000649\0"[..], b"-1\0\0\0\0\0\0", b"12 34\0\0\0", &[0xbf; 12]] {
            assert!(number(bad, "x").is_err(), "{bad:?}");
        }
        assert!(unsigned(&[0xff; 12], "x").is_err());
    }
}
