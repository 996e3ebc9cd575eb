//! Waiting for a machine to reach a state.

use std::time::Duration;

use api::public::machines::WaitReply;
use model::{
    MachineId,
    machine::{MachineState, Observed},
};
use tokio::time::timeout;

use super::view;
use crate::{
    Control,
    error::Error,
    store::{apps::AppRow, machines},
};

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitFor {
    /// Any of these states.
    pub states: Vec<Target>,
    /// Only with this version of the machine's configuration.
    pub version: Option<String>,
    /// For so long at most.
    pub timeout: Duration,
}

/// A state to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// This one.
    State(MachineState),
    /// Any in which the machine stays until something happens to it.
    Settled,
}

impl Target {
    /// The target of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let named = |state: &MachineState| state.to_string() == name;
        let waited_for = [
            MachineState::Started,
            MachineState::Stopped,
            MachineState::Suspended,
            MachineState::Destroyed,
            MachineState::Failed,
        ];
        match name {
            "settled" => Some(Self::Settled),
            "created" => Some(Self::State(MachineState::Created)),
            _ => waited_for.iter().copied().find(named).map(Self::State),
        }
    }

    fn is_met(self, state: MachineState) -> bool {
        match self {
            Self::State(wanted) => wanted == state,
            Self::Settled => state.rests(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::State(state) => state.fmt(f),
            Self::Settled => f.write_str("settled"),
        }
    }
}

impl Control {
    /// Waits until the machine is in one of the states. A machine that is destroyed satisfies those who wait for
    /// that, and nobody else.
    pub(crate) async fn wait(&self, app: &AppRow, id: &MachineId, wanted: &WaitFor) -> Result<WaitReply, Error> {
        match timeout(wanted.timeout, self.wait_forever(app, id, wanted)).await {
            Ok(reached) => reached,
            Err(_) => {
                let state = self.machine_row(app, id).await?;
                let view = self.view();
                let state = view::state(&state, view.machines.get(id).map(|observed| &**observed));
                let names: Vec<_> = wanted.states.iter().map(Target::to_string).collect();
                Err(Error::WaitTimeout {
                    seconds: wanted.timeout.as_secs(),
                    machine: id.to_string(),
                    state: state.to_string(),
                    wanted: names.join(" or "),
                })
            }
        }
    }

    async fn wait_forever(&self, app: &AppRow, id: &MachineId, wanted: &WaitFor) -> Result<WaitReply, Error> {
        // Subscribed before the first look, so that no change between looking and waiting is missed.
        let (mut views, mut changes) = (self.ports.node.observe(), self.store.changes());
        loop {
            let observed = views.borrow_and_update().machines.get(id).cloned();
            changes.borrow_and_update();
            let row = machines::find(self.store.reader(), app.id, id).await?;
            let row = row.ok_or_else(|| Error::not_found("machine", id.as_str()))?;
            let state = view::state(&row, observed.as_deref());
            let version = observed.as_ref().map_or(&row.spec.version, |observed| &observed.spec.version);
            let right_version = wanted.version.as_deref().is_none_or(|wanted| wanted == version.as_str());
            if wanted.states.iter().any(|target| target.is_met(state)) && right_version {
                return Ok(WaitReply { ok: true, state, version: version.clone() });
            }
            refuse_in_vain(state, observed.as_deref(), wanted)?;
            tokio::select! {
                changed = views.changed() => {
                    changed.map_err(|_| Error::WaitFailed("the host is shutting down".into()))?;
                }
                _ = changes.changed() => {}
            }
        }
    }
}

/// Says so at once if the states waited for will not come by themselves.
fn refuse_in_vain(state: MachineState, observed: Option<&Observed>, wanted: &WaitFor) -> Result<(), Error> {
    let waits_for = |state| wanted.states.contains(&Target::State(state));
    match state {
        MachineState::Destroyed | MachineState::Destroying if !waits_for(MachineState::Destroyed) => {
            Err(Error::WaitFailed(format!("it is {state}")))
        }
        MachineState::Failed if waits_for(MachineState::Started) && wanted.states.len() == 1 => {
            let reason = observed.and_then(|observed| observed.reason.clone());
            Err(Error::WaitFailed(reason.unwrap_or_else(|| "it failed".to_owned())))
        }
        _ => Ok(()),
    }
}
