//! What a client may say over HTTP/2 (RFC 9113) without asking for anything.
//!
//! Frames are followed by their headers alone, nine bytes each; what they hold is not looked at:
//!
//! ```text
//!  length (24 bits)   type (8)   flags (8)   stream (32)   then `length` bytes
//! ```
//!
//! | frames | what a flood of them would do | bound |
//! |---|---|---|
//! | RST_STREAM | begin requests and take them back, "rapid reset" (CVE-2023-44487) | [`RESETS`] |
//! | PING, SETTINGS, PRIORITY, GOAWAY, what is unknown, DATA without data | make us work and answer (CVE-2019-9512, 9513, 9515, 9518) | [`CONTROL`] |
//! | WINDOW_UPDATE | the same; but each follows what was received | [`UPDATES`] |
//! | CONTINUATION | a header that never ends (CVE-2024-27316) | [`MAX_CONTINUATIONS`] of one header |

use std::time::Duration;

use super::rate::{Meter, Rate};

const RESETS: Rate = Rate::new(50, 500);
const CONTROL: Rate = Rate::new(50, 500);
const UPDATES: Rate = Rate::new(20_000, 20_000);
const MAX_CONTINUATIONS: u32 = 16;

/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's header.
const HEADER: usize = 9;
/// The flag of DATA that says that nothing follows.
const END_STREAM: u8 = 1;

/// Follows the frames that a client sends.
#[derive(Debug, Default)]
pub struct Frames {
    state: State,
    resets: Meter,
    control: Meter,
    updates: Meter,
    continuations: u32,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface have come.
    Preface(usize),
    /// It is another protocol.
    Other,
    /// So many bytes of a frame's header have come.
    Header([u8; HEADER], usize),
    /// So many bytes of a frame are still to come.
    Payload(usize),
}

impl Default for State {
    fn default() -> Self {
        Self::Preface(0)
    }
}

/// What a client says too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood(pub &'static str);

impl Frames {
    /// Follows these bytes, which came at `now` after the connection's beginning.
    pub fn feed(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Flood> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Other => return Ok(()),
                State::Preface(seen) => self.preface(seen, bytes),
                State::Header(header, seen) => self.header(header, seen, bytes, now)?,
                State::Payload(left) => {
                    let passed = left.min(bytes.len());
                    self.state = if passed == left { State::next() } else { State::Payload(left - passed) };
                    &bytes[passed..]
                }
            };
        }
        Ok(())
    }

    /// Whether the connection carries no frames: what comes need not be followed.
    pub fn is_another_protocol(&self) -> bool {
        matches!(self.state, State::Other)
    }

    fn preface<'b>(&mut self, seen: usize, bytes: &'b [u8]) -> &'b [u8] {
        let length = bytes.len().min(PREFACE.len() - seen);
        self.state = match bytes[..length] == PREFACE[seen..seen + length] {
            false => State::Other,
            true if seen + length == PREFACE.len() => State::next(),
            true => State::Preface(seen + length),
        };
        &bytes[length..]
    }

    fn header<'b>(
        &mut self,
        mut header: [u8; HEADER],
        seen: usize,
        bytes: &'b [u8],
        now: Duration,
    ) -> Result<&'b [u8], Flood> {
        let length = bytes.len().min(HEADER - seen);
        header[seen..seen + length].copy_from_slice(&bytes[..length]);
        self.state = State::Header(header, seen + length);
        if seen + length == HEADER {
            let payload = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            self.frame(payload, header[3], header[4], now)?;
            self.state = if payload == 0 { State::next() } else { State::Payload(payload) };
        }
        Ok(&bytes[length..])
    }

    /// A frame begins.
    fn frame(&mut self, length: usize, kind: u8, flags: u8, now: Duration) -> Result<(), Flood> {
        let (rate, meter, what) = match kind {
            0 if length > 0 || flags & END_STREAM != 0 => return Ok(()),
            1 => {
                self.continuations = 0;
                return Ok(());
            }
            9 => {
                self.continuations += 1;
                return if self.continuations > MAX_CONTINUATIONS { Err(Flood("CONTINUATION frames")) } else { Ok(()) };
            }
            3 => (RESETS, &mut self.resets, "RST_STREAM frames"),
            8 => (UPDATES, &mut self.updates, "WINDOW_UPDATE frames"),
            0 => (CONTROL, &mut self.control, "empty DATA frames"),
            2 => (CONTROL, &mut self.control, "PRIORITY frames"),
            4 => (CONTROL, &mut self.control, "SETTINGS frames"),
            6 => (CONTROL, &mut self.control, "PING frames"),
            _ => (CONTROL, &mut self.control, "frames that mean nothing here"),
        };
        if rate.take(meter, now) { Ok(()) } else { Err(Flood(what)) }
    }
}

impl State {
    fn next() -> Self {
        Self::Header([0; HEADER], 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(std::iter::repeat_n(3, length));
        frame
    }

    /// How many of many such frames, all at once, pass.
    fn passed(frames: &[Vec<u8>]) -> usize {
        let mut follower = Frames::default();
        follower.feed(PREFACE, Duration::ZERO).unwrap();
        (0..2000).take_while(|n| follower.feed(&frames[n % frames.len()], Duration::ZERO).is_ok()).count()
    }

    #[test]
    fn what_asks_for_nothing_is_bounded_and_what_carries_is_not() {
        assert_eq!(passed(&[frame(3, 0, 4)]), 500, "resets");
        assert_eq!(passed(&[frame(1, 4, 100), frame(3, 0, 4)]), 1001, "rapid resets");
        for kind in [2, 4, 6, 7, 10, 200] {
            assert_eq!(passed(&[frame(kind, 0, 8)]), 500, "{kind}");
        }
        assert_eq!(passed(&[frame(0, 0, 0)]), 500, "empty data");
        assert_eq!(passed(&[frame(9, 0, 100)]), 16, "continuations");
        assert_eq!(passed(&[frame(1, 0, 100), frame(9, 4, 100)]), 2000, "headers of two parts");
        assert_eq!(passed(&[frame(0, 0, 1000), frame(8, 0, 4)]), 2000, "an upload and a download");
        assert_eq!(passed(&[frame(1, 4, 100), frame(0, 1, 0)]), 2000, "requests that end with empty data");
    }

    #[test]
    fn another_protocol_is_left_alone() {
        let mut follower = Frames::default();
        for _ in 0..1000 {
            assert_eq!(follower.feed(b"PRI / HTTP/1.1\r\nhost: a\r\n\r\n\0\0\0\x06\0\0\0\0\0", Duration::ZERO), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            kinds in prop::collection::vec((0u8..12, any::<u8>(), 0usize..40), 0..80),
            cuts in prop::collection::vec(1usize..50, 1..50),
        ) {
            let mut bytes = PREFACE.to_vec();
            // The same few frames again and again, so that bounds are met.
            for (kind, flags, length) in kinds.iter().cycle().take(kinds.len() * 40) {
                bytes.extend(frame(*kind, *flags, *length));
            }
            let whole = Frames::default().feed(&bytes, Duration::ZERO);
            let mut follower = Frames::default();
            let (mut rest, mut cut) = (&bytes[..], Ok(()));
            for length in cuts.iter().cycle() {
                if rest.is_empty() || cut.is_err() {
                    break;
                }
                let (now, later) = rest.split_at((*length).min(rest.len()));
                cut = follower.feed(now, Duration::ZERO);
                rest = later;
            }
            prop_assert_eq!(whole, cut);
        }
    }
}
