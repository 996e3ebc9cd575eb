//! The host's own resolvers: who answers guests about the outside world.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
};

/// The name servers of `/etc/resolv.conf`, in its order; behind systemd's stub its own upstreams are meant by it.
pub fn of_this_host() -> Vec<SocketAddr> {
    parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
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
