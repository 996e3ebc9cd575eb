//! What `.internal` holds: a pure function of the node's view and the asker's network.
//!
//! | name | AAAA | TXT |
//! |---|---|---|
//! | `<app>.internal`, `global.<app>.internal` | its started machines | |
//! | `<region>.<app>.internal` | those of a region | |
//! | `<group>.process.<app>.internal` | those of a process group | |
//! | `<id>.vm.<app>.internal` | one machine | |
//! | `vms.<app>.internal` | | `id region` of each, joined by commas |
//! | `regions.<app>.internal` | | regions, joined by commas |
//! | `_apps.internal` | | apps, joined by commas |
//! | `_instances.internal` | | `instance=…,app=…,ip=…,region=…` of each, joined by semicolons |

use std::{collections::BTreeSet, net::Ipv6Addr};

use api::internal::NodeView;
use model::{
    NetworkId,
    machine::{MachineState, Observed},
};

/// What there is to say about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses; none is possible.
    Addresses(Vec<Ipv6Addr>),
    /// One text.
    Text(String),
    /// There is no such name.
    NoSuchName,
    /// The name lies outside `.internal`.
    NotInternal,
}

/// Looks a name up as a machine of `network` sees it. `name` is in lower case, without a last dot.
pub fn lookup(view: &NodeView, network: NetworkId, name: &str) -> Answer {
    let Some(labels) = internal_labels(name) else { return Answer::NotInternal };
    let started = || {
        let all = view.machines.values().map(AsRef::as_ref);
        all.filter(move |machine| machine.spec.network == network && machine.state == MachineState::Started)
    };
    let of_app = |app: &str| -> Option<Vec<&Observed>> {
        let known =
            view.machines.values().any(|machine| machine.spec.network == network && machine.spec.app.as_str() == app);
        known.then(|| started().filter(|machine| machine.spec.app.as_str() == app).collect())
    };
    match labels.as_slice() {
        ["_apps"] => Answer::Text(joined(started().map(|machine| machine.spec.app.to_string()), ",")),
        ["_instances"] => Answer::Text(joined(started().map(instance), ";")),
        ["vms", app] => text(of_app(app), |machine| format!("{} {}", machine.spec.id, machine.spec.region)),
        ["regions", app] => text(of_app(app), |machine| machine.spec.region.to_string()),
        [app] | ["global", app] => addresses(of_app(app), |_| true),
        [id, "vm", app] => addresses(of_app(app), |machine| machine.spec.id.as_str() == *id),
        [group, "process", app] => addresses(of_app(app), |machine| process_group(machine) == *group),
        [region, app] => addresses(of_app(app), |machine| machine.spec.region.as_str() == *region),
        _ => Answer::NoSuchName,
    }
}

fn internal_labels(name: &str) -> Option<Vec<&str>> {
    let mut labels: Vec<&str> = name.split('.').collect();
    (labels.pop() == Some("internal")).then_some(labels)
}

fn addresses(machines: Option<Vec<&Observed>>, wanted: impl Fn(&Observed) -> bool) -> Answer {
    let Some(machines) = machines else { return Answer::NoSuchName };
    let wanted = machines.into_iter().filter(|machine| wanted(machine));
    Answer::Addresses(wanted.map(|machine| machine.addresses.private).collect())
}

fn text(machines: Option<Vec<&Observed>>, item: impl Fn(&Observed) -> String) -> Answer {
    machines.map_or(Answer::NoSuchName, |machines| Answer::Text(joined(machines.into_iter().map(item), ",")))
}

fn joined(items: impl Iterator<Item = String>, separator: &str) -> String {
    items.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(separator)
}

fn instance(machine: &Observed) -> String {
    let spec = &machine.spec;
    format!("instance={},app={},ip={},region={}", spec.id, spec.app, machine.addresses.private, spec.region)
}

fn process_group(machine: &Observed) -> &str {
    machine.spec.config.metadata.get("fly_process_group").map_or("app", String::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::{
        Addresses, Digest, ImageSpec, InstanceId, MachineId, Region, Timestamp,
        machine::{MachineConfig, MachineSpec, SealedSecrets},
    };

    use super::*;

    const OURS: NetworkId = NetworkId(7);

    fn machine(number: u8, app: &str, network: NetworkId, state: MachineState) -> Observed {
        let id = MachineId::from_random([number; 7]);
        let private = network.machine_address(&id);
        Observed {
            spec: MachineSpec {
                id,
                name: "test".into(),
                org: "personal".parse().unwrap(),
                app: app.parse().unwrap(),
                network,
                region: "ams".parse::<Region>().unwrap(),
                version: InstanceId::new(1, [0; 10]),
                image: ImageSpec { reference: "test".into(), digest: Digest::sha256([0; 32]) },
                config: MachineConfig::default(),
                secrets: SealedSecrets::default(),
            },
            state,
            addresses: Addresses { private, host_local: [10, 0, 0, number].into() },
            cordoned: false,
            checks: Vec::new(),
            events: Vec::new(),
            last_exit: None,
            reason: None,
            isolation: None,
            created_at: Timestamp(0),
            updated_at: Timestamp(0),
        }
    }

    fn view() -> NodeView {
        let machines = [
            machine(1, "web", OURS, MachineState::Started),
            machine(2, "web", OURS, MachineState::Stopped),
            machine(3, "db", OURS, MachineState::Started),
            machine(4, "secret", NetworkId(8), MachineState::Started),
        ];
        NodeView { generation: 1, machines: machines.into_iter().map(|m| (m.spec.id.clone(), Arc::new(m))).collect() }
    }

    fn address(number: u8) -> Ipv6Addr {
        OURS.machine_address(&MachineId::from_random([number; 7]))
    }

    #[test]
    fn an_app_is_its_started_machines() {
        for name in ["web.internal", "global.web.internal", "ams.web.internal", "app.process.web.internal"] {
            assert_eq!(lookup(&view(), OURS, name), Answer::Addresses(vec![address(1)]), "{name}");
        }
        assert_eq!(lookup(&view(), OURS, "01010101010101.vm.web.internal"), Answer::Addresses(vec![address(1)]));
        assert_eq!(lookup(&view(), OURS, "02020202020202.vm.web.internal"), Answer::Addresses(vec![]));
        assert_eq!(lookup(&view(), OURS, "fra.web.internal"), Answer::Addresses(vec![]));
    }

    #[test]
    fn another_network_does_not_exist() {
        assert_eq!(lookup(&view(), OURS, "secret.internal"), Answer::NoSuchName);
        assert_eq!(lookup(&view(), OURS, "04040404040404.vm.secret.internal"), Answer::NoSuchName);
        assert_eq!(lookup(&view(), OURS, "_apps.internal"), Answer::Text("db,web".into()));
    }

    #[test]
    fn texts_list_what_runs() {
        assert_eq!(lookup(&view(), OURS, "vms.web.internal"), Answer::Text("01010101010101 ams".into()));
        assert_eq!(lookup(&view(), OURS, "regions.web.internal"), Answer::Text("ams".into()));
        let Answer::Text(instances) = lookup(&view(), OURS, "_instances.internal") else { panic!("no text") };
        assert_eq!(instances.split(';').count(), 2);
    }

    #[test]
    fn what_is_not_internal_is_left_to_others() {
        for name in ["example.com", "internal.example.com", ""] {
            assert_eq!(lookup(&view(), OURS, name), Answer::NotInternal, "{name}");
        }
        assert_eq!(lookup(&view(), OURS, "internal"), Answer::NoSuchName);
        assert_eq!(lookup(&view(), OURS, "a.b.c.d.internal"), Answer::NoSuchName);
    }
}
