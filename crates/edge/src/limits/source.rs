//! Who counts as one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses that count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// What one customer of a network has: an IPv4 address, an IPv6 /64.
    pub fn source_of(address: IpAddr) -> Self {
        Self::of(address, 32, 64)
    }

    /// What one can get hold of at a time: the smallest networks that are routed by themselves, an IPv4 /24 and an IPv6
    /// /48.
    pub fn range_of(address: IpAddr) -> Self {
        Self::of(address, 24, 48)
    }

    fn of(address: IpAddr, of_v4: u8, of_v6: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let first = u32::from(v4) >> (32 - of_v4) << (32 - of_v4);
                Self { first: Ipv4Addr::from(first).into(), prefix: of_v4 }
            }
            IpAddr::V6(v6) => {
                let first = u128::from(v6) >> (128 - of_v6) << (128 - of_v6);
                Self { first: Ipv6Addr::from(first).into(), prefix: of_v6 }
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// The first address of a source.
pub fn source_of(address: IpAddr) -> IpAddr {
    Network::source_of(address).first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbors_count_together() {
        let names = |address: &str| {
            let address = address.parse().unwrap();
            (Network::source_of(address).to_string(), Network::range_of(address).to_string())
        };
        assert_eq!(names("192.0.2.77"), ("192.0.2.77/32".into(), "192.0.2.0/24".into()));
        assert_eq!(names("::ffff:192.0.2.77"), names("192.0.2.77"));
        assert_eq!(names("2001:db8:1:2:3::4"), ("2001:db8:1:2::/64".into(), "2001:db8:1::/48".into()));
    }
}
