//! Brings the network up.

use std::{fs, net::IpAddr, path::Path};

use guest::{
    BootFailure,
    spec::{Interface, Network},
};

use crate::{
    failure::{OrFailure, failure},
    netlink::Netlink,
    uevents::Uevents,
};

const STEP: &str = "network";

/// Settings that containers have and programs rely on: low ports and pings for everyone.
const SETTINGS: [(&str, &str); 2] =
    [("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"), ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")];

/// Brings up the loopback interface and, if the spec names one, the interface to the outside.
pub fn bring_up(network: &Network, uevents: &Uevents) -> Result<(), BootFailure> {
    for (path, value) in SETTINGS {
        let _ = fs::write(path, value);
    }
    let netlink = Netlink::open().or_failure(STEP, "opening the routing socket")?;
    let loopback = index_of("lo").ok_or_else(|| failure(STEP, "the kernel has no loopback interface"))?;
    netlink.bring_up(loopback, 0).or_failure(STEP, "bringing up the loopback interface")?;
    network.interface.as_ref().map_or(Ok(()), |interface| configure(&netlink, interface, uevents))
}

fn configure(netlink: &Netlink, interface: &Interface, uevents: &Uevents) -> Result<(), BootFailure> {
    let patience = std::time::Duration::from_secs(10);
    let name = uevents.wait(patience, || find(interface)).ok_or_else(|| {
        let wanted = interface.mac.as_deref().unwrap_or("eth0");
        failure(STEP, format_args!("there is no network interface {wanted} after {} s", patience.as_secs()))
    })?;
    let index = index_of(&name).ok_or_else(|| failure(STEP, format_args!("{name} has gone")))?;
    if let Some(mac) = interface.mac.as_ref().filter(|mac| !has_address(&name, mac)) {
        let octets = parse_mac(mac).ok_or_else(|| failure(STEP, format_args!("{mac:?} is no hardware address")))?;
        netlink.set_hardware_address(index, octets).or_failure(STEP, format_args!("making {name} {mac}"))?;
    }
    // Addresses and routes come from the host alone, not from whoever sends router advertisements.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
    netlink.bring_up(index, interface.mtu).or_failure(STEP, format_args!("bringing up {name}"))?;
    for address in &interface.addresses {
        let what = format_args!("giving {name} the address {}/{}", address.ip, address.prefix);
        netlink.add_address(index, address.ip, address.prefix).or_failure(STEP, what)?;
    }
    let gateways = [interface.gateway_v4.map(IpAddr::V4), interface.gateway_v6.map(IpAddr::V6)];
    for gateway in gateways.into_iter().flatten() {
        let what = format_args!("routing through {gateway}");
        netlink.add_default_route(index, gateway).or_failure(STEP, what)?;
    }
    Ok(())
}

/// The interface with the wanted hardware address. In a guest that goes on where another was frozen, the only one has
/// that other's address.
fn find(interface: &Interface) -> Option<String> {
    let Some(mac) = &interface.mac else { return index_of("eth0").map(|_| "eth0".to_owned()) };
    let names = fs::read_dir("/sys/class/net").ok()?.flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != "lo");
    let names: Vec<_> = names.collect();
    let wanted = names.iter().find(|name| has_address(name, mac));
    wanted.or(names.first().filter(|_| names.len() == 1)).cloned()
}

fn has_address(name: &str, mac: &str) -> bool {
    attribute(name, "address").is_some_and(|address| address.eq_ignore_ascii_case(mac))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Option<Vec<u8>> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets?.try_into().ok()
}

fn index_of(name: &str) -> Option<u32> {
    attribute(name, "ifindex")?.parse().ok()
}

fn attribute(name: &str, attribute: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/sys/class/net").join(name).join(attribute)).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_has_six_octets() {
        assert_eq!(parse_mac("02:00:00:00:00:0a"), Some([2, 0, 0, 0, 0, 10]));
        assert_eq!([parse_mac("02:00"), parse_mac("02:00:00:00:00:gg"), parse_mac("")], [None; 3]);
    }
}
