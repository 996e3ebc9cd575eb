//! Rows become a picture: a pure function.
//!
//! Every rule here is local: what breaks it is left out with a reason, the rest stands.
//! - The oldest machine of an app says which organization and network the app belongs to.
//! - The newest version of an app's configuration says how a public port is handled; every machine that has the port
//!   takes part.
//! - A public port that cannot be shared (or is wanted in two ways) stays with the app that has had it longest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};

use api::internal::NodeView;
use model::{
    AppName, Timestamp,
    machine::{Handler, Port, Protocol, Service},
};

use crate::{AppRoute, Backend, Door, HTTP_PORT, HTTPS_PORT, Handling, MachineRoute, PortRoute, Quarantined, Snapshot};

/// Above this many machines are in use, others are preferred, unless the configuration says otherwise.
const DEFAULT_SOFT_LIMIT: u32 = 20;
/// How many public ports one machine may have, ranges counted out.
const MAX_PORTS_PER_MACHINE: usize = 1024;

impl Snapshot {
    /// The picture that a node's view gives.
    pub fn of_view(view: &NodeView) -> Self {
        Self::of_rows(view.generation, view.machines.values().filter_map(|observed| MachineRoute::of(observed)))
    }

    /// The picture that these rows give. Their order does not matter.
    pub fn of_rows(generation: u64, rows: impl IntoIterator<Item = MachineRoute>) -> Self {
        let mut left_out = Quarantine::default();
        let mut apps: Vec<AppRoute> = machines_by_app(rows, &mut left_out)
            .into_iter()
            .map(|(name, machines)| app_route(name, machines, &mut left_out))
            .collect();
        let doors = assign_doors(&mut apps, &mut left_out);
        let apps: HashMap<_, _> = apps.into_iter().map(|app| (app.name.clone(), Arc::new(app))).collect();
        Self { generation, apps, doors, quarantined: left_out.0.into_iter().collect() }
    }
}

/// What is left out, in a fixed order.
#[derive(Default)]
struct Quarantine(BTreeSet<Quarantined>);

impl Quarantine {
    fn machine(&mut self, machine: &MachineRoute, reason: String) {
        self.0.insert(Quarantined { app: Some(machine.app.clone()), machine: Some(machine.id.clone()), reason });
    }

    fn app(&mut self, app: &AppName, reason: String) {
        self.0.insert(Quarantined { app: Some(app.clone()), machine: None, reason });
    }
}

/// The usable machines of each app, oldest first.
fn machines_by_app(
    rows: impl IntoIterator<Item = MachineRoute>,
    left_out: &mut Quarantine,
) -> BTreeMap<AppName, Vec<Arc<MachineRoute>>> {
    let mut apps: BTreeMap<AppName, Vec<Arc<MachineRoute>>> = BTreeMap::new();
    for row in rows {
        match row.defect() {
            Some(defect) => left_out.machine(&row, defect),
            None => apps.entry(row.app.clone()).or_default().push(Arc::new(row)),
        }
    }
    for machines in apps.values_mut() {
        machines.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let (org, network) = (machines[0].org.clone(), machines[0].network);
        machines.retain(|machine| {
            let belongs = machine.org == org && machine.network == network;
            if !belongs {
                left_out.machine(machine, format!("its app belongs to organization {org} and another network"));
            }
            belongs
        });
    }
    apps
}

fn app_route(name: AppName, machines: Vec<Arc<MachineRoute>>, left_out: &mut Quarantine) -> AppRoute {
    let mut claims: BTreeMap<u16, Vec<Claim>> = BTreeMap::new();
    for machine in &machines {
        for (port, claim) in claims_of(machine, left_out) {
            claims.entry(port).or_default().push(claim);
        }
    }
    let ports = claims.into_iter().map(|(port, claims)| (port, port_route(claims))).collect();
    AppRoute { org: machines[0].org.clone(), network: machines[0].network, name, machines, ports }
}

/// A machine's wish for one public port.
struct Claim {
    handling: Handling,
    port: Arc<Port>,
    backend: Backend,
}

/// What a machine claims, each public port once.
fn claims_of(machine: &Arc<MachineRoute>, left_out: &mut Quarantine) -> BTreeMap<u16, Claim> {
    let mut claims = BTreeMap::new();
    for service in &machine.services {
        if service.protocol == Protocol::Udp {
            left_out.machine(machine, "its UDP services get no traffic: this version carries TCP only".into());
            continue;
        }
        for port in &service.ports {
            let range = match numbers(port).filter(|_| service.internal_port != 0) {
                Some(range) => range,
                None => {
                    left_out.machine(machine, "a service has no internal port, or a port range is empty".into());
                    continue;
                }
            };
            let port = Arc::new(port.clone());
            for number in range.take(MAX_PORTS_PER_MACHINE + 1) {
                if let Err(reason) = add_claim(&mut claims, number, machine, service, &port) {
                    left_out.machine(machine, reason);
                }
            }
        }
    }
    claims
}

fn numbers(port: &Port) -> Option<RangeInclusive<u16>> {
    let range = match (port.port, port.start_port, port.end_port) {
        (Some(port), _, _) => port..=port,
        (None, Some(start), Some(end)) => start..=end,
        (None, Some(start), None) => start..=start,
        (None, None, _) => return None,
    };
    (!range.is_empty() && *range.start() != 0).then_some(range)
}

fn add_claim(
    claims: &mut BTreeMap<u16, Claim>,
    number: u16,
    machine: &Arc<MachineRoute>,
    service: &Service,
    port: &Arc<Port>,
) -> Result<(), String> {
    let handling = handling(number, &port.handlers)?;
    if claims.len() >= MAX_PORTS_PER_MACHINE {
        return Err(format!("ports beyond the first {MAX_PORTS_PER_MACHINE} get no traffic"));
    }
    if claims.contains_key(&number) {
        return Err(format!("port {number} is given twice; the first of them counts"));
    }
    let backend = Backend {
        machine: machine.clone(),
        internal_port: service.internal_port,
        h2: port.http_options.as_ref().is_some_and(|options| options.h2_backend),
        counts: service.concurrency.kind,
        soft_limit: service.concurrency.soft_limit.unwrap_or(DEFAULT_SOFT_LIMIT),
        hard_limit: service.concurrency.hard_limit.filter(|limit| *limit > 0),
    };
    claims.insert(number, Claim { handling, port: port.clone(), backend });
    Ok(())
}

/// What a list of handlers means on a port, or why it means nothing there.
fn handling(number: u16, handlers: &[Handler]) -> Result<Handling, String> {
    let handling = match handlers {
        [] => Handling::Raw,
        [Handler::Http] => Handling::Http,
        [Handler::Tls] => Handling::Tls,
        [Handler::Tls, Handler::Http] | [Handler::Http, Handler::Tls] => Handling::TlsHttp,
        _ => return Err(format!("port {number} has handlers that this version does not carry")),
    };
    match (number, handling) {
        (HTTP_PORT, Handling::Http) | (HTTPS_PORT, Handling::TlsHttp | Handling::Tls) => Ok(handling),
        (HTTP_PORT, _) => Err("port 80 is shared by all apps: give it the http handler".into()),
        (HTTPS_PORT, _) => Err("port 443 is shared by all apps: give it the tls handler".into()),
        _ => Ok(handling),
    }
}

fn port_route(claims: Vec<Claim>) -> PortRoute {
    let newest = claims.iter().max_by(|a, b| a.backend.machine.version.cmp(&b.backend.machine.version));
    let newest = newest.expect("a port is only known by a claim");
    PortRoute {
        handling: newest.handling,
        options: newest.port.clone(),
        backends: claims.into_iter().map(|claim| claim.backend).collect(),
    }
}

/// Gives each public port to the apps that can share it, and takes it from the others.
fn assign_doors(apps: &mut [AppRoute], left_out: &mut Quarantine) -> BTreeMap<u16, Door> {
    let mut doors: BTreeMap<u16, Door> = BTreeMap::new();
    for (port, _, index) in wishes(apps) {
        let app = &mut apps[index];
        let wanted = match app.ports[&port].handling {
            Handling::Http => Door::Http,
            Handling::TlsHttp | Handling::Tls => Door::Tls,
            Handling::Raw => Door::Raw(app.name.clone()),
        };
        let door = doors.entry(port).or_insert_with(|| wanted.clone());
        if *door != wanted {
            app.ports.remove(&port);
            left_out.app(&app.name, taken(port, door));
        }
    }
    doors
}

/// Every wish for a port that is not always open, the longest held first.
fn wishes(apps: &[AppRoute]) -> Vec<(u16, (Timestamp, AppName), usize)> {
    let mut wishes = Vec::new();
    for (index, app) in apps.iter().enumerate() {
        for (port, route) in app.ports.iter().filter(|(port, _)| ![HTTP_PORT, HTTPS_PORT].contains(port)) {
            let since = route.backends.iter().map(|backend| backend.machine.created_at).min().unwrap_or_default();
            wishes.push((*port, (since, app.name.clone()), index));
        }
    }
    wishes.sort();
    wishes
}

fn taken(port: u16, door: &Door) -> String {
    match door {
        Door::Raw(_) => {
            format!("port {port} belongs to another app; choose another port, or add the tls handler to both")
        }
        Door::Http => format!("port {port} is used by another app for plain HTTP; choose another port"),
        Door::Tls => format!("port {port} is used by another app for TLS; add the tls handler, or choose another port"),
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(crate) mod tests;
