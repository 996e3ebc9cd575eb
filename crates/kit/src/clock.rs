//! The wall clock, and one that costs little.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_getres, clock_gettime};

/// Time since 1970 (UTC). A clock set before that counts as 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970 (UTC).
pub fn unix_ms() -> u64 {
    unix_time().as_millis() as u64
}

/// Milliseconds since 1970 (UTC) at a moment that is hardly past, for who has read a clock already. The wall clock is
/// asked once a second; where it is set anew, this is wrong for so long.
pub fn unix_ms_at(moment: Instant) -> u64 {
    thread_local! {
        static KNOWN: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    }
    const FRESH: Duration = Duration::from_secs(1);
    let known = KNOWN.get().map(|(at, unix_ms)| (moment.saturating_duration_since(at), unix_ms));
    if let Some((since, unix_ms)) = known.filter(|(since, _)| *since < FRESH) {
        return unix_ms + since.as_millis() as u64;
    }
    let unix_ms = unix_ms();
    KNOWN.set(Some((moment, unix_ms)));
    unix_ms
}

/// A moment that is some milliseconds past at most, for bounds that are seconds: it costs a fifth of what
/// [`Instant::now`] does.
pub fn lately() -> Instant {
    thread_local! {
        static KNOWN: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
    }
    const COARSE: ClockId = ClockId::CLOCK_MONOTONIC_COARSE;
    let Ok(ticks) = clock_gettime(COARSE).map(Duration::from) else { return Instant::now() };
    let (moment, then) = KNOWN.get().unwrap_or_else(|| {
        // The coarse clock lags by one of its ticks at most; what is told must never be to come.
        let tick = clock_getres(COARSE).map_or(Duration::from_millis(10), Duration::from);
        let now = Instant::now();
        let known = (now.checked_sub(tick).unwrap_or(now), ticks);
        KNOWN.set(Some(known));
        known
    });
    moment + ticks.saturating_sub(then)
}

/// Nanoseconds since 1970 (UTC).
pub fn unix_ns() -> u64 {
    unix_time().as_nanos() as u64
}

/// A moment in RFC 3339 notation, to the millisecond, in UTC.
pub fn rfc3339(unix_ms: u64) -> String {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap_or(i64::MAX)).unwrap_or_default();
    format!("{moment:.3}")
}

/// A moment as fields of HTTP tell it (RFC 9110, 5.6.7), to the second.
pub fn http_date(unix_ms: u64) -> String {
    let moment = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap_or(i64::MAX)).unwrap_or_default();
    moment.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_reckoned_is_the_time() {
        let (before, now) = (unix_ms(), Instant::now());
        let asked = unix_ms_at(now);
        assert!((before..=unix_ms()).contains(&asked));
        assert_eq!(unix_ms_at(now + Duration::from_millis(999)), asked + 999);
        let asked_again = unix_ms_at(now + Duration::from_secs(1));
        assert!((asked..=unix_ms()).contains(&asked_again), "it is not reckoned for longer");
    }

    #[test]
    fn what_is_told_of_lately_is_neither_to_come_nor_long_past() {
        for _ in 0..200 {
            let (told, now) = (lately(), Instant::now());
            assert!(told <= now);
            assert!(now - told < Duration::from_secs(1));
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    #[test]
    fn writes_a_moment_as_rfc_3339() {
        assert_eq!(super::rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn writes_a_moment_as_http_does() {
        assert_eq!(super::http_date(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
