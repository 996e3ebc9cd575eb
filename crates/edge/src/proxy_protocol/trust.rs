//! Whose headers are believed.

use std::{net::IpAddr, str::FromStr};

use thiserror::Error;

/// Peers that say whom their connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedProxy {
    network: IpAddr,
    prefix: u8,
    demand: Demand,
}

/// Whether a header has to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A connection without one is closed.
    Required,
    /// A connection without one is the peer's own.
    Optional,
}

/// Why a text names no trusted peers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a network: write 10.0.0.0/8 where each connection has a header, 10.0.0.0/8=optional where some do"
)]
pub struct BadTrust(String);

impl FromStr for TrustedProxy {
    type Err = BadTrust;

    /// `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32=optional`.
    fn from_str(text: &str) -> Result<Self, BadTrust> {
        let bad = || BadTrust(text.to_owned());
        let (network, demand) = match text.split_once('=') {
            None | Some((_, "required")) => (text.split('=').next().unwrap_or_default(), Demand::Required),
            Some((network, "optional")) => (network, Demand::Optional),
            Some(_) => return Err(bad()),
        };
        let (address, prefix) = network.split_once('/').map_or((network, None), |(it, prefix)| (it, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |prefix| prefix.parse().map_err(|_| bad()))?;
        if prefix > bits || mask(address, prefix) != bits_of(address) {
            return Err(bad());
        }
        Ok(Self { network: address, prefix, demand })
    }
}

impl TrustedProxy {
    fn has(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4() && mask(address, self.prefix) == bits_of(self.network)
    }
}

/// What is asked of a peer; nothing if it is not trusted. The smallest network that has it counts.
pub fn demand(trusted: &[TrustedProxy], peer: IpAddr) -> Option<Demand> {
    let peer = peer.to_canonical();
    let mine = trusted.iter().filter(|it| it.has(peer));
    mine.max_by_key(|it| it.prefix).map(|it| it.demand)
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The first bits of an address.
fn mask(address: IpAddr, prefix: u8) -> u128 {
    bits_of(address) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_network_says_what_is_asked() {
        let trusted: Vec<TrustedProxy> =
            ["10.0.0.0/8", "10.1.0.0/16=optional", "2001:db8::/32"].map(|it| it.parse().unwrap()).into();
        let asked = |peer: &str| demand(&trusted, peer.parse().unwrap());
        assert_eq!(asked("10.2.0.1"), Some(Demand::Required));
        assert_eq!(asked("::ffff:10.1.0.1"), Some(Demand::Optional));
        assert_eq!(asked("2001:db8::1"), Some(Demand::Required));
        assert_eq!((asked("11.0.0.1"), asked("::1")), (None, None));
        assert_eq!(demand(&["0.0.0.0/0".parse().unwrap()], "192.0.2.1".parse().unwrap()), Some(Demand::Required));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8=maybe", "proxy.example", "::/129"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
    }
}
