//! The frequency of the host's time stamp counter.

use std::{
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long it is measured. The two readings of the clock are off by less than a microsecond, so the result by less
/// than 20 parts in a million, which is what clocks are off by anyway.
const MEASURE: Duration = Duration::from_millis(100);

/// The frequency in kHz, measured once against the system's clock. The first call takes a tenth of a second.
pub(super) fn host_khz() -> u64 {
    static KHZ: OnceLock<u64> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> u64 {
    let (clock, counter) = (Instant::now(), read());
    sleep(MEASURE);
    let (elapsed, ticks) = (clock.elapsed(), read().wrapping_sub(counter));
    let khz = u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(khz).unwrap_or(u64::MAX)
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    // SAFETY: reads a counter that every x86-64 processor has.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_measurements_agree_to_one_in_a_thousand() {
        let (one, two) = (super::measure(), super::measure());
        assert!(one.abs_diff(two) < one / 1000, "{one} kHz and {two} kHz");
    }
}
