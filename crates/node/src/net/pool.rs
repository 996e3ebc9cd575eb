//! The range that host-local addresses come from.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A range of IPv4 addresses, `10.201.0.0/16`. Slot `n` has the address `n` after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Pool {
    first: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a pool.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a range for machine addresses: write one such as 10.201.0.0/16, with a length from 8 to 28")]
pub struct InvalidPool(pub String);

impl Ipv4Pool {
    /// The highest slot: the last address of the range is a broadcast address and stays free.
    pub fn max_slot(self) -> u32 {
        (1 << (32 - self.prefix)) - 2
    }

    /// The address of a slot, from 1 to [`Self::max_slot`].
    pub fn address(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + slot)
    }
}

impl FromStr for Ipv4Pool {
    type Err = InvalidPool;

    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        let parts = text.split_once('/');
        let parsed = parts.and_then(|(first, prefix)| Some((first.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((first, prefix)) if (8..=28).contains(&prefix) && u32::from(first) << prefix == 0 => {
                Ok(Self { first, prefix })
            }
            _ => Err(InvalidPool(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Ipv4Pool {
    type Error = InvalidPool;
    fn try_from(text: String) -> Result<Self, InvalidPool> {
        text.parse()
    }
}

impl From<Ipv4Pool> for String {
    fn from(pool: Ipv4Pool) -> String {
        pool.to_string()
    }
}

impl fmt::Display for Ipv4Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_stay_inside_the_range() {
        let pool: Ipv4Pool = "10.201.0.0/24".parse().unwrap();
        assert_eq!(pool.address(1), Ipv4Addr::new(10, 201, 0, 1));
        assert_eq!(pool.address(pool.max_slot()), Ipv4Addr::new(10, 201, 0, 254));
    }

    #[test]
    fn a_range_with_host_bits_or_an_odd_length_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/29", "10.0.0.0/7", "10.0.0.0/x", "fd00::/16"] {
            assert!(bad.parse::<Ipv4Pool>().is_err(), "{bad}");
        }
    }
}
