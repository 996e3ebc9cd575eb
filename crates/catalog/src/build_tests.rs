//! How rows become one picture, and what is left out of it.

use std::collections::BTreeMap;

use model::{
    Timestamp,
    machine::{Handler, HttpOptions, MachineState, Port, Protocol, ProxyProtoVersion, Service},
};
use proptest::prelude::*;

use super::*;
use crate::{HTTP_PORT, Standing, offer::MAX_PORTS_PER_MACHINE};

/// A ready machine of an app, made at this moment, that offers HTTP on the shared ports.
pub(crate) fn row(app: &str, made_at: u64) -> MachineRoute {
    let id = MachineId::from_random(made_at.to_be_bytes()[1..].try_into().unwrap());
    let network = model::NetworkId(7);
    MachineRoute {
        private: network.machine_address(&id),
        id,
        app: app.parse().unwrap(),
        org: "personal".parse().unwrap(),
        network,
        region: "local".parse().unwrap(),
        version: model::InstanceId::new(made_at, [0; 10]),
        state: MachineState::Started,
        standing: Standing::Ready,
        host_local: [10, 0, 0, 2].into(),
        worker: None,
        metadata: Arc::default(),
        services: offers(service(8080, &[(80, &[Handler::Http]), (443, &[Handler::Tls, Handler::Http])])),
        statics: Vec::new(),
        created_at: Timestamp(made_at),
    }
}

fn offers(service: Service) -> Arc<Vec<Service>> {
    Arc::new(vec![service])
}

fn service(internal_port: u16, ports: &[(u16, &[Handler])]) -> Service {
    let port = |(port, handlers): &(u16, &[Handler])| Port {
        port: Some(*port),
        handlers: handlers.to_vec(),
        ..Port::default()
    };
    Service { internal_port, ports: ports.iter().map(port).collect(), ..Service::default() }
}

fn offering(app: &str, made_at: u64, port: u16, handlers: &[Handler]) -> MachineRoute {
    MachineRoute { services: offers(service(9000, &[(port, handlers)])), ..row(app, made_at) }
}

fn reasons(snapshot: &Snapshot) -> Vec<String> {
    snapshot.quarantined().into_iter().map(|left_out| left_out.reason).collect()
}

/// Whether two pictures say the same.
pub(crate) fn same(one: &Snapshot, other: &Snapshot) -> bool {
    same_routes(one, other) && one.quarantined() == other.quarantined()
}

/// The same, whatever was left out of them.
pub(crate) fn same_routes(one: &Snapshot, other: &Snapshot) -> bool {
    let apps = |it: &Snapshot| it.apps.iter().map(|app| (app.name.clone(), app.clone())).collect::<BTreeMap<_, _>>();
    let rest = |it: &Snapshot| (it.doors.clone(), it.datagrams.clone(), it.passthrough);
    apps(one) == apps(other) && rest(one) == rest(other)
}

fn edit(row: &mut MachineRoute, change: impl FnOnce(&mut Service)) {
    change(&mut Arc::make_mut(&mut row.services)[0]);
}

#[test]
fn every_machine_with_a_port_stands_behind_it_and_the_newest_version_says_how() {
    let old = row("shop", 1);
    let mut new = row("shop", 2);
    edit(&mut new, |service| {
        service.ports[0].force_https = true;
        service.ports[1].http_options = Some(HttpOptions { h2_backend: true, ..HttpOptions::default() });
    });
    let snapshot = Snapshot::of_rows(3, [new, old]);
    let shop = snapshot.app("shop").unwrap();
    assert!(shop.ports[&80].options.force_https);
    assert_eq!(shop.ports[&443].handling, Handling::TlsHttp);
    assert_eq!(shop.ports[&443].backends.iter().map(|backend| backend.h2).collect::<Vec<_>>(), [false, true]);
    assert_eq!(shop.ports[&80].backends[0].soft_limit, 20);
    assert!(snapshot.doors.is_empty() && snapshot.quarantined().is_empty());
}

#[test]
fn of_two_apps_that_want_one_raw_port_the_older_keeps_it() {
    let rows = [offering("late", 2, 5432, &[]), offering("early", 1, 5432, &[]), row("late", 3)];
    let snapshot = Snapshot::of_rows(1, rows);
    assert_eq!(snapshot.doors[&5432], Door::Raw("early".parse().unwrap()));
    let late = snapshot.app("late").unwrap();
    assert_eq!(late.ports.keys().copied().collect::<Vec<_>>(), [80, 443], "the rest of the app stands");
    assert_eq!(snapshot.quarantined()[0].app.as_ref().unwrap().as_str(), "late");
}

#[test]
fn apps_share_a_port_that_names_its_app() {
    let rows = [offering("a", 1, 5433, &[Handler::Tls]), offering("b", 2, 5433, &[Handler::Tls, Handler::Http])];
    let snapshot = Snapshot::of_rows(1, rows);
    assert_eq!(snapshot.doors[&5433], Door::Tls);
    assert!(snapshot.apps.iter().all(|app| app.ports.contains_key(&5433)));
}

#[test]
fn whoever_ends_tls_himself_gets_the_shared_port_by_server_name() {
    let snapshot = Snapshot::of_rows(1, [offering("own", 1, 443, &[]), row("shop", 2)]);
    assert!(snapshot.passthrough && snapshot.doors.is_empty());
    assert_eq!(snapshot.app("own").unwrap().ports[&443].handling, Handling::Passthrough);
    assert!(!Snapshot::of_rows(1, [row("shop", 2)]).passthrough);
}

#[test]
fn proxy_proto_goes_with_whatever_passes_bytes() {
    for (port, handlers, handling) in [
        (25, &[Handler::ProxyProto][..], Handling::Raw),
        (443, &[Handler::ProxyProto], Handling::Passthrough),
        (993, &[Handler::ProxyProto, Handler::Tls], Handling::Tls),
        (5432, &[Handler::PgTls, Handler::ProxyProto], Handling::PgTls),
    ] {
        let snapshot = Snapshot::of_rows(1, [offering("a", 1, port, handlers)]);
        let route = &snapshot.app("a").unwrap().ports[&port];
        assert_eq!((route.handling, route.proxy_header()), (handling, Some(ProxyProtoVersion::V1)));
    }
}

#[test]
fn udp_and_tcp_do_not_take_each_others_ports() {
    let udp = |app, made_at, port, handlers| {
        let mut row = offering(app, made_at, port, handlers);
        edit(&mut row, |service| service.protocol = Protocol::Udp);
        row
    };
    let rows = [udp("dns", 1, 53, &[]), offering("web", 2, 53, &[]), udp("late", 3, 53, &[])];
    let snapshot = Snapshot::of_rows(1, rows);
    assert_eq!(snapshot.datagrams[&53].as_str(), "dns");
    assert_eq!(snapshot.doors[&53], Door::Raw("web".parse().unwrap()));
    assert!(snapshot.app("late").unwrap().datagrams.is_empty());
    assert!(reasons(&snapshot)[0].contains("UDP port 53 belongs to another app"));
    for (port, handlers) in [(443, &[][..]), (53, &[Handler::Tls])] {
        assert_eq!(Snapshot::of_rows(1, [udp("a", 1, port, handlers)]).quarantined().len(), 1);
    }
}

#[test]
fn what_a_port_cannot_do_is_said() {
    for (port, handlers) in [
        (80, &[][..]),
        (443, &[Handler::Http]),
        (443, &[Handler::PgTls]),
        (5432, &[Handler::PgTls, Handler::Tls]),
        (25, &[Handler::ProxyProto, Handler::Http]),
        (80, &[Handler::Tls]),
    ] {
        let snapshot = Snapshot::of_rows(1, [offering("a", 1, port, handlers)]);
        assert!(snapshot.app("a").unwrap().ports.is_empty(), "{port} {handlers:?}");
        assert_eq!(snapshot.quarantined().len(), 1, "{port} {handlers:?}");
    }
}

#[test]
fn an_app_belongs_to_the_organization_of_its_oldest_machine() {
    let intruder = MachineRoute { org: "other".parse().unwrap(), ..row("shop", 2) };
    let snapshot = Snapshot::of_rows(1, [intruder, row("shop", 1)]);
    assert_eq!(snapshot.app("shop").unwrap().machines.len(), 1);
    assert!(reasons(&snapshot)[0].contains("organization personal"));
}

#[test]
fn an_address_that_is_no_machines_takes_only_its_row() {
    let wrong_v4 = MachineRoute { host_local: [0, 0, 0, 0].into(), ..row("a", 1) };
    let wrong_v6 = MachineRoute { private: "fd00::1".parse().unwrap(), ..row("b", 2) };
    let snapshot = Snapshot::of_rows(1, [wrong_v4, wrong_v6, row("c", 3)]);
    assert_eq!(snapshot.apps.len(), 1);
    assert_eq!(snapshot.quarantined().len(), 2);
}

#[test]
fn a_range_counts_port_by_port_up_to_a_bound() {
    let mut wide = row("a", 1);
    let range = |start, end| Port { start_port: Some(start), end_port: Some(end), ..Port::default() };
    edit(&mut wide, |service| service.ports = vec![range(6000, 6003), range(9, 8), range(10000, 65535)]);
    let snapshot = Snapshot::of_rows(1, [wide]);
    assert_eq!(snapshot.doors.len(), MAX_PORTS_PER_MACHINE);
    assert!((6000..=6003).all(|port| snapshot.doors.contains_key(&port)));
    let ports = &snapshot.app("a").unwrap().ports;
    assert!(Arc::ptr_eq(&ports[&10_000], &ports[&10_100]), "a range is kept once");
    assert!(!Arc::ptr_eq(&ports[&6003], &ports[&10_000]));
    assert_eq!(snapshot.quarantined().len(), 2);
}

pub(crate) fn any_row() -> impl Strategy<Value = MachineRoute> {
    let handlers = prop::collection::vec(
        prop::sample::select(vec![Handler::Http, Handler::Tls, Handler::PgTls, Handler::ProxyProto]),
        0..3,
    );
    let ports = prop::collection::vec((prop::sample::select(vec![0_u16, 80, 443, 5432, 5433]), handlers), 0..4);
    (prop::sample::select(vec!["a", "b", "c"]), 1..40_u64, ports, 0..3_u16, prop::bool::weighted(0.9)).prop_map(
        |(app, made_at, ports, internal_port, own)| {
            let ports: Vec<(u16, &[Handler])> = ports.iter().map(|(port, list)| (*port, list.as_slice())).collect();
            let org = if own { "personal" } else { "other" };
            MachineRoute {
                services: offers(service(internal_port, &ports)),
                org: org.parse().unwrap(),
                ..row(app, made_at)
            }
        },
    )
}

fn by_id(rows: Vec<MachineRoute>) -> Vec<MachineRoute> {
    rows.into_iter().map(|row| (row.id.clone(), row)).collect::<BTreeMap<_, _>>().into_values().collect()
}

proptest! {
    #[test]
    fn the_order_of_rows_does_not_matter(rows in prop::collection::vec(any_row(), 0..12), seed: u64) {
        let rows = by_id(rows);
        let mut shuffled = rows.clone();
        if !shuffled.is_empty() {
            let middle = seed as usize % shuffled.len();
            shuffled.rotate_left(middle);
        }
        let (one, other) = (Snapshot::of_rows(1, rows), Snapshot::of_rows(1, shuffled));
        prop_assert!(same(&one, &other));
    }

    #[test]
    fn what_is_offered_has_a_door_and_no_row_is_lost_unsaid(rows in prop::collection::vec(any_row(), 0..12)) {
        let rows = by_id(rows);
        let snapshot = Snapshot::of_rows(1, rows.clone());
        for app in snapshot.apps.iter() {
            for (port, route) in &app.ports {
                let door = match *port {
                    HTTP_PORT => &Door::Http,
                    HTTPS_PORT => &Door::Tls,
                    other => &snapshot.doors[&other],
                };
                let fits = match route.handling {
                    Handling::Http => *door == Door::Http,
                    Handling::Tls | Handling::TlsHttp | Handling::Passthrough => *door == Door::Tls,
                    Handling::PgTls => *door == Door::PgTls,
                    Handling::Datagrams => false,
                    Handling::Raw => *door == Door::Raw(app.name.clone()),
                };
                prop_assert!(fits, "{port}: {:?} behind {door:?}", route.handling);
                prop_assert!(!route.backends.is_empty());
            }
        }
        let told: BTreeSet<_> = snapshot.quarantined().into_iter().filter_map(|left_out| left_out.machine).collect();
        for row in rows {
            let kept = snapshot.machines().any(|machine| **machine == row);
            prop_assert!(kept || told.contains(&row.id));
        }
    }

    #[test]
    fn however_a_picture_came_about_it_is_the_one_its_rows_give(
        changes in prop::collection::vec((any_row(), prop::bool::weighted(0.7), prop::bool::weighted(0.4)), 0..40),
    ) {
        let (mut builder, mut rows) = (Builder::default(), BTreeMap::new());
        let mut kept = Vec::new();
        for (row, stays, shown) in changes {
            if stays {
                rows.insert(row.id.clone(), row.clone());
                builder.put(row);
            } else {
                rows.remove(&row.id);
                builder.remove(&row.id);
            }
            if shown {
                let picture = builder.publish(1);
                let whole = Snapshot::of_rows(1, rows.values().cloned());
                prop_assert!(same(&picture, &whole), "{picture:#?} is not {whole:#?}");
                kept.push((picture, whole));
            }
        }
        for (picture, whole) in &kept {
            prop_assert!(same(picture, whole), "an older picture has changed");
        }
    }

    #[test]
    fn what_a_row_does_not_touch_is_shared(rows in prop::collection::vec(any_row(), 0..12), one in any_row()) {
        let mut builder = Builder::default();
        rows.into_iter().for_each(|row| builder.put(row));
        let before = builder.publish(1);
        let doors = before.doors.clone();
        let name = one.app.clone();
        let came_from = builder.rows.get(one.id.as_str()).map(|row| row.app.clone());
        builder.put(one);
        let now = builder.publish(2);
        for change in now.apps.changes(&before.apps) {
            let (crate::Change::Came(app) | crate::Change::Became { now: app, .. } | crate::Change::Went(app)) = change;
            let own = app.name == name || Some(&app.name) == came_from.as_ref();
            prop_assert!(own || doors != now.doors, "{} has nothing to do with it", app.name);
        }
    }
}

#[test]
fn machines_that_offer_the_same_keep_it_once() {
    let snapshot = Snapshot::of_rows(1, [row("shop", 1), row("shop", 2), offering("shop", 3, 5432, &[])]);
    let machines = &snapshot.app("shop").unwrap().machines;
    assert!(Arc::ptr_eq(&machines[0].services, &machines[1].services));
    assert!(Arc::ptr_eq(&machines[0].metadata, &machines[2].metadata));
    assert!(!Arc::ptr_eq(&machines[0].services, &machines[2].services));
}
