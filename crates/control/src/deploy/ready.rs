//! When a machine is ready for traffic, and when it is certain that it will not be.
//!
//! Ready means: its program runs this version, every health check passes, and what has no check at least listens where
//! its service says. A machine without services must only keep running for a short while. A program that ends while it
//! is waited for has failed, whatever its restart policy would try next: a release must not need luck to start.

use std::time::Duration;

use api::internal::{GuestReport, ListenSocket};
use model::{
    InstanceId, MachineId,
    machine::{CheckState, ExitEvent, MachineConfig, MachineState, Observed, Protocol},
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::Control;

/// How often and how long to look while waiting. Waiting itself is woken by the node's views.
#[derive(Debug, Clone, Copy)]
pub struct Tempo {
    /// How long a machine without services must keep running.
    pub smoke: Duration,
    /// How long a program may listen on the loopback address alone before that counts as a mistake.
    pub loopback_grace: Duration,
    /// Time between two looks at what listens in a guest.
    pub poll: Duration,
    /// The least time that requests under way to a machine get to end before it is stopped.
    pub drain: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            smoke: Duration::from_secs(3),
            loopback_grace: Duration::from_secs(10),
            poll: Duration::from_millis(250),
            drain: Duration::from_secs(30),
        }
    }
}

/// What a look at a machine says.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// It is on its way.
    Waiting,
    /// It rests without having failed; it must be started.
    Resting,
    /// Its program runs.
    Started,
    /// It will not become ready, and why.
    Failed(String),
}

/// What is waited for.
pub(crate) struct Wanted<'a> {
    pub machine: &'a MachineId,
    pub version: &'a InstanceId,
    pub config: &'a MachineConfig,
    pub exits: Exits,
}

/// What an exit of the program means while the machine is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exits {
    /// That it failed.
    Fail,
    /// Nothing: the machine has a past.
    Pass,
}

fn standing(observed: &Observed, version: &InstanceId, exits: Exits) -> Standing {
    if observed.spec.version != *version {
        return match observed.state {
            MachineState::Destroying | MachineState::Destroyed => Standing::Failed("it was destroyed".to_owned()),
            _ => Standing::Waiting,
        };
    }
    if let Some(exit) = crash(observed).filter(|_| exits == Exits::Fail) {
        return Standing::Failed(describe_exit(&exit));
    }
    match observed.state {
        MachineState::Failed => {
            let reason = observed.reason.clone().unwrap_or_else(|| "the host does not say why".to_owned());
            Standing::Failed(format!("it could not be started: {reason}"))
        }
        MachineState::Destroying | MachineState::Destroyed => Standing::Failed("it was destroyed".to_owned()),
        MachineState::Stopped | MachineState::Suspended => Standing::Resting,
        MachineState::Started => Standing::Started,
        _ => Standing::Waiting,
    }
}

/// How the program ended by itself since the machine was made or last given another configuration.
pub(crate) fn crash(observed: &Observed) -> Option<ExitEvent> {
    let since = observed.events.iter().take_while(|event| !matches!(event.kind.as_str(), "launch" | "update"));
    let exits = since.filter_map(|event| event.request.as_ref()?.exit_event.clone());
    exits.filter(|exit| !exit.requested_stop).last()
}

fn describe_exit(exit: &ExitEvent) -> String {
    match exit {
        exit if exit.oom_killed => "its program was killed for want of memory".to_owned(),
        exit if exit.guest_signal != 0 => format!("its program was ended by signal {}", exit.guest_signal),
        exit => format!("its program ended with exit code {}", exit.exit_code),
    }
}

/// What a machine must show once its program runs.
struct Probe {
    /// Ports of services that no health check looks at.
    unchecked: Vec<(Protocol, u16)>,
    /// Ports of all services.
    ports: Vec<(Protocol, u16)>,
    has_checks: bool,
    tempo: Tempo,
    started: Option<Instant>,
    loopback: Option<Instant>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Ready,
    /// Look again after so long, or when something changes.
    Again(Duration),
    /// Look again when something changes.
    OnChange,
    Failed(String),
}

impl Probe {
    fn new(config: &MachineConfig, tempo: Tempo) -> Self {
        let port = |service: &model::machine::Service| (service.protocol, service.internal_port);
        let services = &config.services;
        Self {
            unchecked: services.iter().filter(|service| service.checks.is_empty()).map(port).collect(),
            ports: services.iter().map(port).collect(),
            has_checks: !config.checks.is_empty() || services.iter().any(|service| !service.checks.is_empty()),
            tempo,
            started: None,
            loopback: None,
        }
    }

    /// Looks at a machine whose program runs. `report` is what listens in it, if that could be found out.
    fn look(&mut self, now: Instant, observed: &Observed, report: Option<&GuestReport>) -> Look {
        let healthy = !self.has_checks || checks_pass(observed);
        let started = *self.started.get_or_insert(now);
        if self.ports.is_empty() {
            let left = self.tempo.smoke.saturating_sub(now - started);
            return if left.is_zero() && healthy { Look::Ready } else { Look::Again(left.max(self.tempo.poll)) };
        }
        if healthy && self.unchecked.is_empty() {
            return Look::Ready;
        }
        let Some(report) = report else { return Look::Again(self.tempo.poll) };
        if healthy && self.unchecked.iter().all(|wanted| listens(report, *wanted)) {
            return Look::Ready;
        }
        match self.ports.iter().find_map(|wanted| loopback_only(report, *wanted)) {
            Some(socket) if now - *self.loopback.get_or_insert(now) >= self.tempo.loopback_grace => {
                Look::Failed(format!("its program listens on {}:{} only", socket.address, socket.port))
            }
            Some(_) => Look::Again(self.tempo.poll),
            None => {
                self.loopback = None;
                Look::Again(self.tempo.poll)
            }
        }
    }
}

fn checks_pass(observed: &Observed) -> bool {
    !observed.checks.is_empty() && observed.checks.iter().all(|check| check.status == CheckState::Passing)
}

fn is_for(socket: &ListenSocket, (protocol, port): (Protocol, u16)) -> bool {
    let same = match protocol {
        Protocol::Tcp => socket.protocol.starts_with("tcp"),
        Protocol::Udp => socket.protocol.starts_with("udp"),
    };
    same && socket.port == port
}

fn is_loopback(socket: &ListenSocket) -> bool {
    socket.address.to_canonical().is_loopback()
}

fn listens(report: &GuestReport, wanted: (Protocol, u16)) -> bool {
    report.listening.iter().any(|socket| is_for(socket, wanted) && !is_loopback(socket))
}

/// The socket by which a program listens on this port where nothing outside reaches it, if there is no other.
pub(crate) fn loopback_only(report: &GuestReport, wanted: (Protocol, u16)) -> Option<&ListenSocket> {
    if listens(report, wanted) {
        return None;
    }
    report.listening.iter().find(|socket| is_for(socket, wanted) && is_loopback(socket))
}

/// Longest wait for a guest's answer about what listens in it.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Control {
    /// What listens in a guest, if it answers.
    pub(crate) async fn inspect(&self, machine: &MachineId) -> Option<GuestReport> {
        timeout(INSPECT_TIMEOUT, self.ports.node.inspect(machine)).await.ok()?.ok()
    }

    /// Waits until a machine is ready with this version of its configuration. The error says in words why it is not.
    pub(crate) async fn await_ready(&self, wanted: Wanted<'_>, limit: Duration) -> Result<(), String> {
        let mut views = self.ports.node.observe();
        let mut probe = Probe::new(wanted.config, self.options.tempo);
        let deadline = Instant::now() + limit;
        loop {
            let observed = views.borrow_and_update().machines.get(wanted.machine).cloned();
            let look = match &observed {
                Some(observed) => self.look(&wanted, observed, &mut probe).await,
                None => Look::OnChange,
            };
            let until = match look {
                Look::Ready => return Ok(()),
                Look::Failed(why) => return Err(why),
                Look::Again(after) => deadline.min(Instant::now() + after),
                Look::OnChange => deadline,
            };
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return Err("the host is shutting down".to_owned()) },
                () = sleep_until(until) => {}
            }
            if Instant::now() >= deadline {
                return Err(timeout_words(limit, self.observed(wanted.machine).as_deref()));
            }
        }
    }

    async fn look(&self, wanted: &Wanted<'_>, observed: &Observed, probe: &mut Probe) -> Look {
        match standing(observed, wanted.version, wanted.exits) {
            Standing::Waiting => Look::OnChange,
            Standing::Failed(why) => Look::Failed(why),
            Standing::Resting => match self.ports.node.start(wanted.machine).await {
                Ok(_) => Look::OnChange,
                Err(error) => Look::Failed(format!("it could not be started: {error}")),
            },
            Standing::Started => {
                let report = if probe.ports.is_empty() { None } else { self.inspect(wanted.machine).await };
                probe.look(Instant::now(), observed, report.as_ref())
            }
        }
    }
}

fn timeout_words(limit: Duration, observed: Option<&Observed>) -> String {
    let state = match observed {
        None => "the host does not know it".to_owned(),
        Some(observed) if observed.state != MachineState::Started => format!("it is {}", observed.state),
        Some(observed) => match observed.checks.iter().find(|check| check.status != CheckState::Passing) {
            Some(check) => format!("health check {} does not pass: {}", check.name, check.output),
            None => "it is started, but does not listen where its service says".to_owned(),
        },
    };
    format!("it was not ready within {} s: {state}", limit.as_secs())
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
