//! Calls: judged by the table of what may happen when, then turned into changes of the record.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::internal::{NodeError, StopRequest};
use model::machine::{Action, MachineSpec, MachineState, Observed, Verdict};

use super::{
    Command, Reply,
    actor::{Actor, Until},
    history::Source,
    plan::{self, Vm},
    run_spec::signal_number,
    validate::{MAX_STOP_TIMEOUT, validate},
};
use crate::{
    ledger::{Cause, Down, Goal},
    link::Link,
};

/// How long a program may take to end where nothing else is said.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The order to go down without another word.
const KILL: Down = Down { kill: true, signal: 0, timeout_ms: 0, drain_ms: 0, cause: Cause::Asked };
/// The signal that nobody can refuse (signal(7)).
const SIGKILL: i32 = 9;

impl Actor {
    pub(super) async fn accept(&mut self, command: Command) {
        match command {
            Command::Start(source, reply) => self.start(source, reply).await,
            Command::Stop(how, reply) => self.stop(how, reply).await,
            Command::Suspend(reply) => self.suspend(reply).await,
            Command::Sleep { how, why, reply } => self.sleep(how, why, reply).await,
            Command::Restart(how, reply) => self.restart(how, reply).await,
            Command::Update(spec, reply) => drop(reply.send(self.update(spec).await)),
            Command::Destroy { force, reply } => self.destroy(force, reply).await,
            Command::Cordon(cordoned, reply) => drop(reply.send(self.cordon(cordoned).await)),
            Command::SetMetadata(metadata, reply) => drop(reply.send(self.set_metadata(metadata).await)),
            Command::Guest(action, reply) => drop(reply.send(self.guest(action))),
        }
    }

    async fn start(&mut self, source: Source, reply: Reply<MachineState>) {
        let before = plan::state(&self.record);
        let started = self.record.made.as_ref().is_some_and(|made| made.started && !made.exited);
        match before.may(Action::Start) {
            Verdict::Deny(reason) => drop(reply.send(Err(self.denied(reason)))),
            Verdict::Ignore if started => drop(reply.send(Ok(before))),
            Verdict::Ignore => self.wait_until(Until::Started(self.starts), before, reply),
            Verdict::Accept if self.is_dozing() => {
                let awake = self.stay_awake("it is wanted again").await;
                drop(reply.send(awake.map(|()| before)));
            }
            Verdict::Accept => match self.want_running(source, None).await {
                Ok(()) => self.wait_until(Until::Started(self.starts), before, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
        }
    }

    async fn stop(&mut self, how: StopRequest, reply: Reply<()>) {
        let order = match plan::state(&self.record).may(Action::Stop) {
            Verdict::Deny(reason) => return drop(reply.send(Err(self.denied(reason)))),
            Verdict::Ignore => return drop(reply.send(Ok(()))),
            Verdict::Accept => self.order(&how),
        };
        let running = self.record.made.is_some();
        let ordered = match order {
            Ok(order) => {
                let stop = self.commit(|record| {
                    (record.goal, record.respawn) = (Goal::Rest, None);
                    record.down = running.then_some(order);
                    record.note("stop", "stopping", Source::User, None);
                });
                stop.await
            }
            Err(error) => Err(error),
        };
        match ordered {
            Ok(()) => {
                self.reconsider_asking();
                self.host.say(&self.record.spec, "Stopping machine");
                self.wait_until(Until::Down, (), reply);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn restart(&mut self, how: StopRequest, reply: Reply<()>) {
        let ordered = match plan::state(&self.record).may(Action::Restart) {
            Verdict::Deny(reason) => Err(self.denied(reason)),
            Verdict::Accept | Verdict::Ignore => match self.order(&how) {
                Ok(order) => self.want_running(Source::User, Some(order)).await,
                Err(error) => Err(error),
            },
        };
        match ordered {
            Ok(()) => {
                self.reconsider_asking();
                self.wait_until(Until::Started(self.starts), (), reply);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Changes the goal to a running program; what runs now goes down first if there is an order.
    async fn want_running(&mut self, source: Source, order: Option<Down>) -> Result<(), NodeError> {
        self.reserve()?;
        let running = self.record.made.is_some();
        let kind = if order.is_some() { "restart" } else { "start" };
        self.commit(|record| {
            (record.goal, record.failure, record.respawn) = (Goal::Run, None, None);
            (record.unattended, record.restarts) = (false, Vec::new());
            if let Some(order) = order.filter(|_| running) {
                record.down = Some(order);
            }
            record.note(kind, "starting", source, None);
        })
        .await
    }

    async fn update(&mut self, spec: Box<MachineSpec>) -> Result<Arc<Observed>, NodeError> {
        if let Verdict::Deny(reason) = plan::state(&self.record).may(Action::Update) {
            return Err(self.denied(reason));
        }
        let current = self.record.next_spec.as_deref().unwrap_or(&self.record.spec);
        if *current != *spec {
            self.replaceable(&spec)?;
            let order = self.order(&StopRequest::default())?;
            let running = self.record.made.is_some();
            let update = self.commit(|record| {
                if record.failure.take().is_some() {
                    record.goal = Goal::Run;
                }
                (record.next_spec, record.respawn, record.restarts) = (Some(spec), None, Vec::new());
                record.unattended = false;
                if running && record.down.is_none() {
                    record.down = Some(order);
                }
                record.note("update", "replacing", Source::User, None);
            });
            update.await?;
        }
        let observed = self.observed(plan::state(&self.record));
        self.publish(observed.state);
        Ok(Arc::new(observed))
    }

    /// Whether the spec can take the place of the present one.
    fn replaceable(&self, spec: &MachineSpec) -> Result<(), NodeError> {
        let old = &self.record.spec;
        if (&old.app, &old.org, old.network) != (&spec.app, &spec.org, spec.network) {
            return Err(NodeError::Invalid("a machine never changes its app, organization or network".into()));
        }
        validate(spec).map_err(NodeError::Invalid)?;
        if self.record.goal == Goal::Run {
            let memory = self.host.memory_mb(spec);
            self.host.capacity.check(&spec.id, memory).map_err(NodeError::Capacity)?;
        }
        Ok(())
    }

    async fn destroy(&mut self, force: bool, reply: Reply<()>) {
        let ordered = match plan::state(&self.record).may(Action::Destroy { force }) {
            Verdict::Deny(reason) => Err(self.denied(reason)),
            Verdict::Ignore => Ok(()),
            Verdict::Accept => {
                let running = self.record.made.is_some();
                let destroy = self.commit(|record| {
                    (record.goal, record.next_spec, record.respawn) = (Goal::Gone, None, None);
                    record.down = running.then_some(KILL);
                    record.note("destroy", "destroying", Source::User, None);
                });
                destroy.await
            }
        };
        match ordered {
            Ok(()) => self.wait_until(Until::Gone, (), reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn cordon(&mut self, cordoned: bool) -> Result<(), NodeError> {
        let state = plan::state(&self.record);
        if let Verdict::Deny(reason) = state.may(Action::Cordon) {
            return Err(self.denied(reason));
        }
        if self.record.cordoned == cordoned {
            return Ok(());
        }
        let kind = if cordoned { "cordon" } else { "uncordon" };
        let change = self.commit(|record| {
            record.cordoned = cordoned;
            record.note(kind, &state.to_string(), Source::User, None);
        });
        change.await?;
        self.publish(state);
        Ok(())
    }

    async fn set_metadata(&mut self, metadata: BTreeMap<String, String>) -> Result<(), NodeError> {
        let change = self.commit(|record| {
            if let Some(next) = &mut record.next_spec {
                next.config.metadata = metadata.clone();
            }
            record.spec.config.metadata = metadata;
        });
        change.await?;
        self.publish(plan::state(&self.record));
        Ok(())
    }

    fn guest(&self, action: Action) -> Result<Arc<Link>, NodeError> {
        if let Verdict::Deny(reason) = plan::state(&self.record).may(action) {
            return Err(self.denied(reason));
        }
        let link = self.link.clone();
        link.ok_or_else(|| self.denied("its guest cannot be reached yet; try again"))
    }

    /// Holds memory for the machine.
    pub(super) fn reserve(&mut self) -> Result<(), NodeError> {
        if self.reservation.is_none() {
            let (id, memory) = (&self.record.spec.id, self.host.memory_mb(&self.record.spec));
            self.reservation = Some(self.host.capacity.reserve(id, memory).map_err(NodeError::Capacity)?);
        }
        Ok(())
    }

    /// Stops the machine without changing what it is meant to do: the next start of the node starts it again.
    pub(super) async fn stop_for_now(&mut self) {
        // The edge has let go of all traffic before.
        let order = self.order(&StopRequest::default()).map_or(KILL, |order| Down { drain_ms: 0, ..order });
        if let Err(error) = self.commit(|record| record.down = Some(order)).await {
            tracing::error!(machine = %self.record.spec.id, %error, "the machine cannot be stopped");
        }
    }

    /// How the machine goes down: as asked, else as configured, else as the image says.
    pub(super) fn order(&self, how: &StopRequest) -> Result<Down, NodeError> {
        let config = &self.record.spec.config.stop_config;
        let signal = match how.signal.as_deref().filter(|signal| !signal.is_empty()) {
            Some(name) => signal_number(name).map_err(NodeError::Invalid)?,
            None => 0,
        };
        let configured = config.timeout.map(|timeout| timeout.0);
        let timeout = how.timeout.filter(|timeout| !timeout.is_zero()).or(configured).unwrap_or(STOP_TIMEOUT);
        let timeout_ms = timeout.min(MAX_STOP_TIMEOUT).as_millis() as u64;
        // Whoever wants it killed does not want to wait.
        let drain_ms = if signal == SIGKILL { 0 } else { timeout_ms };
        Ok(Down { kill: false, signal, timeout_ms, drain_ms, cause: Cause::Asked })
    }

    /// A program that has been asked to end is asked again where the order has changed.
    pub(super) fn reconsider_asking(&mut self) {
        if matches!(self.facts.vm, Vm::Asked(_)) {
            (self.facts.vm, self.errand) = (Vm::Running, None);
        }
    }

    pub(super) fn denied(&self, reason: &str) -> NodeError {
        let state = plan::state(&self.record);
        NodeError::Denied { machine: self.record.spec.id.clone(), state, reason: reason.into() }
    }
}
