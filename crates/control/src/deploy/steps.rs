//! Doing and undoing one step. Each may be done again after it was done in part or in full.

use std::time::Duration;

use api::{
    internal::{Launch, NodeError, StopRequest},
    public::deploys::DeployFailure,
};
use model::{
    ImageSpec, InstanceId, MachineId,
    machine::{MachineConfig, MachineSpec, MachineState},
};
use tokio::time::timeout;

use super::{
    failure,
    plan::{Before, Step},
    ready::{Exits, Wanted},
    runner::Run,
};
use crate::{
    error::Error,
    machines::made_up_name,
    store::{leases::LeaseRow, machines},
};

/// Why a step was not done.
pub(crate) enum StepError {
    /// The release is at fault, or the host: the deployment fails and is undone.
    Failed(Box<DeployFailure>),
    /// The control plane itself is at fault: the step is tried again.
    Broken(Error),
}

impl StepError {
    fn of(error: Error, failure: impl FnOnce(&Error) -> DeployFailure) -> Self {
        match error {
            Error::Store(_) | Error::Unreadable { .. } => Self::Broken(error),
            error => Self::Failed(Box::new(failure(&error))),
        }
    }
}

/// What a program gets to end if its configuration says nothing.
const DEFAULT_KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the node to publish what it has accepted.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);

impl Run<'_> {
    /// Does a step.
    pub(crate) async fn perform(&self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::Launch { machine, version, group, cordoned } => {
                let done = self.launch(machine, version, group, *cordoned).await;
                done.map_err(|error| self.refused(machine, "could not be created", error))
            }
            Step::Update { machine, to, group, before, .. } => {
                let done = self.update(machine, to, group, *before).await;
                done.map_err(|error| self.refused(machine, "could not be updated", error))
            }
            Step::AwaitReady { machine, version, group } => self.await_ready(machine, version, group).await,
            Step::Admit { machine } => {
                let done = self.cordon(machine, false).await;
                done.map_err(|error| self.refused(machine, "could not be given traffic", error))
            }
            Step::Retire { machine, .. } => {
                self.retire(machine).await;
                Ok(())
            }
            Step::Commit => self.commit().await.map_err(StepError::Broken),
            Step::Destroy { machine } => {
                if let Err(error) = self.control.remove(machine, true).await {
                    tracing::warn!(%machine, "not destroyed yet, will be tried again: {error}");
                }
                Ok(())
            }
        }
    }

    /// Undoes a step that was done, in part or in full. Nothing stops it: what cannot be undone is told.
    pub(crate) async fn undo(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Launch { machine, .. } => {
                if machines::find(self.control.store.reader(), self.app.id, machine).await?.is_some() {
                    self.retire(machine).await;
                    self.tolerate(machine, "destroy", self.control.remove(machine, true).await);
                }
            }
            Step::Update { machine, from, before, .. } => {
                self.tolerate(machine, "update back", self.update_back(machine, from, *before).await);
            }
            Step::Retire { machine, before } if before.running => {
                self.tolerate(machine, "start again", self.bring_back(machine, *before).await);
            }
            Step::Retire { machine, before } if !before.cordoned => {
                self.tolerate(machine, "give traffic back to", self.cordon(machine, false).await);
            }
            Step::AwaitReady { .. }
            | Step::Admit { .. }
            | Step::Retire { .. }
            | Step::Commit
            | Step::Destroy { .. } => {}
        }
        Ok(())
    }

    fn refused(&self, machine: &MachineId, what: &str, error: Error) -> StepError {
        StepError::of(error, |error| failure::refused(machine, what, error))
    }

    fn tolerate(&self, machine: &MachineId, what: &str, done: Result<(), Error>) {
        if let Err(error) = done {
            tracing::warn!(deployment = %self.row.id, %machine, "cannot {what} the machine: {error}");
        }
    }

    async fn launch(
        &self,
        machine: &MachineId,
        version: &InstanceId,
        group: &str,
        cordoned: bool,
    ) -> Result<(), Error> {
        let spec = self.new_spec(machine, version, group, made_up_name()).await?;
        let lease = self.lease(machine, version);
        self.control.launch(self.app.id, spec, Launch { start: true, cordoned }, Some(&lease)).await
    }

    /// The lease by which this deployment holds a machine.
    pub(crate) fn lease(&self, machine: &MachineId, version: &InstanceId) -> LeaseRow {
        LeaseRow {
            machine_id: machine.to_string(),
            nonce: kit::random::token(),
            owner: format!("deployment {}", self.row.id),
            description: format!("release v{}", self.release.version),
            version: version.to_string(),
            expires_at: crate::store::leases::NEVER,
            deployment_id: Some(self.row.id.clone()),
        }
    }

    /// What the release wants of a machine.
    async fn new_spec(
        &self,
        machine: &MachineId,
        version: &InstanceId,
        group: &str,
        name: String,
    ) -> Result<MachineSpec, Error> {
        let config = self.config(group)?;
        let image = ImageSpec { reference: self.release.image.clone(), digest: self.release.digest.clone() };
        let secrets = self.control.sealed_secrets(&self.app, self.release.secrets_version).await?;
        Ok(self.control.spec(&self.app, machine.clone(), version.clone(), name, image, config, secrets))
    }

    /// The configuration of a group's machines, marked with the release.
    pub(crate) fn config(&self, group: &str) -> Result<MachineConfig, Error> {
        let found = self.definition.group(group).ok_or_else(|| Error::not_found("process group", group))?;
        let mut config = found.config.clone();
        for (key, value) in [
            ("fly_platform_version", "v2".to_owned()),
            ("fly_process_group", group.to_owned()),
            ("fly_release_id", self.release.id.to_string()),
            ("fly_release_version", self.release.version.to_string()),
        ] {
            config.metadata.insert(key.to_owned(), value);
        }
        Ok(config)
    }

    async fn update(&self, machine: &MachineId, to: &InstanceId, group: &str, before: Before) -> Result<(), Error> {
        let row = self.control.live_machine(&self.app, machine).await?;
        let spec = match row.spec.version == *to {
            true => row.spec,
            false => {
                self.quiesce(machine).await;
                self.new_spec(machine, to, group, row.spec.name).await?
            }
        };
        self.control.give_spec(self.app.id, spec, None).await?;
        // From here on the edge holds what comes, until the machine is ready with its new version.
        if !before.cordoned {
            self.cordon(machine, false).await?;
        }
        if !before.running {
            self.control.ports.node.start(machine).await?;
        }
        Ok(())
    }

    async fn update_back(&self, machine: &MachineId, from: &InstanceId, before: Before) -> Result<(), Error> {
        let store = &self.control.store;
        let Some(spec) = machines::spec_of_version(store.reader(), machine, from.as_str()).await? else {
            return Err(Error::not_found("machine version", from.as_str()));
        };
        self.control.give_spec(self.app.id, spec.clone(), None).await?;
        if !before.cordoned {
            self.cordon(machine, false).await?;
        }
        if !before.running {
            return Ok(self.control.ports.node.stop(machine, StopRequest::default()).await?);
        }
        self.settle(&spec).await;
        Ok(())
    }

    async fn await_ready(&self, machine: &MachineId, version: &InstanceId, group: &str) -> Result<(), StepError> {
        let config = self.config(group).map_err(StepError::Broken)?;
        let wanted = Wanted { machine, version, config: &config, exits: Exits::Fail };
        match self.control.await_ready(wanted, self.definition.wait_timeout()).await {
            Ok(()) => Ok(()),
            Err(why) => Err(StepError::Failed(Box::new(self.control.diagnose(machine, &config, &why).await))),
        }
    }

    /// Cordons a machine or ends that, and returns when the node has published it, with the number of that view.
    async fn cordon(&self, machine: &MachineId, cordoned: bool) -> Result<(), Error> {
        self.cordoned_at(machine, cordoned).await.map(drop)
    }

    async fn cordoned_at(&self, machine: &MachineId, cordoned: bool) -> Result<u64, Error> {
        let node = &self.control.ports.node;
        node.cordon(machine, cordoned).await?;
        let mut views = node.observe();
        let published =
            views.wait_for(|view| view.machines.get(machine).is_none_or(|observed| observed.cordoned == cordoned));
        match timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(view)) => Ok(view.generation),
            _ => {
                Err(NodeError::Timeout { what: format!("machine {machine} to be cordoned"), after: PUBLISH_TIMEOUT }
                    .into())
            }
        }
    }

    /// Takes a machine's traffic away, lets what is under way end, and stops it. It is destroyed later with force, so
    /// what goes wrong here is only told.
    async fn retire(&self, machine: &MachineId) {
        if self.control.observed(machine).is_none() {
            return;
        }
        self.quiesce(machine).await;
        let stopped = self.control.ports.node.stop(machine, StopRequest::default()).await;
        self.tolerate(machine, "stop", stopped.map_err(Error::from));
    }

    /// Takes a machine's traffic away and lets what is under way end. What goes wrong is only told.
    async fn quiesce(&self, machine: &MachineId) {
        let Some(observed) = self.control.observed(machine) else { return };
        match self.cordoned_at(machine, true).await {
            Ok(generation) if observed.state == MachineState::Started => {
                let deadline = self.drain_time(&observed.spec.config);
                let left = self.control.ports.drain.drained(machine, generation, deadline).await;
                if left > 0 {
                    let words = format!("{left} requests were still open after {} s", deadline.as_secs());
                    self.tell(Some(machine), &words).await;
                }
            }
            Ok(_) => {}
            Err(error) => self.tolerate(machine, "cordon", Err(error)),
        }
    }

    fn drain_time(&self, config: &MachineConfig) -> Duration {
        let kill_timeout = config.stop_config.timeout.map_or(DEFAULT_KILL_TIMEOUT, |timeout| timeout.0);
        kill_timeout.max(self.control.options.tempo.drain)
    }

    /// Starts a retired machine again and gives it its traffic back.
    async fn bring_back(&self, machine: &MachineId, before: Before) -> Result<(), Error> {
        let row = self.control.live_machine(&self.app, machine).await?;
        self.control.ports.node.start(machine).await?;
        self.settle(&row.spec).await;
        if before.cordoned { Ok(()) } else { self.cordon(machine, false).await }
    }

    /// Waits until a machine that has run before is ready again, but not for ever: it is still the best there is.
    async fn settle(&self, spec: &MachineSpec) {
        let wanted = Wanted { machine: &spec.id, version: &spec.version, config: &spec.config, exits: Exits::Pass };
        if let Err(why) = self.control.await_ready(wanted, self.definition.wait_timeout()).await {
            self.tell(Some(&spec.id), &format!("the machine is not ready again: {why}")).await;
        }
    }
}
