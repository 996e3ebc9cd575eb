//! What leads where at this moment, and why a machine is chosen or not.

use api::public::edge::{EdgeApp, EdgeLeftOut, EdgeMachine, EdgePort, EdgeRoutes};
use catalog::{Backend, PortRoute, Standing};

use crate::{
    context::Context,
    machine::Target,
    outlier::{self, Why},
    routing::{App, Candidate},
    warmup,
};

/// What the edge routes by, for people.
pub fn routes(context: &Context) -> EdgeRoutes {
    let routing = context.routing.load();
    let mut apps: Vec<EdgeApp> = routing.apps().map(|app| edge_app(context, app)).collect();
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    let left_out = routing.snapshot.quarantined().into_iter();
    let left_out = left_out.map(|it| EdgeLeftOut { app: it.app, machine: it.machine, reason: it.reason });
    EdgeRoutes { generation: routing.snapshot.generation, apps, left_out: left_out.collect() }
}

fn edge_app(context: &Context, app: &App) -> EdgeApp {
    let ports = app.route.ports.iter().map(|(port, route)| edge_port(*port, route, app.ready(*port)));
    let datagrams = app.route.datagrams.iter();
    let datagrams = datagrams.map(|(port, route)| edge_port(*port, route, app.ready_for_datagrams(*port)));
    EdgeApp {
        name: app.route.name.clone(),
        organization: app.route.org.clone(),
        host: format!("{}.{}", app.route.name, context.domain),
        waiting: app.state.held.load(std::sync::atomic::Ordering::Relaxed),
        ports: ports.chain(datagrams).collect(),
    }
}

fn edge_port(port: u16, route: &PortRoute, ready: &[Candidate]) -> EdgePort {
    let machines = route.backends.iter().map(|backend| edge_machine(backend, candidate(ready, backend)));
    EdgePort { port, handling: route.handling.to_string(), machines: machines.collect() }
}

/// The live state of a machine that takes traffic.
fn candidate<'a>(ready: &'a [Candidate], backend: &Backend) -> Option<&'a Candidate> {
    ready.iter().find(|candidate| candidate.target.machine.id == backend.machine.id)
}

fn edge_machine(backend: &Backend, candidate: Option<&Candidate>) -> EdgeMachine {
    let load = candidate.map_or(0, |candidate| candidate.target.load());
    EdgeMachine {
        id: backend.machine.id.clone(),
        region: backend.machine.region.clone(),
        round_trip_ms: candidate
            .and_then(|candidate| candidate.target.hop.as_ref()?.round_trip())
            .map(|round_trip| round_trip.as_micros() as f64 / 1e3),
        internal_port: candidate.map_or(backend.internal_port, |candidate| candidate.target.address.port()),
        takes_traffic: candidate.is_some() && backend.hard_limit.is_none_or(|limit| load < limit),
        load,
        soft_limit: backend.soft_limit,
        hard_limit: backend.hard_limit,
        why: candidate.map_or_else(|| why_not(backend), |candidate| why(backend, &candidate.target, load)),
    }
}

fn why(backend: &Backend, target: &Target, load: u32) -> String {
    if let Some(limit) = backend.hard_limit.filter(|limit| load >= *limit) {
        return format!("full: at its hard limit of {limit}");
    }
    match target.standing() {
        outlier::Standing::Avoided(Why::Failing) => "avoided for a while: the last requests to it failed".into(),
        outlier::Standing::Avoided(Why::Outlier) => {
            "avoided for a while: requests to it fail more often than to the others".into()
        }
        outlier::Standing::Probed => "tried with one request at a time: requests to it failed a moment ago".into(),
        outlier::Standing::Good if load >= backend.soft_limit => {
            format!("others are preferred: above its soft limit of {}", backend.soft_limit)
        }
        outlier::Standing::Good => match target.machine.share() {
            warmup::WHOLE => "ready".into(),
            share => format!("has become ready a moment ago: gets {share} % of its share, growing"),
        },
    }
}

fn why_not(backend: &Backend) -> String {
    let ago = |since: model::Timestamp| kit::clock::unix_ms().saturating_sub(since.0) / 1000;
    match backend.machine.standing {
        Standing::Ready => "about to be taken into the choice".into(),
        Standing::Coming => format!("on its way up: {}", backend.machine.state),
        Standing::Failing { since } => format!("its checks have not passed for {} s; see `dunlin status`", ago(since)),
        Standing::Cordoned { since } => {
            format!("cordoned for {} s; `dunlin machine uncordon` puts it back", ago(since))
        }
        Standing::Asleep if backend.autostart => format!("it sleeps ({}); a request wakes it", backend.machine.state),
        Standing::Asleep => format!("it is {}, and autostart is off", backend.machine.state),
        Standing::Away => format!("it is {}", backend.machine.state),
    }
}
