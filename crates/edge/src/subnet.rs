//! A range of addresses.

use std::{net::IpAddr, str::FromStr};

use thiserror::Error;

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a network: write one such as 10.0.0.0/8")]
pub struct BadSubnet(String);

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.to_owned());
        let (first, prefix) = text.split_once('/').map_or((text, None), |(first, prefix)| (first, Some(prefix)));
        let first: IpAddr = first.parse().map_err(|_| bad())?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| bad()))?;
        let whole = prefix <= bits && begin(first, prefix) == bits_of(first);
        whole.then_some(Self { first, prefix }).ok_or_else(bad)
    }
}

impl Subnet {
    /// Whether an address lies in it.
    pub fn has(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && begin(address, self.prefix) == bits_of(self.first)
    }

    /// How many bits its addresses have in common.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The first bits of an address.
fn begin(address: IpAddr, prefix: u8) -> u128 {
    bits_of(address) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or_default()
}
