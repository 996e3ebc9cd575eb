//! The host's own place in the world: who answers about names, and under which addresses it is reached.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// The name servers of `/etc/resolv.conf`, in its order; behind systemd's stub its own upstreams are meant by it.
pub fn resolvers() -> Vec<SocketAddr> {
    parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// The addresses under which this host speaks to the outside world. No packet is sent to find that out.
pub fn own_addresses() -> Vec<IpAddr> {
    // Addresses for documentation (RFC 5737, RFC 3849): the way there is that to everywhere.
    let far: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let own = |(any, far): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    far.into_iter().filter_map(own).filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).collect()
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_name_servers_and_nothing_else() {
        let text =
            "# nameserver 9.9.9.9\nsearch example.com\nnameserver 10.0.0.1\n nameserver fd00::1\nnameserver nonsense\n";
        let expected = ["10.0.0.1:53", "[fd00::1]:53"].map(|address| address.parse().unwrap());
        assert_eq!(super::parse(text), expected);
    }
}
