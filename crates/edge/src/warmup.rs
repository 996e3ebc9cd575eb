//! A machine that has just become ready gets a growing share of requests: caches fill, code is compiled, pools of
//! connections grow. Pure.

use std::time::Duration;

/// How long it takes to the whole share.
const WINDOW: Duration = Duration::from_secs(10);
/// What it begins with, in percent.
const LEAST: u8 = 10;
/// The whole share, in percent.
pub const WHOLE: u8 = 100;

/// Whether a machine that is ready has to be warmed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmth {
    /// It was ready before the edge began to look.
    Warm,
    /// It has become ready just now.
    Cold,
}

/// How much of its share a machine gets that has been ready for so long, in percent.
pub fn share(ready_for: Duration) -> u8 {
    let percent = ready_for.as_millis() * u128::from(WHOLE) / WINDOW.as_millis();
    (percent.min(u128::from(WHOLE)) as u8).max(LEAST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_grows_from_the_least_to_the_whole(ms in 0..20_000_u64, more in 0..20_000_u64) {
            let at = |ms| share(Duration::from_millis(ms));
            prop_assert!((LEAST..=WHOLE).contains(&at(ms)) && at(ms) <= at(ms + more));
            prop_assert_eq!(at(ms) == WHOLE, ms >= WINDOW.as_millis() as u64);
        }
    }
}
