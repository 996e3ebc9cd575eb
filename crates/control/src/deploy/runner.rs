//! Carries a deployment from where it stands to its end. See the module above for the states.

use api::public::deploys::{DeployFailure, DeploymentStatus, Plan};
use kit::{clock::unix_ns, report::Report};
use model::{
    InstanceId, MachineId,
    log::{LogRecord, LogSource},
};
use tokio::time::{Duration, Instant, timeout_at};

use super::{
    Definition,
    plan::{self, Before, Change, Ids, Present, Step, Wanted},
    steps::StepError,
};
use crate::{
    Control,
    error::Error,
    machines::{new_machine_id, new_version},
    store::{
        Tx,
        apps::{self, AppRow},
        deployments::{self, DeploymentRow},
        leases::{self, LeaseRow},
        machines::{self, MachineRow},
        releases::{self, ReleaseRow, status},
    },
};

/// A deployment at work.
pub(crate) struct Run<'a> {
    pub control: &'a Control,
    pub app: AppRow,
    pub release: ReleaseRow,
    pub definition: Definition,
    pub row: DeploymentRow,
}

/// Longest time between two looks at a lease that is waited for.
const LEASE_POLL: Duration = Duration::from_secs(60);

/// Identifiers nobody has used before.
pub(crate) struct RandomIds;

impl Ids for RandomIds {
    fn machine(&mut self) -> MachineId {
        new_machine_id()
    }

    fn version(&mut self) -> InstanceId {
        new_version()
    }
}

impl Control {
    /// Carries the app's next deployment to its end, if there is one.
    pub(crate) async fn work_on_deployments(&self, app: i64) -> Result<(), Error> {
        let Some(row) = deployments::next(self.store.reader(), app).await? else { return Ok(()) };
        let app = apps::by_id(self.store.reader(), app).await?;
        let release = releases::by_id(self.store.reader(), row.release_id).await?;
        let (Some(app), Some(release)) = (app, release) else { return Ok(()) };
        let definition = release.definition()?;
        Run { control: self, app, release, definition, row }.finish().await
    }

    /// What becomes of each of the app's machines if this release is rolled out with these counts.
    pub(crate) async fn changes(
        &self,
        app: &AppRow,
        definition: &Definition,
        release: u32,
        asked: &std::collections::BTreeMap<String, u32>,
    ) -> Result<Vec<Change>, Error> {
        let present = self.present(app).await?;
        let stored = apps::counts(self.store.reader(), app.id).await?;
        let wanted: Vec<_> = definition
            .groups
            .iter()
            .map(|group| {
                let here = present.iter().filter(|machine| machine.group == group.name).count();
                let usual = if here > 0 { here as u32 } else { stored.get(&group.name).copied().unwrap_or(1) };
                let count = asked.get(&group.name).copied().unwrap_or(usual);
                let volumes: Vec<_> = group.config.mounts.iter().map(|mount| mount.name.clone()).collect();
                // A volume can be used by one machine at a time.
                let count = if volumes.is_empty() { count } else { count.min(1) };
                Wanted { name: group.name.clone(), count, volumes }
            })
            .collect();
        Ok(plan::changes(&present, &wanted, release, &mut RandomIds))
    }

    /// The app's machines that deployments manage, oldest first.
    async fn present(&self, app: &AppRow) -> Result<Vec<Present>, Error> {
        let rows = machines::of_app(self.store.reader(), app.id).await?;
        Ok(rows.iter().filter(|row| !row.gone).filter_map(|row| self.present_machine(row)).collect())
    }

    fn present_machine(&self, row: &MachineRow) -> Option<Present> {
        let metadata = &row.spec.config.metadata;
        metadata.get("fly_platform_version")?;
        let observed = self.observed(&row.spec.id);
        let state = Before {
            running: observed.as_ref().is_some_and(|observed| observed.state.may_run()),
            cordoned: observed.as_ref().is_some_and(|observed| observed.cordoned),
        };
        Some(Present {
            id: row.spec.id.clone(),
            group: metadata.get("fly_process_group").cloned().unwrap_or_else(|| "app".to_owned()),
            release: metadata.get("fly_release_version").and_then(|version| version.parse().ok()),
            version: row.spec.version.clone(),
            volumes: row.spec.config.mounts.iter().map(|mount| mount.name.clone()).collect(),
            state,
        })
    }
}

/// The plan as it is shown.
pub(crate) fn show_plan(changes: &[Change], immediate: bool, image: &str, mut warnings: Vec<String>) -> Plan {
    warnings.extend(plan::warnings(changes, immediate));
    Plan { steps: changes.iter().map(plan::describe).collect(), warnings, image: image.to_owned() }
}

impl Run<'_> {
    async fn finish(mut self) -> Result<(), Error> {
        if self.row.status == DeploymentStatus::Pending {
            self.begin().await?;
        }
        while self.row.status == DeploymentStatus::Running {
            self.step_forward().await?;
        }
        while self.row.status == DeploymentStatus::Undoing {
            self.step_back().await?;
        }
        Ok(())
    }

    /// Chooses the steps and takes the leases. Machines that somebody else has leased are waited for.
    async fn begin(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.definition.wait_timeout();
        let mut told = false;
        loop {
            // Subscribed before looking, so that a lease given back meanwhile is not missed.
            let mut changes = self.control.store.changes();
            let Some(lease) = self.try_to_begin().await? else { return Ok(()) };
            if Instant::now() >= deadline {
                return self.fail_at_once(&lease).await;
            }
            if !told {
                let words = format!("waits for the lease of machine {}, held by {}", lease.machine_id, lease.owner);
                self.tell(None, &words).await;
                told = true;
                continue;
            }
            let left = Duration::from_millis(lease.expires_at.saturating_sub(kit::clock::unix_ms()) + 1);
            let until = deadline.min(Instant::now() + left.min(LEASE_POLL));
            let _ = timeout_at(until, changes.changed()).await;
        }
    }

    /// Begins, unless somebody else holds the lease that is returned.
    async fn try_to_begin(&mut self) -> Result<Option<LeaseRow>, Error> {
        let changes = self.control.changes(&self.app, &self.definition, self.release.version, &self.row.counts).await?;
        let mut tx = self.control.store.begin().await?;
        for machine in changes.iter().filter_map(plan::touched) {
            if let Some(lease) = leases::find(&mut *tx, &machine.id).await? {
                return Ok(Some(lease));
            }
            leases::put(&mut tx, &self.lease(&machine.id, &machine.version)).await?;
        }
        let immediate = self.definition.immediate;
        self.row.steps = plan::steps(&changes, immediate);
        let kept = std::mem::take(&mut self.row.plan.warnings);
        let mut plan = show_plan(&changes, immediate, &self.release.image, Vec::new());
        plan.warnings.extend(kept.into_iter().filter(|warning| !plan.warnings.contains(warning)).collect::<Vec<_>>());
        self.row.plan = plan;
        self.row.status = DeploymentStatus::Running;
        if self.release.status == status::PENDING {
            releases::set_status(&mut tx, self.release.id, status::RUNNING, None).await?;
        }
        self.save(tx, None, &format!("release v{} is being rolled out", self.release.version)).await?;
        Ok(None)
    }

    async fn fail_at_once(&mut self, lease: &LeaseRow) -> Result<(), Error> {
        let summary = format!("machine {}: lease currently held by {}", lease.machine_id, lease.owner);
        let hint = "let its holder release it, then deploy again".to_owned();
        self.row.failure = Some(DeployFailure { summary, hint, ..DeployFailure::default() });
        self.end(DeploymentStatus::Failed).await
    }

    /// Does the step at the cursor, or ends after the last one.
    async fn step_forward(&mut self) -> Result<(), Error> {
        let Some(step) = self.row.steps.get(self.row.cursor).cloned() else {
            return self.end(DeploymentStatus::Complete).await;
        };
        match self.perform(&step).await {
            // It has stored the cursor itself, together with what it does.
            Ok(()) if step == Step::Commit => {
                self.row.cursor += 1;
                Ok(())
            }
            Ok(()) => {
                self.row.cursor += 1;
                let tx = self.control.store.begin().await?;
                let (machine, words) = done(&step);
                self.save(tx, machine, &words).await
            }
            Err(StepError::Broken(error)) => Err(error),
            Err(StepError::Failed(failure)) => self.turn_back(*failure).await,
        }
    }

    /// Writes down why, and turns around. The step that failed may be done in part, so it is undone too.
    async fn turn_back(&mut self, failure: DeployFailure) -> Result<(), Error> {
        let words = format!("failed: {}", failure.summary);
        let machine = failure.machine.clone();
        self.row.failure = Some(failure);
        self.row.status = DeploymentStatus::Undoing;
        self.row.cursor += 1;
        let tx = self.control.store.begin().await?;
        self.save(tx, machine.as_ref(), &words).await
    }

    async fn step_back(&mut self) -> Result<(), Error> {
        let Some(last) = self.row.cursor.checked_sub(1) else {
            return self.end(DeploymentStatus::Failed).await;
        };
        let step = self.row.steps[last].clone();
        self.undo(&step).await?;
        self.row.cursor = last;
        let tx = self.control.store.begin().await?;
        match undone(&step) {
            Some((machine, words)) => self.save(tx, Some(machine), &words).await,
            None => self.save_quietly(tx).await,
        }
    }

    /// The release is the current one: the one transaction from which on there is no way back.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let mut tx = self.control.store.begin().await?;
        apps::set_current_release(&mut tx, self.app.id, self.release.id).await?;
        releases::set_status(&mut tx, self.release.id, status::COMPLETE, None).await?;
        for (group, count) in &self.row.counts {
            apps::set_count(&mut tx, self.app.id, group, *count).await?;
        }
        let row = DeploymentRow { cursor: self.row.cursor + 1, ..self.row.clone() };
        deployments::save(&mut tx, &row).await?;
        let words = "the release runs";
        deployments::tell(&mut tx, &row.id, row.status, None, words).await?;
        self.control.store.commit(tx).await?;
        self.log(None, words);
        Ok(())
    }

    async fn end(&mut self, status: DeploymentStatus) -> Result<(), Error> {
        self.row.status = status;
        self.row.ended_at = Some(kit::clock::unix_ms());
        let mut tx = self.control.store.begin().await?;
        leases::delete_of_deployment(&mut tx, &self.row.id).await?;
        deployments::forget_old(&mut tx, self.app.id).await?;
        let words = match &self.row.failure {
            None => "done".to_owned(),
            Some(failure) => {
                // A release that ran before, and was only to be scaled, is none the worse for it.
                if self.release.status != status::COMPLETE {
                    releases::set_status(&mut tx, self.release.id, status::FAILED, Some(&failure.summary)).await?;
                }
                "undone: the machines are as they were before".to_owned()
            }
        };
        self.save(tx, None, &words).await
    }

    /// Stores where the deployment stands together with what is told about it.
    async fn save(&self, mut tx: Tx, machine: Option<&MachineId>, words: &str) -> Result<(), Error> {
        deployments::tell(&mut tx, &self.row.id, self.row.status, machine, words).await?;
        self.save_quietly(tx).await?;
        self.log(machine, words);
        Ok(())
    }

    async fn save_quietly(&self, mut tx: Tx) -> Result<(), Error> {
        deployments::save(&mut tx, &self.row).await?;
        self.control.store.commit(tx).await
    }

    /// Tells something on the way. It is not worth failing for.
    pub(crate) async fn tell(&self, machine: Option<&MachineId>, words: &str) {
        let told = async {
            let mut tx = self.control.store.begin().await?;
            deployments::tell(&mut tx, &self.row.id, self.row.status, machine, words).await?;
            self.control.store.commit(tx).await
        };
        if let Err(error) = told.await {
            tracing::warn!(deployment = %self.row.id, "cannot tell {words:?}: {}", Report(&error));
        }
        self.log(machine, words);
    }

    /// The same in the app's log, where the whole story of a machine is.
    fn log(&self, machine: Option<&MachineId>, words: &str) {
        self.control.ports.log_sink.append(LogRecord {
            timestamp_ns: unix_ns(),
            app: self.app.name.clone(),
            machine: machine.cloned(),
            region: self.control.options.region.clone(),
            source: LogSource::Platform,
            message: format!("deployment of v{}: {words}", self.release.version),
        });
    }
}

/// What has been done, in words.
fn done(step: &Step) -> (Option<&MachineId>, String) {
    match step {
        Step::Launch { machine, group, .. } => (Some(machine), format!("machine {machine} of {group} is made")),
        Step::Update { machine, .. } => (Some(machine), format!("machine {machine} has the new configuration")),
        Step::AwaitReady { machine, .. } => (Some(machine), format!("machine {machine} is ready")),
        Step::Admit { machine } => (Some(machine), format!("machine {machine} gets traffic")),
        Step::Retire { machine, .. } => (Some(machine), format!("machine {machine} is drained and stopped")),
        Step::Commit => (None, "the release runs".to_owned()),
        Step::Destroy { machine } => (Some(machine), format!("machine {machine} is destroyed")),
    }
}

/// What has been undone, in words, where there was something to undo.
fn undone(step: &Step) -> Option<(&MachineId, String)> {
    match step {
        Step::Launch { machine, .. } => Some((machine, format!("machine {machine} is destroyed again"))),
        Step::Update { machine, .. } => {
            Some((machine, format!("machine {machine} has its former configuration again")))
        }
        Step::Retire { machine, .. } => Some((machine, format!("machine {machine} runs again"))),
        Step::AwaitReady { .. } | Step::Admit { .. } | Step::Commit | Step::Destroy { .. } => None,
    }
}
