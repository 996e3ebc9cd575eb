//! Numbers that look random and follow from a seed.

use std::num::Wrapping;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Random(Wrapping<u64>);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(Wrapping(seed))
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 += 0x9e37_79b9_7f4a_7c15;
        let z = (self.0 ^ (self.0 >> 30)) * Wrapping(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)) * Wrapping(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.any()) * bound as u128) >> 64) as usize
    }

    /// A number from zero to one.
    pub fn unit(&mut self) -> f64 {
        (self.any() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How long until the next of many independent things that happen so often a second.
    pub fn gap_s(&mut self, per_second: f64) -> f64 {
        -(1.0 - self.unit()).ln() / per_second
    }

    /// Two independent numbers, as the choice of a machine wants them.
    pub fn two(&mut self) -> [u32; 2] {
        let number = self.any();
        [number as u32, (number >> 32) as u32]
    }
}
