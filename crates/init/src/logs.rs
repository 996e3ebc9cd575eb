//! Log records on their way to the host: lines are cut, numbered, and kept until the host has them safe.
//!
//! ```text
//!     acknowledged │ sent, not acknowledged │ not sent │
//!     (forgotten)  └──────────── at most 1 MiB ────────┘ ◀── push
//!                  ▲ rewind(): a new session sends from here
//! ```
//!
//! When it is full, the program waits for a while if a host is there to make room; then, or without a host, the
//! oldest records go, counted.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use guest::{GuestMessage, LogRecord, LogSource};

/// The longest line that one record holds, in bytes.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

const CAPACITY_BYTES: usize = 1024 * 1024;

/// What a record costs besides its text.
const RECORD_BYTES: usize = 64;

/// How long a program waits for a host that does not acknowledge anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// Records that the host has not acknowledged.
#[derive(Default)]
pub struct LogRing {
    records: VecDeque<LogRecord>,
    bytes: usize,
    /// How many of the records have been sent in this session.
    sent: usize,
    last_seq: u64,
    /// Lost, and the host not told yet.
    dropped: u64,
    /// Since when there has been no room.
    full_since: Option<Instant>,
}

impl LogRing {
    /// Appends a line.
    pub fn push(&mut self, source: LogSource, line: Line) {
        self.last_seq += 1;
        let timestamp_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        self.bytes += line.text.len() + RECORD_BYTES;
        let (seq, partial, bytes) = (self.last_seq, line.partial, line.text);
        self.records.push_back(LogRecord { seq, timestamp_ns, source, partial, bytes });
        while self.bytes > CAPACITY_BYTES {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(record) = self.records.pop_front() else { return };
        self.bytes -= record.bytes.len() + RECORD_BYTES;
        if self.sent > 0 {
            self.sent -= 1;
        } else {
            self.dropped += 1;
        }
    }

    /// The host has everything up to `seq`.
    pub fn acknowledge(&mut self, seq: u64) {
        while self.sent > 0 && self.records.front().is_some_and(|record| record.seq <= seq) {
            self.drop_oldest();
        }
        self.full_since = None;
    }

    /// A new session: what was not acknowledged is sent again.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// The next message to send.
    pub fn next(&mut self) -> Option<GuestMessage> {
        if self.dropped > 0 {
            return Some(GuestMessage::LogsDropped { count: std::mem::take(&mut self.dropped) });
        }
        let record = self.records.get(self.sent)?.clone();
        self.sent += 1;
        Some(GuestMessage::Log(record))
    }

    /// Whether there is nothing left to send.
    pub fn all_sent(&self) -> bool {
        self.sent == self.records.len() && self.dropped == 0
    }

    /// Whether the program's output may be read. `attached`: a host is there to make room.
    pub fn takes_more(&mut self, attached: bool, now: Instant) -> bool {
        if self.bytes < CAPACITY_BYTES - 4 * MAX_LINE_BYTES {
            self.full_since = None;
            return true;
        }
        let since = *self.full_since.get_or_insert(now);
        !attached || now >= since + PATIENCE
    }

    /// When [`Self::takes_more`] changes its answer by itself.
    pub fn deadline(&self) -> Option<Instant> {
        self.full_since.map(|since| since + PATIENCE)
    }
}

/// A line of output, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The text without its line end.
    pub text: Bytes,
    /// It goes on.
    pub partial: bool,
}

/// Cuts output into lines.
#[derive(Default)]
pub struct LineCutter {
    rest: BytesMut,
}

impl LineCutter {
    /// Takes output and returns the lines that it completes.
    pub fn cut(&mut self, mut output: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        while !output.is_empty() {
            let room = MAX_LINE_BYTES - self.rest.len();
            let head = &output[..output.len().min(room)];
            let end = head.iter().position(|&byte| byte == b'\n');
            self.rest.extend_from_slice(&head[..end.unwrap_or(head.len())]);
            output = &output[end.map_or(head.len(), |end| end + 1)..];
            if end.is_some() || self.rest.len() == MAX_LINE_BYTES {
                lines.push(self.line(end.is_none()));
            }
        }
        lines
    }

    /// The output has ended: what is left is a line too.
    pub fn finish(&mut self) -> Option<Line> {
        if self.rest.is_empty() { None } else { Some(self.line(false)) }
    }

    fn line(&mut self, partial: bool) -> Line {
        if !partial && self.rest.last() == Some(&b'\r') {
            self.rest.truncate(self.rest.len() - 1);
        }
        Line { text: self.rest.split().freeze(), partial }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> Line {
        Line { text: Bytes::copy_from_slice(text.as_bytes()), partial: false }
    }

    fn sent(ring: &mut LogRing) -> Vec<u64> {
        let message = |ring: &mut LogRing| ring.next();
        std::iter::from_fn(|| message(ring))
            .map(|message| match message {
                GuestMessage::Log(record) => record.seq,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_new_session_gets_again_what_was_not_acknowledged() {
        let mut ring = LogRing::default();
        (0..4).for_each(|_| ring.push(LogSource::Stdout, line("x")));
        assert_eq!(sent(&mut ring), [1, 2, 3, 4]);
        ring.acknowledge(2);
        assert!(ring.all_sent());
        ring.rewind();
        assert_eq!(sent(&mut ring), [3, 4]);
        ring.acknowledge(99);
        ring.rewind();
        assert!(sent(&mut ring).is_empty());
    }

    #[test]
    fn an_acknowledgment_never_covers_what_was_not_sent() {
        let mut ring = LogRing::default();
        ring.push(LogSource::Stdout, line("x"));
        ring.acknowledge(u64::MAX);
        assert_eq!(sent(&mut ring), [1]);
    }

    #[test]
    fn what_is_dropped_is_counted_and_told_first() {
        let mut ring = LogRing::default();
        let big = line(&"x".repeat(MAX_LINE_BYTES));
        let pushed = 2 * CAPACITY_BYTES / MAX_LINE_BYTES;
        (0..pushed).for_each(|_| ring.push(LogSource::Stdout, big.clone()));
        let Some(GuestMessage::LogsDropped { count }) = ring.next() else { panic!("nothing told") };
        let rest = sent(&mut ring);
        assert_eq!(rest.first(), Some(&(count + 1)));
        assert_eq!(count as usize + rest.len(), pushed);
        assert!(ring.bytes <= CAPACITY_BYTES);
    }

    #[test]
    fn the_program_waits_only_for_a_host_and_not_for_ever() {
        let mut ring = LogRing::default();
        let now = Instant::now();
        while ring.takes_more(true, now) {
            ring.push(LogSource::Stdout, line(&"x".repeat(MAX_LINE_BYTES)));
        }
        assert!(ring.takes_more(false, now));
        assert!(ring.takes_more(true, ring.deadline().unwrap()));
        let last = sent(&mut ring).pop().unwrap();
        ring.acknowledge(last);
        assert!(ring.takes_more(true, now));
        assert_eq!(ring.deadline(), None);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_output_is_cut(
            output in prop::collection::vec(prop::sample::select(b"ab\n\xff".to_vec()), 0..200),
            at in prop::collection::vec(0usize..200, 0..8),
        ) {
            let cut = |points: &[usize]| {
                let mut cutter = LineCutter::default();
                let mut points: Vec<usize> = points.iter().map(|at| at % (output.len() + 1)).collect();
                points.extend([0, output.len()]);
                points.sort_unstable();
                let pieces = points.windows(2).map(|pair| &output[pair[0]..pair[1]]);
                let mut lines: Vec<Line> = pieces.flat_map(|piece| cutter.cut(piece)).collect();
                lines.extend(cutter.finish());
                lines
            };
            prop_assert_eq!(cut(&at), cut(&[]));
        }
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let mut cutter = LineCutter::default();
        let lines = cutter.cut("x".repeat(MAX_LINE_BYTES + 3).as_bytes());
        assert_eq!(
            lines.iter().map(|line| (line.text.len(), line.partial)).collect::<Vec<_>>(),
            [(MAX_LINE_BYTES, true)]
        );
        assert_eq!(cutter.cut(b"\r\nnext"), [line("xxx")]);
        assert_eq!(cutter.finish(), Some(line("next")));
        assert_eq!(cutter.finish(), None);
    }
}
