//! Why a deployment failed, with everything a person needs to mend it, gathered before anything is undone.

use api::{
    internal::{GuestReport, ListenSocket, LogFilter, NodeError},
    public::deploys::DeployFailure,
};
use model::{
    MachineId,
    log::{LogRecord, LogSource},
    machine::{ExitEvent, MachineConfig, Protocol},
};

use super::ready;
use crate::{Control, error::Error};

/// What to do about a machine whose program never ran.
const NOT_RUNNING: &str = "the machine did not get so far as to run the app: `dunlin doctor` on the host looks for what it lacks, \
                           and the platform's own log has more";

/// How many of the program's last lines are told.
const LOG_LINES: usize = 20;

impl Control {
    /// What is known about a machine that did not become ready.
    pub(crate) async fn diagnose(&self, machine: &MachineId, config: &MachineConfig, why: &str) -> DeployFailure {
        let observed = self.observed(machine);
        let exit = observed.as_deref().and_then(ready::crash);
        let report = self.inspect(machine).await;
        DeployFailure {
            summary: format!("machine {machine}: {why}"),
            machine: Some(machine.clone()),
            exit_code: exit.as_ref().map(|exit| exit.exit_code),
            oom_killed: exit.as_ref().is_some_and(|exit| exit.oom_killed),
            log_tail: self.log_tail(machine).await,
            listening: report.iter().flat_map(|report| &report.listening).map(show_socket).collect(),
            hint: match (&exit, &report) {
                (Some(exit), _) => exit_hint(config, exit),
                (None, Some(report)) => hint(config, report),
                (None, None) => NOT_RUNNING.to_owned(),
            },
        }
    }

    async fn log_tail(&self, machine: &MachineId) -> Vec<String> {
        let Some(app) = self.observed(machine).map(|observed| observed.spec.app.clone()) else { return Vec::new() };
        let filter = LogFilter { app, machine: Some(machine.clone()), since_ns: None, limit: 10 * LOG_LINES };
        let records = self.ports.logs.query(filter).await;
        let said = |record: &&LogRecord| matches!(record.source, LogSource::Stdout | LogSource::Stderr);
        let mut lines: Vec<_> = records.iter().filter(said).map(|record| record.message.clone()).collect();
        lines.split_off(lines.len().saturating_sub(LOG_LINES))
    }
}

/// Why a step failed that asked something of a machine's node.
pub(crate) fn refused(machine: &MachineId, what: &str, error: &Error) -> DeployFailure {
    let hint = match error {
        Error::Node(NodeError::Capacity(_)) => "stop or scale down other machines, or ask for a smaller one in [[vm]]",
        Error::Node(NodeError::Invalid(_)) => "correct the configuration, then deploy again",
        _ => "deploy again; if it fails again, look at the platform's own log",
    };
    DeployFailure {
        summary: format!("machine {machine} {what}: {error}"),
        machine: Some(machine.clone()),
        hint: hint.to_owned(),
        ..DeployFailure::default()
    }
}

fn show_socket(socket: &ListenSocket) -> String {
    format!("{} {}", socket.protocol, std::net::SocketAddr::new(socket.address, socket.port))
}

/// What to do next, from the most certain sign to the least.
fn hint(config: &MachineConfig, report: &GuestReport) -> String {
    let wanted = config.services.iter().map(|service| (service.protocol, service.internal_port));
    for (protocol, port) in wanted.filter(|(protocol, _)| *protocol == Protocol::Tcp) {
        if let Some(socket) = ready::loopback_only(report, (protocol, port)) {
            return format!(
                "the app listens on {}:{port}, which nothing outside the machine reaches; bind 0.0.0.0:{port} (or \
                 [::]:{port})",
                socket.address
            );
        }
        if !report.listening.iter().any(|socket| socket.port == port) {
            return port_hint(port, report);
        }
    }
    "the app listens, but a health check does not pass: see what the check says, and the last lines".to_owned()
}

fn exit_hint(config: &MachineConfig, exit: &ExitEvent) -> String {
    let memory = config.guest.memory_mb;
    match exit.exit_code {
        _ if exit.oom_killed => {
            format!("{memory} MB of memory were not enough: give it more, `memory = \"{}mb\"` in [[vm]]", memory * 2)
        }
        127 => {
            "the command was not found in the image: check [processes], or the image's ENTRYPOINT and CMD".to_owned()
        }
        126 => "the command cannot be executed: check its permission bits and that it is made for this processor"
            .to_owned(),
        0 => "the program ended by itself; a server keeps running in the foreground".to_owned(),
        _ => "the last lines say what the program complained about; set what it misses, then deploy again".to_owned(),
    }
}

fn port_hint(port: u16, report: &GuestReport) -> String {
    let outside = |socket: &&ListenSocket| socket.protocol.starts_with("tcp") && !socket.address.is_loopback();
    match report.listening.iter().find(outside) {
        Some(socket) => format!(
            "nothing listens on port {port}, but something does on port {}: set internal_port = {}, or let the app \
             listen on {port}",
            socket.port, socket.port
        ),
        None => format!(
            "nothing listens on port {port}, which is the service's internal_port: let the app listen on 0.0.0.0:{port}"
        ),
    }
}
