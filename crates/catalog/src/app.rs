//! One app: its machines become a route. Pure, and about this app alone.
//!
//! - The oldest machine of an app says which organization and network the app belongs to.
//! - The newest version of an app's configuration says how a public port is handled; every machine that has the port
//!   takes part.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use model::{
    AppName,
    machine::{Protocol, Service},
};

use crate::{
    AppRoute, Backend, MachineRoute, PortRoute, Quarantined,
    offer::{Claim, Offer},
};

/// With so many lists of services a new machine's is compared, so as to be kept once.
const COMPARED: usize = 8;

/// The machines of an app, usable or not.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// Oldest first.
    members: Vec<Member>,
    /// What the newest of them offer, each once.
    offers: Vec<Arc<Offer>>,
    /// What the app's route is if it has every public port that it asks for.
    draft: Option<Arc<AppRoute>>,
    /// What is left out of it anyway.
    left_out: BTreeSet<Quarantined>,
}

#[derive(Debug)]
struct Member {
    machine: Arc<MachineRoute>,
    offer: Arc<Offer>,
}

impl App {
    /// Adds a machine that is not there. What it has in common with others is kept once.
    pub fn add(&mut self, mut machine: MachineRoute) -> Arc<MachineRoute> {
        let place = self.place(&machine).unwrap_or_else(|place| place);
        if let Some(neighbor) = self.members.get(place.saturating_sub(1)).map(|member| &member.machine) {
            share(&mut machine.metadata, &neighbor.metadata);
            if let (Some(own), Some(other)) = (&mut machine.worker, &neighbor.worker) {
                share(own, other);
            }
        }
        let offer = self.offer(&machine.services);
        machine.services = offer.services.clone();
        let machine = Arc::new(machine);
        self.members.insert(place, Member { machine: machine.clone(), offer });
        machine
    }

    /// Removes a machine.
    pub fn remove(&mut self, machine: &MachineRoute) {
        if let Ok(place) = self.place(machine) {
            self.members.remove(place);
        }
    }

    /// Whether it has no machine.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Its route, if it has every public port that it asks for. `None` if none of its machines can be used.
    pub fn draft(&self) -> Option<&Arc<AppRoute>> {
        self.draft.as_ref()
    }

    /// What is left out of its draft, and why.
    pub fn left_out(&self) -> &BTreeSet<Quarantined> {
        &self.left_out
    }

    /// Drafts its route anew after a change.
    pub fn redraft(&mut self, name: &AppName) {
        self.offers.retain(|offer| Arc::strong_count(offer) > 1);
        let mut left_out = BTreeSet::new();
        let members = self.usable(&mut left_out);
        self.draft = members.first().map(|oldest| {
            let (org, network) = (oldest.machine.org.clone(), oldest.machine.network);
            let (ports, datagrams) = ports(&members);
            let machines = members.iter().map(|member| member.machine.clone()).collect();
            Arc::new(AppRoute { name: name.clone(), org, network, machines, ports, datagrams })
        });
        self.left_out = left_out;
    }

    fn place(&self, machine: &MachineRoute) -> Result<usize, usize> {
        let key = |it: &MachineRoute| (it.created_at, it.id.clone());
        self.members.binary_search_by(|member| key(&member.machine).cmp(&key(machine)))
    }

    fn offer(&mut self, services: &Arc<Vec<Service>>) -> Arc<Offer> {
        if let Some(known) = self.offers.iter().find(|offer| offer.services == *services) {
            return known.clone();
        }
        let offer = Arc::new(Offer::of(services.clone()));
        if self.offers.len() >= COMPARED {
            self.offers.remove(0);
        }
        self.offers.push(offer.clone());
        offer
    }

    /// The members that can be used, oldest first.
    fn usable(&self, left_out: &mut BTreeSet<Quarantined>) -> Vec<&Member> {
        let mut usable: Vec<&Member> = self.members.iter().collect();
        usable.retain(|member| match member.machine.defect() {
            Some(defect) => !left_out.insert(left_out_machine(&member.machine, defect)),
            None => true,
        });
        let Some(oldest) = usable.first().map(|member| member.machine.clone()) else { return usable };
        usable.retain(|member| {
            let belongs = member.machine.org == oldest.org && member.machine.network == oldest.network;
            let foreign = || format!("its app belongs to organization {} and another network", oldest.org);
            belongs || !left_out.insert(left_out_machine(&member.machine, foreign()))
        });
        for member in &usable {
            left_out.extend(member.offer.refused.iter().map(|it| left_out_machine(&member.machine, it.clone())));
        }
        usable
    }
}

fn left_out_machine(machine: &MachineRoute, reason: String) -> Quarantined {
    Quarantined { app: Some(machine.app.clone()), machine: Some(machine.id.clone()), reason }
}

fn share<T: PartialEq>(own: &mut Arc<T>, other: &Arc<T>) {
    if own == other {
        *own = other.clone();
    }
}

type Ports = BTreeMap<u16, Arc<PortRoute>>;
/// How one of the offers claims a port, if it does.
type Claimed<'a> = Option<&'a Arc<Claim>>;

/// What stands behind each public port: TCP, UDP. The ports of a range are claimed by the same claims and share what is
/// known of them.
fn ports(members: &[&Member]) -> (Ports, Ports) {
    let offers = Offers::of(members);
    let numbers: BTreeSet<(Protocol, u16)> =
        offers.distinct.iter().flat_map(|offer| offer.claims.keys().copied()).collect();
    let (mut ports, mut datagrams) = (Ports::new(), Ports::new());
    let mut last: Option<(Vec<Claimed<'_>>, Arc<PortRoute>)> = None;
    for (protocol, port) in numbers {
        let claims: Vec<_> = offers.distinct.iter().map(|offer| offer.claims.get(&(protocol, port))).collect();
        let same = last.as_ref().filter(|(of, _)| of.iter().zip(&claims).all(is_same));
        let route = same.map_or_else(|| Arc::new(offers.port_route(members, &claims)), |(_, route)| route.clone());
        last = Some((claims, route.clone()));
        match protocol {
            Protocol::Tcp => ports.insert(port, route),
            Protocol::Udp => datagrams.insert(port, route),
        };
    }
    (ports, datagrams)
}

fn is_same((one, other): (&Claimed<'_>, &Claimed<'_>)) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// What some members offer, each once.
struct Offers<'a> {
    distinct: Vec<&'a Arc<Offer>>,
    /// Which of them is each member's.
    of_member: Vec<usize>,
}

impl<'a> Offers<'a> {
    fn of(members: &[&'a Member]) -> Self {
        let mut numbers: HashMap<*const Offer, usize> = HashMap::new();
        let mut distinct = Vec::new();
        let of_member = members.iter().map(|member| {
            *numbers.entry(Arc::as_ptr(&member.offer)).or_insert_with(|| {
                distinct.push(&member.offer);
                distinct.len() - 1
            })
        });
        Self { of_member: of_member.collect(), distinct }
    }

    fn port_route(&self, members: &[&Member], claims: &[Claimed<'_>]) -> PortRoute {
        let claimed = members.iter().zip(&self.of_member).filter_map(|(member, offer)| Some((member, claims[*offer]?)));
        let newest = claimed.clone().max_by(|(a, _), (b, _)| a.machine.version.cmp(&b.machine.version));
        let (_, newest) = newest.expect("a port is only known by a claim");
        PortRoute {
            handling: newest.handling,
            options: newest.port.clone(),
            backends: claimed.map(|(member, claim)| backend(member, claim)).collect(),
        }
    }
}

fn backend(member: &Member, claim: &Claim) -> Backend {
    Backend {
        machine: member.machine.clone(),
        internal_port: claim.internal_port,
        h2: claim.h2,
        counts: claim.counts,
        soft_limit: claim.soft_limit,
        hard_limit: claim.hard_limit,
        autostart: claim.autostart,
    }
}
