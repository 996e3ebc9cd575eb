//! What is asked of a running machine: straight to its node, and answered when it is so.

use std::collections::BTreeMap;

use api::{
    internal::{GuestReport, StopRequest},
    public::machines::{Listening, Process, StartReply},
};
use model::{MachineId, machine::MachineConfig};
use serde_json::Value;

use super::{Nonce, validate};
use crate::{
    Control,
    error::Error,
    store::{apps::AppRow, machines},
};

/// Signals with their Linux numbers.
const SIGNALS: [(i64, &str); 9] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (6, "SIGABRT"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (12, "SIGUSR2"),
    (15, "SIGTERM"),
    (19, "SIGSTOP"),
];

impl Control {
    /// The machine, if it exists and the caller's lease allows a change.
    async fn may_change(&self, app: &AppRow, id: &MachineId, nonce: &Nonce) -> Result<(), Error> {
        self.live_machine(app, id).await?;
        self.check_lease(id, nonce).await
    }

    /// Starts a machine.
    pub(crate) async fn start_machine(&self, app: &AppRow, id: &MachineId, nonce: &Nonce) -> Result<StartReply, Error> {
        self.may_change(app, id, nonce).await?;
        let previous_state = self.ports.node.start(id).await?;
        Ok(StartReply { previous_state, status: "ok".to_owned(), message: "the machine is started".to_owned() })
    }

    /// Stops a machine.
    pub(crate) async fn stop_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        how: StopRequest,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        Ok(self.ports.node.stop(id, how).await?)
    }

    /// Keeps a machine's memory and ends its virtual machine.
    pub(crate) async fn suspend_machine(&self, app: &AppRow, id: &MachineId, nonce: &Nonce) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        Ok(self.ports.node.suspend(id).await?)
    }

    /// Stops and starts a machine.
    pub(crate) async fn restart_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        how: StopRequest,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        Ok(self.ports.node.restart(id, how).await?)
    }

    /// Sends a signal to a machine's program.
    pub(crate) async fn signal_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        signal: &str,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        Ok(self.ports.node.signal(id, signal).await?)
    }

    /// Takes a machine's traffic away, or gives it back.
    pub(crate) async fn cordon_machine(
        &self,
        app: &AppRow,
        id: &MachineId,
        cordoned: bool,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        Ok(self.ports.node.cordon(id, cordoned).await?)
    }

    /// A machine's labels.
    pub(crate) async fn metadata(&self, app: &AppRow, id: &MachineId) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.live_machine(app, id).await?.spec.config.metadata)
    }

    /// Sets one of a machine's labels, or removes it.
    pub(crate) async fn set_metadata(
        &self,
        app: &AppRow,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        nonce: &Nonce,
    ) -> Result<(), Error> {
        self.may_change(app, id, nonce).await?;
        if let Some(problem) = validate::metadata(key, value.as_deref().unwrap_or_default()) {
            return Err(Error::invalid(format!("metadata: {problem}")));
        }
        let change = |metadata: &mut BTreeMap<String, String>| match value {
            Some(value) => drop(metadata.insert(key.to_owned(), value)),
            None => drop(metadata.remove(key)),
        };
        self.change_metadata(app.id, id, change).await
    }

    /// Versions of a machine's configuration, newest first.
    pub(crate) async fn machine_versions(
        &self,
        app: &AppRow,
        id: &MachineId,
    ) -> Result<Vec<(String, MachineConfig)>, Error> {
        self.machine_row(app, id).await?;
        machines::versions(self.store.reader(), id).await
    }

    /// What runs in a machine.
    pub(crate) async fn processes(&self, app: &AppRow, id: &MachineId) -> Result<Vec<Process>, Error> {
        self.live_machine(app, id).await?;
        Ok(show_processes(self.ports.node.inspect(id).await?))
    }
}

/// The sockets go with the first process, where clients look for them.
fn show_processes(report: GuestReport) -> Vec<Process> {
    let address = |socket: &api::internal::ListenSocket| Listening {
        proto: socket.protocol.clone(),
        address: std::net::SocketAddr::new(socket.address, socket.port).to_string(),
    };
    let mut sockets: Vec<_> = report.listening.iter().map(address).collect();
    let process = |process: api::internal::GuestProcess| Process {
        pid: process.pid,
        command: process.command,
        rss: process.rss_bytes,
        cpu: process.cpu_ms,
        rtime: process.age_ms,
        listen_sockets: std::mem::take(&mut sockets),
    };
    report.processes.into_iter().map(process).collect()
}

/// The name of a signal that is given by number or by name, with or without `SIG`.
pub(crate) fn signal_name(signal: &Value) -> Result<String, Error> {
    let found = match signal {
        Value::Number(number) => SIGNALS.iter().find(|(known, _)| number.as_i64() == Some(*known)),
        Value::String(text) => {
            let bare = text.trim_start_matches("SIG");
            let by_name = SIGNALS.iter().find(|(_, known)| known.trim_start_matches("SIG") == bare);
            by_name.or_else(|| SIGNALS.iter().find(|(known, _)| text.parse() == Ok(*known)))
        }
        _ => None,
    };
    let names: Vec<_> = SIGNALS.iter().map(|(_, name)| *name).collect();
    found
        .map(|(_, name)| (*name).to_owned())
        .ok_or_else(|| Error::invalid(format!("{signal} is not a signal; use one of {}", names.join(", "))))
}
