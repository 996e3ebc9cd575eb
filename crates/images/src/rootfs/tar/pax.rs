//! Records of pax extended headers: `length key=value\n` (POSIX.1-2017, "pax Extended Header"), with what star and
//! GNU tar added: extended attributes and sparse files.

use super::{
    Content, Kind, Member,
    header::{Header, Time},
    sparse,
};

/// What the records say about the entry that follows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Sparse,
}

/// What they say about a sparse file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    real_size: Option<u64>,
    /// Format 0.1: all numbers in one record.
    list: Option<Vec<u8>>,
    /// Format 0.0: two records for each piece.
    numbers: Vec<u64>,
}

type Outcome<T> = Result<T, String>;

impl Records {
    /// Reads the content of an extended header. A later record of a key replaces an earlier one; one with an empty
    /// value takes it back.
    pub fn parse(mut content: &[u8]) -> Outcome<Self> {
        let mut records = Self::default();
        while !content.is_empty() {
            let (key, value, rest) = split(content).ok_or("a pax record is malformed")?;
            records.take(key, value)?;
            content = rest;
        }
        Ok(records)
    }

    /// The entry of this header as the records change it, still without the place of its content.
    pub fn member(&mut self, header: &Header, kind: Kind, path: Vec<u8>, link: Vec<u8>) -> Outcome<Member> {
        Ok(Member {
            path,
            kind,
            link,
            mode: header.mode()?,
            uid: self.uid.map_or_else(|| header.uid(), Ok)?,
            gid: self.gid.map_or_else(|| header.gid(), Ok)?,
            mtime: self.mtime.map_or_else(|| header.mtime(), Ok)?,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => header.device()?,
                _ => (0, 0),
            },
            xattrs: std::mem::take(&mut self.xattrs),
            size: match kind {
                Kind::File => self.size.map_or_else(|| header.size(), Ok)?,
                _ => 0,
            },
            content: Content::Dense(0),
        })
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = given.then(|| decimal(value)).transpose()?,
            b"uid" => self.uid = given.then(|| id(value)).transpose()?,
            b"gid" => self.gid = given.then(|| id(value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(key, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    /// Whether the map stands in front of the file's content (format 1.0).
    pub fn map_is_in_content(&self) -> bool {
        self.major == Some(1)
    }

    /// The size of the file, holes included.
    pub fn real_size(&self) -> Outcome<u64> {
        self.real_size.ok_or_else(|| "a sparse file without its size".to_owned())
    }

    /// The map, if these records hold one (formats 0.0 and 0.1).
    pub fn map(&self) -> Outcome<Option<Vec<(u64, u64)>>> {
        let numbers = match &self.list {
            Some(list) => list.split(|byte| *byte == b',').map(decimal).collect::<Outcome<Vec<_>>>()?,
            None if self.numbers.is_empty() => return Ok(None),
            None => self.numbers.clone(),
        };
        sparse::pairs(&numbers).map(Some)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Outcome<()> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(decimal(value)?),
            b"map" => self.list = Some(value.to_vec()),
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(decimal(value)?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(decimal(value)?),
            b"offset" | b"numbytes" => return Err("the map of a sparse file is out of order".to_owned()),
            _ => {}
        }
        match (self.major, self.minor) {
            (None | Some(0), None | Some(0 | 1)) | (Some(1), None | Some(0)) => Ok(()),
            (major, minor) => Err(format!("a sparse file of the unknown format {major:?}.{minor:?}")),
        }
    }
}

/// Takes the first record off: key, value, rest.
fn split(content: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = content.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&content[..space]).ok()?).ok()?;
    let (record, rest) = content.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], rest))
}

/// A number in decimal digits and nothing else.
pub fn decimal(text: &[u8]) -> Outcome<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| "a pax record holds a malformed number".to_owned())
}

fn id(text: &[u8]) -> Outcome<u32> {
    u32::try_from(decimal(text)?).map_err(|_| "its owner or group does not fit in 32 bits".to_owned())
}

/// Seconds with any number of decimals; what is finer than a nanosecond is cut off, towards the past.
fn time(text: &[u8]) -> Outcome<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default())?;
    let seconds = i64::try_from(whole).map_err(|_| "its time is out of range".to_owned())?;
    let nanoseconds = nanoseconds(parts.next().unwrap_or_default())?;
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn nanoseconds(decimals: &[u8]) -> Outcome<u32> {
    let mut digits = [b'0'; 9];
    let len = decimals.len().min(9);
    digits[..len].copy_from_slice(&decimals[..len]);
    if !decimals.iter().all(u8::is_ascii_digit) {
        return Err("its time is malformed".to_owned());
    }
    decimal(&digits).map(|nanoseconds| nanoseconds as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_records_and_takes_back_empty_ones() {
        let records = Records::parse(b"12 path=a/b\n30 SCHILY.xattr.user.a=1\n2=\0x\n13 mtime=1.5\n").unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), b"1\n2=\0x".to_vec())]);
        assert_eq!(records.mtime, Some(Time { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(Records::parse(b"12 path=a/b\n8 path=\n"), Ok(Records::default()));
        for bad in [
            &b"12 path=a/b\n11 path=a/c\n"[..],
            b"99 path=a\n",
            b"9 path=a\0",
            b"x",
            b"0 a=\n",
            b"6 =ab\n",
            b"11 size=-1\n",
            b"5 ab\n",
        ] {
            assert!(Records::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn reads_times_before_1970() {
        assert_eq!(time(b"-1.25"), Ok(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"-3"), Ok(Time { seconds: -3, nanoseconds: 0 }));
        assert_eq!(time(b"7.1234567899"), Ok(Time { seconds: 7, nanoseconds: 123_456_789 }));
        for bad in [&b""[..], b"1.x", b"--1", b"99999999999999999999"] {
            assert!(time(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
