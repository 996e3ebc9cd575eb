//! `/.dunlin/busy`: a pipe by which programs say that they are busy, so that the machine is not put to sleep for want of
//! traffic.
//!
//! A line says for how long from now: `90` or `90s`, `10m`, `2h`, at most a day; `0` ends it. The newest line counts, so
//! a program that goes on says so again, and one that dies is busy no longer than it said:
//!
//! ```text
//! echo 10m > /.dunlin/busy
//! ```

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};

/// Where it is.
const PLACE: &str = "/.dunlin/busy";
/// Nobody is busy for longer, unless he says so again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What is longer is no line.
const MAX_LINE_BYTES: usize = 64;

/// The pipe.
pub struct Busy {
    pipe: File,
    /// A line that has no end yet.
    begun: Vec<u8>,
}

impl Busy {
    /// Makes the pipe; every user may write to it.
    pub fn open() -> io::Result<Self> {
        let place = Path::new(PLACE);
        fs::create_dir_all(place.parent().unwrap_or(place))?;
        let _ = fs::remove_file(place);
        mkfifo(place, Mode::from_bits_truncate(0o622))?;
        // Whatever mask there is.
        fs::set_permissions(place, fs::Permissions::from_mode(0o622))?;
        // For writing, too, so that it does not end when a writer goes.
        let pipe =
            File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(place)?;
        Ok(Self { pipe, begun: Vec::new() })
    }

    /// What has been said since the last time; the newest line counts. `Err` holds what makes no sense.
    pub fn read(&mut self) -> Option<Result<Duration, String>> {
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer) {
            Ok(length) => self.take(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error.to_string())),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Option<Result<Duration, String>> {
        let mut newest = None;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&part[..part.len().min(MAX_LINE_BYTES)]);
            self.begun.truncate(MAX_LINE_BYTES + 1);
            if part.ends_with(b"\n") {
                newest = Some(parse(&std::mem::take(&mut self.begun)));
            }
        }
        newest
    }
}

impl AsFd for Busy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// A whole number and a unit; seconds without one.
fn parse(line: &[u8]) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(number) if seconds > 0 => Ok(Duration::from_secs(number.saturating_mul(seconds)).min(LONGEST)),
        _ => Err(format!("{text:?} is no time: write a whole number and s, m or h, such as 10m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taking() -> Busy {
        Busy { pipe: File::open("/dev/null").unwrap(), begun: Vec::new() }
    }

    #[test]
    fn times_are_read_within_a_day() {
        let read = |text: &str| parse(text.as_bytes()).ok().map(|time| time.as_secs());
        assert_eq!([read("90"), read(" 90s\n"), read("10m"), read("2h"), read("0")], [90, 90, 600, 7200, 0].map(Some));
        assert_eq!([read("9999999999h"), read("99999999999999999999")], [Some(86_400), None]);
        assert_eq!([read(""), read("s"), read("-1"), read("1d"), read("1.5h"), read("yes")], [None; 6]);
    }

    #[test]
    fn the_newest_whole_line_counts_however_it_arrives() {
        let mut busy = taking();
        assert_eq!(busy.take(b"10"), None);
        assert_eq!(busy.take(b"m\n5"), Some(Ok(Duration::from_secs(600))));
        assert_eq!(busy.take(b"\n7s\n"), Some(Ok(Duration::from_secs(7))));
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut busy = taking();
        for _ in 0..1000 {
            assert_eq!(busy.take(&[b'1'; 4096]), None);
        }
        assert!(busy.begun.len() <= MAX_LINE_BYTES + 1);
        assert!(matches!(busy.take(b"\n"), Some(Err(_))));
        assert_eq!(busy.take(b"3\n"), Some(Ok(Duration::from_secs(3))));
    }
}
