//! Which machine a client's datagrams go to: rendezvous hashing (Thaler and Ravishankar, 1998). Every edge comes to the
//! same choice by itself, and when a machine goes only its clients move.

use std::net::{IpAddr, SocketAddr};

/// The place of the machine that a client belongs to, among these; nothing if there are none.
pub fn choose<'a>(machines: impl Iterator<Item = &'a str>, client: SocketAddr) -> Option<usize> {
    machines.enumerate().max_by_key(|(_, machine)| (weight(machine, client), *machine)).map(|(place, _)| place)
}

/// How much a machine and a client belong together: the same everywhere, and as good as random.
fn weight(machine: &str, client: SocketAddr) -> u64 {
    let ip = match client.ip().to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // FNV-1a, then the last steps of SplitMix64, which spread what FNV leaves close together.
    let bytes = machine.bytes().chain(ip).chain(client.port().to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn chosen<'a>(machines: &[&'a str], client: SocketAddr) -> Option<&'a str> {
        choose(machines.iter().copied(), client).map(|place| machines[place])
    }

    proptest! {
        #[test]
        fn only_the_flows_of_a_machine_that_goes_move_and_they_come_back(
            machines in prop::collection::btree_set("[0-9a-f]{14}", 1..20),
            gone: prop::sample::Index,
            clients in prop::collection::vec((any::<u128>(), any::<u16>()), 1..100),
        ) {
            let all: Vec<&str> = machines.iter().map(String::as_str).collect();
            let gone = all[gone.index(all.len())];
            let rest: Vec<&str> = all.iter().copied().filter(|machine| *machine != gone).collect();
            let turned: Vec<&str> = all.iter().rev().copied().collect();
            for (ip, port) in clients {
                let client = SocketAddr::new(IpAddr::V6(ip.into()), port);
                let before = chosen(&all, client).unwrap();
                prop_assert_eq!(chosen(&turned, client), Some(before), "the order does not matter");
                if before != gone {
                    prop_assert_eq!(chosen(&rest, client), Some(before));
                }
            }
        }
    }

    #[test]
    fn clients_are_spread() {
        let machines: Vec<String> = (0..8).map(|number| format!("{number:014x}")).collect();
        let mut counts = [0; 8];
        for number in 0..8000_u32 {
            let client =
                SocketAddr::new(IpAddr::V4((0xc000_0200 + number / 100).into()), 40_000 + (number % 100) as u16);
            counts[choose(machines.iter().map(String::as_str), client).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(choose(BTreeSet::new().into_iter(), "192.0.2.1:1".parse().unwrap()), None);
    }
}
