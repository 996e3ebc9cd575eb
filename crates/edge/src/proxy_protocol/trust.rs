//! Whose headers are believed.

use std::{net::IpAddr, str::FromStr};

use thiserror::Error;

use crate::Subnet;

/// Peers that say whom their connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedProxy {
    network: Subnet,
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
        let (network, demand) = match text.split_once('=') {
            None => (text, Demand::Required),
            Some((network, "required")) => (network, Demand::Required),
            Some((network, "optional")) => (network, Demand::Optional),
            Some(_) => return Err(BadTrust(text.to_owned())),
        };
        let network = network.parse().map_err(|_| BadTrust(text.to_owned()))?;
        Ok(Self { network, demand })
    }
}

/// What is asked of a peer; nothing if it is not trusted. The smallest network that has it counts.
pub fn demand(trusted: &[TrustedProxy], peer: IpAddr) -> Option<Demand> {
    let peer = peer.to_canonical();
    let mine = trusted.iter().filter(|it| it.network.has(peer));
    mine.max_by_key(|it| it.network.prefix()).map(|it| it.demand)
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
