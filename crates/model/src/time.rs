//! Times and durations as the wire and the configuration file write them.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A moment: milliseconds since 1970 (UTC). On the wire a number.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A duration in the notation of Go's standard library: `5s`, `1m21s`, `500ms`.
/// It is written as text; read as text or as a whole number of nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, utoipa::ToSchema)]
#[schema(value_type = String, example = "1m30s")]
pub struct GoDuration(pub Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a duration: write a number and a unit, such as \"10s\", \"1m30s\" or \"500ms\"")]
pub struct InvalidDuration(pub String);

impl GoDuration {
    /// So many whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

/// Units of Go's notation with their nanoseconds, longest name first where one begins another.
const UNITS: [(&str, u128); 7] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse(text.trim()).map(Self).ok_or_else(|| InvalidDuration(text.to_owned()))
    }
}

fn parse(mut rest: &str) -> Option<Duration> {
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanoseconds: u128 = 0;
    let mut terms = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let (unit, scale) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit))?;
        nanoseconds = nanoseconds.checked_add(scaled(number, *scale)?)?;
        rest = &tail[unit.len()..];
        terms += 1;
    }
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).ok()?;
    (terms > 0).then(|| Duration::new(seconds, (nanoseconds % 1_000_000_000) as u32))
}

/// A decimal number times its unit, in nanoseconds; what lies below a nanosecond is dropped.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let mut weight = scale;
    for digit in fraction.bytes() {
        weight /= 10;
        total = total.checked_add(u128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * weight)?;
    }
    Some(total)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        match (seconds, nanoseconds) {
            (0, 0) => return f.write_str("0s"),
            (0, n) if n % 1_000_000 == 0 => return write!(f, "{}ms", n / 1_000_000),
            (0, n) if n % 1_000 == 0 => return write!(f, "{}µs", n / 1_000),
            (0, n) => return write!(f, "{n}ns"),
            _ => {}
        }
        let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if nanoseconds == 0 {
            write!(f, "{rest}s")
        } else {
            let fraction = format!("{nanoseconds:09}");
            write!(f, "{rest}.{}s", fraction.trim_end_matches('0'))
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"10s\", or a number of nanoseconds")
            }
            fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<GoDuration, E> {
                Ok(GoDuration(Duration::from_nanos(nanoseconds)))
            }
            fn visit_i64<E: de::Error>(self, nanoseconds: i64) -> Result<GoDuration, E> {
                let nanoseconds = u64::try_from(nanoseconds).map_err(|_| E::custom("a duration is not negative"))?;
                self.visit_u64(nanoseconds)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_notation_of_go() {
        for (text, milliseconds) in
            [("5s", 5_000), ("1m21s", 81_000), ("500ms", 500), ("1.5s", 1_500), ("2h", 7_200_000), ("0", 0)]
        {
            assert_eq!(text.parse(), Ok(GoDuration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "5 s", "1.x2s", "99999999999999999999999h"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanoseconds: u64) {
            let duration = GoDuration(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<GoDuration>();
        }
    }
}
