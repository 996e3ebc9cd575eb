//! The wall clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970 (UTC). A clock set before that counts as 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970 (UTC).
pub fn unix_ms() -> u64 {
    unix_time().as_millis() as u64
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
    #[test]
    fn writes_a_moment_as_rfc_3339() {
        assert_eq!(super::rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn writes_a_moment_as_http_does() {
        assert_eq!(super::http_date(784_111_777_999), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
