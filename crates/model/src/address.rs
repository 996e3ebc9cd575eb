//! Private addresses: a /48 per network inside `fdaa::/16`, a /112 per machine inside it.
//!
//! ```text
//! fdaa : nnnn nnnn : mmmm mmmm mmmm mm00 : 0002
//!  16      32 bits        64 bits           16     network id, machine id (56 bits), the machine itself
//! ```
//!
//! A machine's address follows from its network and its id alone. It does not contain its host, so it
//! stays the same for the machine's whole life (RFC 4193 for the range).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::MachineId;

/// The number of a private network: 32 bits, unique on the platform and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct NetworkId(pub u32);

/// Where every guest finds its name server.
pub const NAME_SERVER: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 3);

impl NetworkId {
    /// The network's prefix; its length is 48 bits.
    pub fn prefix(self) -> Ipv6Addr {
        Ipv6Addr::from((0xfdaa_u128 << 112) | (u128::from(self.0) << 80))
    }

    /// The private address of a machine of this network.
    pub fn machine_address(self, machine: &MachineId) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.prefix()) | (u128::from(machine.bits()) << 24) | 2)
    }

    /// The network that an address lies in, if it is a private address of the platform.
    pub fn of(address: Ipv6Addr) -> Option<Self> {
        let bits = u128::from(address);
        (bits >> 112 == 0xfdaa).then_some(Self((bits >> 80) as u32))
    }
}

/// The addresses of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Addresses {
    /// The stable address in its organization's network.
    #[schema(value_type = String)]
    pub private: Ipv6Addr,
    /// The address by which its own host reaches it; means nothing elsewhere.
    #[schema(value_type = String)]
    pub host_local: Ipv4Addr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_tells_its_network_and_machine_but_no_host() {
        let machine: MachineId = "91857209c66d28".parse().unwrap();
        let address = NetworkId(0x0018_0042).machine_address(&machine);
        assert_eq!(address, "fdaa:18:42:9185:7209:c66d:2800:2".parse::<Ipv6Addr>().unwrap());
        assert_eq!(NetworkId::of(address), Some(NetworkId(0x0018_0042)));
        assert_eq!(NetworkId::of("fd00::1".parse().unwrap()), None);
    }
}
