//! Requests for files and what is answered to them (RFC 9110: conditional requests, section 13; ranges, section 14).
//! Pure: what the file is comes in as a [`Stamp`], what to send goes out as an [`Answer`].

use std::{fmt::Write as _, ops::Range};

/// What is known of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stamp {
    /// Its length in bytes.
    pub length: u64,
    /// When it last changed: seconds since 1970.
    pub modified_s: u64,
    /// And the nanoseconds of that second.
    pub modified_ns: u64,
    /// Its media type.
    pub content_type: &'static str,
}

impl Stamp {
    fn etag(&self) -> String {
        format!("\"{:x}.{:x}-{:x}\"", self.modified_s, self.modified_ns, self.length)
    }
}

/// A request.
#[derive(Debug, Default, PartialEq)]
pub struct Request {
    /// The decoded path, if it can be that of a file and only its content, or that of its header, is asked for.
    pub path: Option<String>,
    /// Only the header of the answer is asked for.
    pub head_only: bool,
    /// The client ends the connection after it.
    pub is_last: bool,
    if_none_match: Option<String>,
    if_modified_since: Option<u64>,
    range: Option<String>,
    if_range: Option<String>,
}

impl Request {
    /// Reads the lines of a request; none if it is none of HTTP/1.1, or one whose body would have to be read.
    pub fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if version != "HTTP/1.1" || words.next().is_some() {
            return None;
        }
        let plain = matches!(method, "GET" | "HEAD");
        let mut request = Self { head_only: method == "HEAD", ..Self::default() };
        request.path = decode(target.split('?').next()?).filter(|_| plain);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            request.take_field(&name.to_ascii_lowercase(), value.trim())?;
        }
        Some(request)
    }

    fn take_field(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "connection" => self.is_last |= value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close")),
            "content-length" if value != "0" => return None,
            "transfer-encoding" => return None,
            "if-none-match" => self.if_none_match = Some(value.to_owned()),
            "if-modified-since" => self.if_modified_since = parse_date(value),
            "range" => self.range = Some(value.to_owned()),
            "if-range" => self.if_range = Some(value.to_owned()),
            _ => {}
        }
        Some(())
    }

    /// Whether the client has the file as it is.
    fn has_it(&self, stamp: &Stamp) -> bool {
        match &self.if_none_match {
            Some(tags) => tags.split(',').map(str::trim).any(|tag| tag == "*" || weakly(tag) == stamp.etag()),
            None => self.if_modified_since.is_some_and(|since| stamp.modified_s <= since),
        }
    }

    /// The part of the file that is asked for.
    fn part(&self, stamp: &Stamp) -> Part {
        let unchanged = self.if_range.as_deref().is_none_or(|condition| {
            condition == stamp.etag() || parse_date(condition).is_some_and(|at| at == stamp.modified_s)
        });
        match self.range.as_deref().filter(|_| unchanged) {
            Some(range) => part_of(range, stamp.length),
            None => Part::Whole,
        }
    }
}

/// Entity tags of caches are compared without regard to their weakness.
fn weakly(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// Takes `%41` apart. None if a byte is no character, or one that no file name holds.
fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits =
                std::str::from_utf8(tail.get(..2)?).ok().filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok().filter(|path| path.starts_with('/') && !path.contains('\0'))
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Whole,
    Some(Range<u64>),
    Nothing,
}

/// One range of bytes; several at a time, and other units, may be answered with the whole.
fn part_of(range: &str, length: u64) -> Part {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Part::Whole;
    };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let part = match (first.is_empty(), last.is_empty()) {
        (true, false) => number(last).map(|count| length.saturating_sub(count)..length),
        (false, true) => number(first).map(|first| first..length),
        (false, false) => number(first)
            .zip(number(last))
            .filter(|(first, last)| first <= last)
            .map(|(first, last)| first..last.saturating_add(1).min(length)),
        (true, true) => None,
    };
    match part {
        None => Part::Whole,
        Some(part) if part.start >= part.end => Part::Nothing,
        Some(part) => Part::Some(part),
    }
}

/// What is answered.
#[derive(Debug, PartialEq)]
pub struct Answer {
    status: &'static str,
    fields: String,
    body: Option<Range<u64>>,
}

impl Answer {
    /// The answer to a request for a file that is like this, or for none.
    pub fn to(request: &Request, stamp: Option<&Stamp>) -> Self {
        let Some(stamp) = stamp else {
            return Self { status: "404 Not Found", fields: "content-length: 0\r\n".into(), body: None };
        };
        let (etag, modified) = (stamp.etag(), date(stamp.modified_s));
        let mut fields = format!("etag: {etag}\r\nlast-modified: {modified}\r\naccept-ranges: bytes\r\n");
        if request.has_it(stamp) {
            return Self { status: "304 Not Modified", fields, body: None };
        }
        let (status, part) = match request.part(stamp) {
            Part::Whole => ("200 OK", 0..stamp.length),
            Part::Some(part) => {
                let _ = write!(fields, "content-range: bytes {}-{}/{}\r\n", part.start, part.end - 1, stamp.length);
                ("206 Partial Content", part)
            }
            Part::Nothing => {
                let _ = write!(fields, "content-range: bytes */{}\r\ncontent-length: 0\r\n", stamp.length);
                return Self { status: "416 Range Not Satisfiable", fields, body: None };
            }
        };
        let _ = write!(fields, "content-type: {}\r\ncontent-length: {}\r\n", stamp.content_type, part.end - part.start);
        Self { status, fields, body: Some(part) }
    }

    /// Its status line and its header.
    pub fn head(&self) -> String {
        format!("HTTP/1.1 {}\r\n{}\r\n", self.status, self.fields)
    }

    /// The bytes of the file that follow.
    pub fn body(&self, request: &Request) -> Option<Range<u64>> {
        self.body.clone().filter(|_| !request.head_only)
    }
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A moment as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn date(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize - 1],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads a moment; none if it is not written that way, which is as good as no condition.
fn parse_date(text: &str) -> Option<u64> {
    let rest = text.split_once(", ")?.1;
    let words: Vec<&str> = rest.split(' ').collect();
    let &[day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let &[hour, minute, second] = clock.as_slice() else { return None };
    let month = MONTHS.iter().position(|known| *known == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let real = (1970..=9999).contains(&year) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    real.then(|| days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Year, month and day of a day since 1970-01-01, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year + era * 400 + u64::from(month <= 2), month, day)
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp() -> Stamp {
        Stamp { length: 10, modified_s: 784_111_777, modified_ns: 5, content_type: "text/plain" }
    }

    fn status(fields: &str) -> (String, Option<Range<u64>>) {
        let request = Request::parse(&format!("GET /a HTTP/1.1\r\n{fields}\r\n\r\n")).unwrap();
        let answer = Answer::to(&request, Some(&stamp()));
        (answer.status[..3].to_owned(), answer.body(&request))
    }

    #[test]
    fn conditions_and_ranges_are_obeyed() {
        let etag = stamp().etag();
        for (fields, expected, body) in [
            ("", "200", Some(0..10)),
            ("range: bytes=2-4", "206", Some(2..5)),
            ("range: bytes=8-", "206", Some(8..10)),
            ("range: bytes=-3", "206", Some(7..10)),
            ("range: bytes=-30", "206", Some(0..10)),
            ("range: bytes=9-99", "206", Some(9..10)),
            ("range: bytes=10-", "416", None),
            ("range: bytes=-0", "416", None),
            ("range: bytes=4-2", "200", Some(0..10)),
            ("range: bytes=0-1,3-4", "200", Some(0..10)),
            ("range: lines=1-2", "200", Some(0..10)),
            ("range: bytes=2-4\r\nif-range: \"other\"", "200", Some(0..10)),
            ("range: bytes=2-4\r\nif-range: Sun, 06 Nov 1994 08:49:37 GMT", "206", Some(2..5)),
            ("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", "304", None),
            ("if-modified-since: Sun, 06 Nov 1994 08:49:36 GMT", "200", Some(0..10)),
            ("if-modified-since: yesterday", "200", Some(0..10)),
            ("if-none-match: *", "304", None),
            ("if-none-match: \"x\"\r\nif-modified-since: Sun, 06 Nov 1994 08:49:37 GMT", "200", Some(0..10)),
            (&format!("if-none-match: \"x\", W/{etag}"), "304", None),
        ] {
            assert_eq!(status(fields), (expected.to_owned(), body), "{fields}");
        }
    }

    #[test]
    fn only_requests_for_content_are_taken() {
        let path = |text: &str| Request::parse(text).map(|request| (request.path, request.head_only, request.is_last));
        assert_eq!(path("HEAD /a%20b?q HTTP/1.1\r\n\r\n"), Some((Some("/a b".into()), true, false)));
        assert_eq!(path("GET /a HTTP/1.1\r\nConnection: Close\r\n\r\n"), Some((Some("/a".into()), false, true)));
        for odd in ["POST /a", "GET /%", "GET /%+1", "GET /%00", "GET /%ff", "GET a"] {
            assert_eq!(path(&format!("{odd} HTTP/1.1\r\n\r\n")).and_then(|(path, ..)| path), None, "{odd}");
        }
        for bad in
            ["GET /a HTTP/1.0\r\n\r\n", "GET  /a HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\ncontent-length: 1\r\n\r\n", ""]
        {
            assert_eq!(path(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn moments_are_written_as_everybody_reads_them() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    }

    proptest! {
        #[test]
        fn a_moment_is_read_as_it_was_written(at in 0u64..253_402_300_800) {
            prop_assert_eq!(parse_date(&date(at)), Some(at));
        }

        #[test]
        fn no_request_makes_it_panic_or_send_what_the_file_does_not_hold(
            lines in prop::collection::vec(
                prop_oneof![
                    "(range|if-range|if-none-match|if-modified-since): ?\\PC{0,40}",
                    "range: bytes=[0-9]{0,21}-[0-9]{0,21}",
                    "\\PC{0,60}",
                ],
                0..6,
            ),
            target in "\\PC{0,40}",
        ) {
            let head = format!("GET {target} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
            let part = Request::parse(&head).and_then(|it| Answer::to(&it, Some(&stamp())).body(&it));
            prop_assert!(part.is_none_or(|part| part.start < part.end && part.end <= 10));
        }
    }
}
