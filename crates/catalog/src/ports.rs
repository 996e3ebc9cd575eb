//! Who gets a public port. An app that has wished for a port longest says what the port is for; others share it if they
//! want it for the same, and do without it otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use model::{AppName, Timestamp};

use crate::{AppRoute, Door, HTTP_PORT, HTTPS_PORT, Handling, PortRoute};

/// The wishes for public ports of one protocol, and what came of them. `D` is what a port can be for.
#[derive(Debug)]
pub(crate) struct PublicPorts<D> {
    wishes: BTreeMap<u16, BTreeMap<Holder, D>>,
    /// What each port is for.
    pub doors: Arc<BTreeMap<u16, D>>,
}

/// Who wishes, and since when: the longest comes first.
type Holder = (Timestamp, AppName);
/// What an app wishes: since when, and what for.
pub(crate) type Wishes<D> = BTreeMap<u16, (Timestamp, D)>;

impl<D> Default for PublicPorts<D> {
    fn default() -> Self {
        Self { wishes: BTreeMap::new(), doors: Arc::default() }
    }
}

impl<D: Clone + PartialEq> PublicPorts<D> {
    /// An app wishes other ports than before. Tells the apps for which some port has become, or is no longer, what they
    /// want.
    pub fn wish(&mut self, app: &AppName, before: &Wishes<D>, now: &Wishes<D>) -> BTreeSet<AppName> {
        let mut affected = BTreeSet::new();
        let ports: BTreeSet<u16> = before.keys().chain(now.keys()).copied().collect();
        for port in ports.into_iter().filter(|port| before.get(port) != now.get(port)) {
            let wishes = self.wishes.entry(port).or_default();
            if let Some((since, _)) = before.get(&port) {
                wishes.remove(&(*since, app.clone()));
            }
            if let Some((since, door)) = now.get(&port) {
                wishes.insert((*since, app.clone()), door.clone());
            }
            let door = wishes.values().next();
            if self.doors.get(&port) != door {
                affected.extend(wishes.keys().map(|(_, app)| app.clone()));
                let doors = Arc::make_mut(&mut self.doors);
                let _ = match door {
                    Some(door) => doors.insert(port, door.clone()),
                    None => doors.remove(&port),
                };
            }
            if self.wishes[&port].is_empty() {
                self.wishes.remove(&port);
            }
        }
        affected
    }
}

/// What an app wishes of the TCP ports that are not always open.
pub(crate) fn wishes(app: &AppRoute) -> Wishes<Door> {
    let ports = app.ports.iter().filter(|(port, _)| ![HTTP_PORT, HTTPS_PORT].contains(port));
    ports.map(|(port, route)| (*port, (since(route), door(app, route.handling)))).collect()
}

/// What an app wishes of the UDP ports: each for itself, since a datagram does not name its app.
pub(crate) fn datagram_wishes(app: &AppRoute) -> Wishes<AppName> {
    app.datagrams.iter().map(|(port, route)| (*port, (since(route), app.name.clone()))).collect()
}

fn since(route: &PortRoute) -> Timestamp {
    route.backends.first().map(|backend| backend.machine.created_at).unwrap_or_default()
}

/// What a port is for that is handled in this way.
pub(crate) fn door(app: &AppRoute, handling: Handling) -> Door {
    match handling {
        Handling::Http => Door::Http,
        Handling::TlsHttp | Handling::Tls | Handling::Passthrough => Door::Tls,
        Handling::PgTls => Door::PgTls,
        Handling::Raw | Handling::Datagrams => Door::Raw(app.name.clone()),
    }
}

/// Why an app does without a port that is for something else.
pub(crate) fn taken(port: u16, door: &Door) -> String {
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
