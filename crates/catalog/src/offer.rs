//! What a machine's services ask for: its public ports, each handled in one way. Pure.
//!
//! Machines of one app mostly have the same services, so an [`Offer`] is made once for all of them.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use model::machine::{ConcurrencyKind, Handler, Port, Protocol, Service};

use crate::{HTTP_PORT, HTTPS_PORT, Handling};

/// Above this many machines are in use, others are preferred, unless the configuration says otherwise.
const DEFAULT_SOFT_LIMIT: u32 = 20;
/// How many public ports one machine may have, ranges counted out. What a range says is kept once; each port costs a
/// line in a table here, and the edge one listening socket.
pub(crate) const MAX_PORTS_PER_MACHINE: usize = 10_240;

/// What some services ask for.
#[derive(Debug)]
pub(crate) struct Offer {
    pub services: Arc<Vec<Service>>,
    /// Each public port once.
    pub claims: BTreeMap<(Protocol, u16), Arc<Claim>>,
    /// What cannot be had, and why.
    pub refused: Vec<String>,
}

/// A wish for one public port, or for a range.
#[derive(Debug)]
pub(crate) struct Claim {
    pub handling: Handling,
    pub port: Arc<Port>,
    pub internal_port: u16,
    pub h2: bool,
    pub counts: ConcurrencyKind,
    pub soft_limit: u32,
    pub hard_limit: Option<u32>,
    pub autostart: bool,
}

impl Offer {
    /// What these services ask for.
    pub fn of(services: Arc<Vec<Service>>) -> Self {
        let mut offer = Self { services: services.clone(), claims: BTreeMap::new(), refused: Vec::new() };
        for service in services.iter() {
            for port in &service.ports {
                offer.add(service, port);
            }
        }
        offer
    }

    fn add(&mut self, service: &Service, port: &Port) {
        let Some(range) = numbers(port).filter(|_| service.internal_port != 0) else {
            self.refused.push("a service has no internal port, or a port range is empty".into());
            return;
        };
        let (shared, plain) = range.partition::<Vec<u16>, _>(|port| [HTTP_PORT, HTTPS_PORT].contains(port));
        for numbers in shared.into_iter().map(|port| vec![port]).chain([plain]) {
            if let Err(reason) = self.claim(&numbers, service, port) {
                self.refused.push(reason);
            }
        }
    }

    /// Claims ports that are handled in the same way. One that cannot be had does not keep the others from it.
    fn claim(&mut self, numbers: &[u16], service: &Service, port: &Port) -> Result<(), String> {
        let Some(first) = numbers.first() else { return Ok(()) };
        let handling = handling(service.protocol, *first, &port.handlers)?;
        let claim = Arc::new(Claim {
            handling,
            port: Arc::new(port.clone()),
            internal_port: service.internal_port,
            h2: port.http_options.as_ref().is_some_and(|options| options.h2_backend),
            counts: service.concurrency.kind,
            soft_limit: service.concurrency.soft_limit.unwrap_or(DEFAULT_SOFT_LIMIT),
            hard_limit: service.concurrency.hard_limit.filter(|limit| *limit > 0),
            autostart: service.autostart == Some(true),
        });
        let mut refused = Ok(());
        for number in numbers {
            if self.claims.contains_key(&(service.protocol, *number)) {
                refused = Err(format!("port {number} is given twice; the first of them counts"));
            } else if self.claims.len() >= MAX_PORTS_PER_MACHINE {
                return Err(format!("ports beyond the first {MAX_PORTS_PER_MACHINE} get no traffic"));
            } else {
                self.claims.insert((service.protocol, *number), claim.clone());
            }
        }
        refused
    }
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
