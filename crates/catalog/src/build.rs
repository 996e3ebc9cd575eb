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
/// How many public ports one machine may have, ranges counted out. What a range says is kept once; each port costs a
/// line in a table here, and the edge one listening socket.
const MAX_PORTS_PER_MACHINE: usize = 10_240;

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
        let datagrams = assign_datagrams(&mut apps, &mut left_out);
        let passes = |app: &AppRoute| app.ports.get(&HTTPS_PORT).is_some_and(|it| it.handling == Handling::Passthrough);
        let passthrough = apps.iter().any(passes);
        let apps: HashMap<_, _> = apps.into_iter().map(|app| (app.name.clone(), Arc::new(app))).collect();
        Self { generation, apps, doors, datagrams, passthrough, quarantined: left_out.0.into_iter().collect() }
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
    let mut claims: BTreeMap<(Protocol, u16), Vec<Arc<Claim>>> = BTreeMap::new();
    for machine in &machines {
        for (port, claim) in claims_of(machine, left_out) {
            claims.entry(port).or_default().push(claim);
        }
    }
    let (org, network) = (machines[0].org.clone(), machines[0].network);
    let (mut ports, mut datagrams) = (BTreeMap::new(), BTreeMap::new());
    let mut last: Option<(Vec<Arc<Claim>>, Arc<PortRoute>)> = None;
    for ((protocol, port), claims) in claims {
        // The ports of a range are claimed by the same claims and share what is known of them.
        let same = last.as_ref().filter(|(of, _)| of.len() == claims.len() && of.iter().zip(&claims).all(is_same));
        let route = same.map_or_else(|| Arc::new(port_route(&claims)), |(_, route)| route.clone());
        last = Some((claims, route.clone()));
        match protocol {
            Protocol::Tcp => ports.insert(port, route),
            Protocol::Udp => datagrams.insert(port, route),
        };
    }
    AppRoute { name, org, network, machines, ports, datagrams }
}

fn is_same((one, other): (&Arc<Claim>, &Arc<Claim>)) -> bool {
    Arc::ptr_eq(one, other)
}

/// A machine's wish for one public port, or for a range.
struct Claim {
    handling: Handling,
    port: Arc<Port>,
    backend: Backend,
}

/// What a machine claims, each public port once.
fn claims_of(machine: &Arc<MachineRoute>, left_out: &mut Quarantine) -> BTreeMap<(Protocol, u16), Arc<Claim>> {
    let mut claims = BTreeMap::new();
    for service in &machine.services {
        for port in &service.ports {
            let Some(range) = numbers(port).filter(|_| service.internal_port != 0) else {
                left_out.machine(machine, "a service has no internal port, or a port range is empty".into());
                continue;
            };
            let (shared, plain) = range.partition::<Vec<u16>, _>(|port| [HTTP_PORT, HTTPS_PORT].contains(port));
            for numbers in shared.into_iter().map(|port| vec![port]).chain([plain]) {
                if let Err(reason) = add_claims(&mut claims, &numbers, machine, service, port) {
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

/// Claims ports that are handled in the same way. One that cannot be had does not keep the others from it.
fn add_claims(
    claims: &mut BTreeMap<(Protocol, u16), Arc<Claim>>,
    numbers: &[u16],
    machine: &Arc<MachineRoute>,
    service: &Service,
    port: &Port,
) -> Result<(), String> {
    let Some(first) = numbers.first() else { return Ok(()) };
    let handling = handling(service.protocol, *first, &port.handlers)?;
    let backend = Backend {
        machine: machine.clone(),
        internal_port: service.internal_port,
        h2: port.http_options.as_ref().is_some_and(|options| options.h2_backend),
        counts: service.concurrency.kind,
        soft_limit: service.concurrency.soft_limit.unwrap_or(DEFAULT_SOFT_LIMIT),
        hard_limit: service.concurrency.hard_limit.filter(|limit| *limit > 0),
    };
    let claim = Arc::new(Claim { handling, port: Arc::new(port.clone()), backend });
    let mut refused = Ok(());
    for number in numbers {
        if claims.contains_key(&(service.protocol, *number)) {
            refused = Err(format!("port {number} is given twice; the first of them counts"));
        } else if claims.len() >= MAX_PORTS_PER_MACHINE {
            return Err(format!("ports beyond the first {MAX_PORTS_PER_MACHINE} get no traffic"));
        } else {
            claims.insert((service.protocol, *number), claim.clone());
        }
    }
    refused
}

/// What a list of handlers means on a port, or why it means nothing there. Who asks to be told the client's address
/// (`proxy_proto`) is told it, whatever else is done.
fn handling(protocol: Protocol, number: u16, handlers: &[Handler]) -> Result<Handling, String> {
    let others: Vec<Handler> = handlers.iter().copied().filter(|it| *it != Handler::ProxyProto).collect();
    let told = others.len() < handlers.len();
    if protocol == Protocol::Udp {
        let plain = others.is_empty() && !told;
        return match number {
            HTTPS_PORT => Err("UDP port 443 carries HTTP/3 for all apps; choose another port".into()),
            _ if !plain => Err(format!("UDP port {number} can have no handlers")),
            _ => Ok(Handling::Datagrams),
        };
    }
    let handling = match others.as_slice() {
        [] if number == HTTPS_PORT => Handling::Passthrough,
        [] => Handling::Raw,
        [Handler::Http] => Handling::Http,
        [Handler::Tls] => Handling::Tls,
        [Handler::PgTls] => Handling::PgTls,
        [Handler::Tls, Handler::Http] | [Handler::Http, Handler::Tls] => Handling::TlsHttp,
        _ => return Err(format!("port {number} has handlers that do not go together")),
    };
    if told && matches!(handling, Handling::Http | Handling::TlsHttp) {
        return Err(format!("port {number}: proxy_proto does not go with http, whose header fields name the client"));
    }
    match (number, handling) {
        (HTTP_PORT, Handling::Http) => Ok(handling),
        (HTTP_PORT, _) => Err("port 80 is shared by all apps: give it the http handler".into()),
        (HTTPS_PORT, Handling::Http | Handling::PgTls) => {
            Err("port 443 is shared by all apps: give it the tls handler, or none if the app ends TLS itself".into())
        }
        _ => Ok(handling),
    }
}

fn port_route(claims: &[Arc<Claim>]) -> PortRoute {
    let newest = claims.iter().max_by(|a, b| a.backend.machine.version.cmp(&b.backend.machine.version));
    let newest = newest.expect("a port is only known by a claim");
    PortRoute {
        handling: newest.handling,
        options: newest.port.clone(),
        backends: claims.iter().map(|claim| claim.backend.clone()).collect(),
    }
}

/// Gives each public port to the apps that can share it, and takes it from the others.
fn assign_doors(apps: &mut [AppRoute], left_out: &mut Quarantine) -> BTreeMap<u16, Door> {
    let mut doors: BTreeMap<u16, Door> = BTreeMap::new();
    let wishes = wishes(apps, |app| &app.ports).into_iter();
    for (port, _, index) in wishes.filter(|(port, ..)| ![HTTP_PORT, HTTPS_PORT].contains(port)) {
        let app = &mut apps[index];
        let wanted = match app.ports[&port].handling {
            Handling::Http => Door::Http,
            Handling::TlsHttp | Handling::Tls | Handling::Passthrough => Door::Tls,
            Handling::PgTls => Door::PgTls,
            Handling::Raw | Handling::Datagrams => Door::Raw(app.name.clone()),
        };
        let door = doors.entry(port).or_insert_with(|| wanted.clone());
        if *door != wanted {
            app.ports.remove(&port);
            left_out.app(&app.name, taken(port, door));
        }
    }
    doors
}

/// Gives each UDP port to the app that has wished for it longest: a datagram does not name its app.
fn assign_datagrams(apps: &mut [AppRoute], left_out: &mut Quarantine) -> BTreeMap<u16, AppName> {
    let mut doors: BTreeMap<u16, AppName> = BTreeMap::new();
    for (port, _, index) in wishes(apps, |app| &app.datagrams) {
        let app = &mut apps[index];
        if *doors.entry(port).or_insert_with(|| app.name.clone()) != app.name {
            app.datagrams.remove(&port);
            left_out.app(&app.name, format!("UDP port {port} belongs to another app; choose another port"));
        }
    }
    doors
}

/// Every wish for a port, the longest held first.
fn wishes(
    apps: &[AppRoute],
    of: impl Fn(&AppRoute) -> &BTreeMap<u16, Arc<PortRoute>>,
) -> Vec<(u16, (Timestamp, AppName), usize)> {
    let mut wishes = Vec::new();
    for (index, app) in apps.iter().enumerate() {
        for (port, route) in of(app) {
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
        Door::PgTls => {
            format!("port {port} is used by another app for PostgreSQL; add the pg_tls handler, or choose another port")
        }
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(crate) mod tests;
