//! Rows become a picture, change by change: pure, and the same whatever the order in which rows came.
//!
//! ```text
//!  put, remove ─▶ rows of the app ─▶ its route as it asks for it (draft) ─▶ its wishes for public ports
//!                                                 │                               │ which ports are now for
//!                                                 ▼                               ▼ something else, and for whom?
//!  publish ─────▶ of each app that is touched: the draft without ports that are for something else ─▶ Snapshot
//! ```
//!
//! A change costs what its app has, not what the catalog has. Every rule is local: what breaks it is left out with a
//! reason, the rest stands.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use model::{AppName, MachineId};

use crate::{
    AppRoute, Door, HTTPS_PORT, Handling, MachineRoute, Quarantined, Snapshot, Table,
    app::App,
    ports::{PublicPorts, datagram_wishes, door, taken, wishes},
    snapshot::LeftOut,
};

/// Makes one picture after the other.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    rows: Table<MachineRoute>,
    apps: HashMap<AppName, App>,
    tcp: PublicPorts<Door>,
    udp: PublicPorts<AppName>,
    /// How many apps end TLS by themselves on the shared port.
    passthrough: usize,
    /// The apps that have changed since the last picture.
    touched: BTreeSet<AppName>,
    picture: Snapshot,
}

impl Builder {
    /// Adds a machine, or replaces what was known of it.
    pub fn put(&mut self, row: MachineRoute) {
        if let Some(known) = self.rows.get(row.id.as_str()).cloned() {
            if *known == row {
                return;
            }
            self.remove(&known.id);
        }
        self.touched.insert(row.app.clone());
        let app = self.apps.entry(row.app.clone()).or_default();
        self.rows.insert(app.add(row));
    }

    /// Removes a machine.
    pub fn remove(&mut self, id: &MachineId) {
        let Some(row) = self.rows.remove(id.as_str()) else { return };
        self.touched.insert(row.app.clone());
        if let Some(app) = self.apps.get_mut(&row.app) {
            app.remove(&row);
        }
    }

    /// Removes the machines that are not to stay.
    pub fn keep(&mut self, stays: impl Fn(&MachineRoute) -> bool) {
        let gone = self.rows.iter().filter(|row| !stays(row)).map(|row| row.id.clone());
        gone.collect::<Vec<_>>().iter().for_each(|id| self.remove(id));
    }

    /// Takes over what another knows, and keeps what is the same.
    pub fn become_like(&mut self, other: &Self) {
        self.keep(|row| other.rows.contains(row.id.as_str()));
        other.rows.iter().for_each(|row| self.put(MachineRoute::clone(row)));
        let unreadable = other.picture.left_out.get("").map(|left_out| left_out.what.clone());
        self.unreadable(unreadable.unwrap_or_default());
    }

    /// Says what could not even be read, in place of what was said of it before.
    pub fn unreadable(&mut self, what: BTreeSet<Quarantined>) {
        self.leave_out("", what);
    }

    /// The picture of all that it knows.
    pub fn publish(&mut self, generation: u64) -> Snapshot {
        let mut affected = mem::take(&mut self.touched);
        for name in affected.clone() {
            affected.extend(self.redraft(&name));
        }
        for name in &affected {
            self.finish(name);
        }
        self.picture.doors = self.tcp.doors.clone();
        self.picture.datagrams = self.udp.doors.clone();
        self.picture.passthrough = self.passthrough > 0;
        self.picture.generation = generation;
        self.picture.clone()
    }

    /// Drafts an app anew. Tells the apps that this gives a public port to, or takes one from.
    fn redraft(&mut self, name: &AppName) -> BTreeSet<AppName> {
        let Some(app) = self.apps.get_mut(name) else { return BTreeSet::new() };
        let before = app.draft().cloned();
        app.redraft(name);
        let now = app.draft().cloned();
        let (before, now) = (before.as_deref(), now.as_deref());
        let wished = |route: Option<&AppRoute>| route.map(wishes).unwrap_or_default();
        let mut affected = self.tcp.wish(name, &wished(before), &wished(now));
        let wished = |route: Option<&AppRoute>| route.map(datagram_wishes).unwrap_or_default();
        affected.extend(self.udp.wish(name, &wished(before), &wished(now)));
        affected
    }

    /// Puts an app into the picture as it now is.
    fn finish(&mut self, name: &AppName) {
        let app = self.apps.get(name);
        let mut left_out = app.map(|app| app.left_out().clone()).unwrap_or_default();
        let route = app.and_then(App::draft).map(|draft| self.without_lost_ports(draft, &mut left_out));
        let is_passthrough = |route: &Arc<AppRoute>| {
            route.ports.get(&HTTPS_PORT).is_some_and(|port| port.handling == Handling::Passthrough)
        };
        self.passthrough += usize::from(route.as_ref().is_some_and(is_passthrough));
        let before = match route {
            Some(route) => self.picture.apps.insert(route),
            None => self.picture.apps.remove(name.as_str()),
        };
        self.passthrough -= usize::from(before.as_ref().is_some_and(is_passthrough));
        if app.is_some_and(App::is_empty) {
            self.apps.remove(name);
        }
        self.leave_out(name.as_str(), left_out);
    }

    /// A draft as it is, unless a public port that it asks for is for something else.
    fn without_lost_ports(&self, draft: &Arc<AppRoute>, left_out: &mut BTreeSet<Quarantined>) -> Arc<AppRoute> {
        let mut route = draft.clone();
        let mut lost = |reason| left_out.insert(Quarantined { app: Some(draft.name.clone()), machine: None, reason });
        for (port, offered) in &draft.ports {
            let actual = self.tcp.doors.get(port);
            if let Some(actual) = actual.filter(|actual| **actual != door(draft, offered.handling)) {
                Arc::make_mut(&mut route).ports.remove(port);
                lost(taken(*port, actual));
            }
        }
        for port in draft.datagrams.keys().filter(|port| self.udp.doors.get(port) != Some(&draft.name)) {
            Arc::make_mut(&mut route).datagrams.remove(port);
            lost(format!("UDP port {port} belongs to another app; choose another port"));
        }
        route
    }

    fn leave_out(&mut self, key: &str, what: BTreeSet<Quarantined>) {
        if what.is_empty() {
            self.picture.left_out.remove(key);
        } else {
            self.picture.left_out.insert(Arc::new(LeftOut { key: key.to_owned(), what }));
        }
    }
}

#[cfg(test)]
impl Snapshot {
    /// The picture that these rows give. Their order does not matter.
    pub(crate) fn of_rows(generation: u64, rows: impl IntoIterator<Item = MachineRoute>) -> Self {
        let mut builder = Builder::default();
        rows.into_iter().for_each(|row| builder.put(row));
        builder.publish(generation)
    }
}

#[cfg(test)]
#[path = "build_tests.rs"]
pub(crate) mod tests;
