//! What a client may say over HTTP/2 without asking for anything.
//!
//! | frames | what a flood of them would do | bound |
//! |---|---|---|
//! | RST_STREAM | begin requests and take them back, "rapid reset" (CVE-2023-44487) | [`RESETS`] |
//! | PING, SETTINGS, PRIORITY, GOAWAY, what is unknown, DATA without data | make us work and answer (CVE-2019-9512, 9513, 9515, 9518) | [`CONTROL`] |
//! | WINDOW_UPDATE | the same; but each follows what was received | [`UPDATES`] |
//! | requests that break the rules | make us reset them ("made you reset", CVE-2025-8671) | [`RESETS`] |
//!
//! A header that never ends (CVE-2024-27316) is bounded where it is gathered.

use std::time::Duration;

use super::frame::{END_STREAM, FrameHead, Kind};
use crate::limits::{Meter, Rate};

const RESETS: Rate = Rate::new(50, 500);
const CONTROL: Rate = Rate::new(50, 500);
const UPDATES: Rate = Rate::new(20_000, 20_000);

/// Counts the frames of a client.
#[derive(Debug, Default)]
pub struct Floods {
    resets: Meter,
    control: Meter,
    updates: Meter,
}

/// What a client says too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flood(pub &'static str);

impl Floods {
    /// A frame has come; `clock` tells how long after the connection's beginning.
    pub fn frame(&mut self, head: &FrameHead, clock: impl FnOnce() -> Duration) -> Result<(), Flood> {
        let (rate, meter, what) = match head.kind {
            Kind::Data if head.length > 0 || head.has(END_STREAM) => return Ok(()),
            Kind::Headers | Kind::Continuation => return Ok(()),
            Kind::Reset => (RESETS, &mut self.resets, "RST_STREAM frames"),
            Kind::WindowUpdate => (UPDATES, &mut self.updates, "WINDOW_UPDATE frames"),
            Kind::Data => (CONTROL, &mut self.control, "empty DATA frames"),
            Kind::Priority => (CONTROL, &mut self.control, "PRIORITY frames"),
            Kind::Settings => (CONTROL, &mut self.control, "SETTINGS frames"),
            Kind::Ping => (CONTROL, &mut self.control, "PING frames"),
            _ => (CONTROL, &mut self.control, "frames that mean nothing here"),
        };
        if rate.take(meter, clock()) { Ok(()) } else { Err(Flood(what)) }
    }

    /// One of its streams broke the rules and was reset.
    pub fn broken_stream(&mut self, clock: impl FnOnce() -> Duration) -> Result<(), Flood> {
        if RESETS.take(&mut self.resets, clock()) { Ok(()) } else { Err(Flood("streams that break the rules")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of many such frames, all at once, pass.
    fn passed(frames: &[(Kind, u8, usize)]) -> usize {
        let mut floods = Floods::default();
        let mut pass = |n: usize| {
            let (kind, flags, length) = frames[n % frames.len()];
            floods.frame(&FrameHead { length, kind, flags, stream: 1 }, || Duration::ZERO).is_ok()
        };
        (0..2000).take_while(|n| pass(*n)).count()
    }

    #[test]
    fn what_asks_for_nothing_is_bounded_and_what_carries_is_not() {
        assert_eq!(passed(&[(Kind::Reset, 0, 4)]), 500, "resets");
        assert_eq!(passed(&[(Kind::Headers, 4, 100), (Kind::Reset, 0, 4)]), 1001, "rapid resets");
        for kind in [Kind::Priority, Kind::Settings, Kind::Ping, Kind::GoAway, Kind::Unknown] {
            assert_eq!(passed(&[(kind, 0, 8)]), 500, "{kind:?}");
        }
        assert_eq!(passed(&[(Kind::Data, 0, 0)]), 500, "empty data");
        assert_eq!(passed(&[(Kind::Data, 0, 1000), (Kind::WindowUpdate, 0, 4)]), 2000, "an upload and a download");
        assert_eq!(passed(&[(Kind::Headers, 4, 100), (Kind::Data, 1, 0)]), 2000, "requests that end with empty data");
    }
}
