//! Pictures joined one after the other come to the same as the last one joined alone, and nothing under way is lost.

use std::net::Ipv4Addr;

use catalog::{Publisher, RowChange};
use model::{
    InstanceId, NetworkId,
    machine::{Handler, MachineState, Port, Service},
};
use proptest::prelude::*;

use super::*;
use crate::Backhaul;

fn row(app: &str, number: u8, standing: Standing) -> MachineRoute {
    let id = MachineId::from_random([number; 7]);
    let network = NetworkId(7);
    let port = |port| Port { port: Some(port), handlers: vec![Handler::Http], ..Port::default() };
    let udp = Service {
        internal_port: 53,
        protocol: model::machine::Protocol::Udp,
        ports: vec![Port { port: Some(53), ..Port::default() }],
        ..Service::default()
    };
    let web = Service {
        internal_port: 8080,
        ports: vec![port(80), port(8000 + u16::from(number % 2))],
        ..Service::default()
    };
    MachineRoute {
        private: network.machine_address(&id),
        id,
        app: app.parse().unwrap(),
        org: "personal".parse().unwrap(),
        network,
        region: ["here", "there"][usize::from(number % 2)].parse().unwrap(),
        version: InstanceId::new(1, [number; 10]),
        state: MachineState::Started,
        standing,
        host_local: Ipv4Addr::new(10, 0, 0, number),
        worker: None,
        metadata: Arc::default(),
        services: Arc::new(vec![web, udp]),
        statics: Vec::new(),
        created_at: Timestamp(1),
    }
}

fn registry() -> Registry {
    Registry::new(Arc::new(Distances::new("here".parse().unwrap())), Arc::new(Hops::new(&Backhaul::default())))
}

fn put(row: MachineRoute) -> RowChange {
    RowChange::Put(Box::new(row))
}

/// Everything that a request could see, in an order.
fn seen(routing: &Routing) -> Vec<String> {
    let candidates = |kind: &str, port: u16, ready: &[Candidate]| -> Vec<String> {
        let line = |it: &Candidate| {
            format!(
                "{kind} {port}: {} {} {} {}",
                it.route.id,
                it.distance.place(),
                it.target.address,
                it.target.machine.is_open()
            )
        };
        ready.iter().map(line).collect()
    };
    let mut lines = Vec::new();
    for app in routing.apps() {
        lines.push(format!("{}: {}", app.route.name, app.machines_in_words()));
        let tcp = app.ready.iter().flat_map(|(port, ready)| candidates("tcp", *port, ready));
        let udp = app.ready_for_datagrams.iter().flat_map(|(port, ready)| candidates("udp", *port, ready));
        lines.extend(tcp.chain(udp).map(|line| format!("{} {line}", app.route.name)));
    }
    lines.extend(routing.machines.iter().map(|machine| format!("{} {}", machine.id, machine.is_open())));
    lines.sort();
    lines
}

fn change() -> impl Strategy<Value = RowChange> {
    let standing = prop::sample::select(vec![
        Standing::Ready,
        Standing::Ready,
        Standing::Coming,
        Standing::Asleep,
        Standing::Away,
    ]);
    (prop::sample::select(vec!["a", "b", "c"]), 1..6_u8, standing, prop::bool::weighted(0.75)).prop_map(
        |(app, number, standing, stays)| match row(app, number, standing) {
            row if stays => put(row),
            row => RowChange::Remove(row.id),
        },
    )
}

proptest! {
    #[test]
    fn pictures_joined_one_by_one_come_to_the_last_joined_alone(
        rounds in prop::collection::vec(prop::collection::vec(change(), 0..4), 1..12),
    ) {
        let (catalog, mut followed) = (Publisher::in_memory(), registry());
        for (generation, changes) in rounds.into_iter().enumerate() {
            catalog.change(generation as u64 + 1, changes);
            let snapshot = catalog.reader().load();
            let alone = registry().join(snapshot.clone());
            prop_assert_eq!(seen(&followed.join(snapshot)), seen(&alone));
        }
    }
}

#[test]
fn a_machine_with_something_under_way_is_known_until_that_has_ended() {
    let (catalog, mut registry) = (Publisher::in_memory(), registry());
    catalog.change(1, [put(row("shop", 1, Standing::Ready))]);
    let routing = registry.join(catalog.reader().load());
    let id = MachineId::from_random([1; 7]);
    let lease = routing.app("shop").unwrap().ready(80)[0].target.lease(None).unwrap();
    catalog.change(2, [RowChange::Remove(id.clone())]);
    let routing = registry.join(catalog.reader().load());
    assert!(routing.app("shop").is_none());
    assert!(!routing.machine(&id).unwrap().is_open());
    catalog.change(3, [put(row("blog", 2, Standing::Ready))]);
    assert!(registry.join(catalog.reader().load()).machine(&id).is_some());
    drop(lease);
    catalog.change(4, []);
    assert!(registry.join(catalog.reader().load()).machine(&id).is_none());
}

#[test]
fn what_is_under_way_counts_though_the_machine_was_closed_meanwhile() {
    let (catalog, mut registry) = (Publisher::in_memory(), registry());
    catalog.change(1, [put(row("shop", 1, Standing::Ready))]);
    let routing = registry.join(catalog.reader().load());
    let lease = routing.app("shop").unwrap().ready(80)[0].target.lease(None).unwrap();
    drop(routing);
    for (generation, standing) in [(2, Standing::Coming), (3, Standing::Ready)] {
        catalog.change(generation, [put(row("shop", 1, standing))]);
        registry.join(catalog.reader().load());
    }
    let routing = registry.join(catalog.reader().load());
    assert_eq!(routing.app("shop").unwrap().ready(80)[0].target.load(), 1);
    drop(lease);
}

#[test]
fn only_a_machine_that_becomes_ready_while_the_edge_looks_is_warmed_up() {
    let (catalog, mut registry) = (Publisher::in_memory(), registry());
    catalog.change(1, [put(row("shop", 1, Standing::Ready))]);
    registry.join(catalog.reader().load());
    catalog.change(2, [put(row("shop", 2, Standing::Ready))]);
    let routing = registry.join(catalog.reader().load());
    let shares = [1, 2].map(|number| routing.machine(&MachineId::from_random([number; 7])).unwrap().share());
    assert!(shares[0] == crate::warmup::WHOLE && shares[1] < shares[0]);
}
