//! The owner task of a machine.

use std::{sync::Arc, time::Duration};

use api::internal::{NodeError, Rootfs};
use model::{
    Timestamp,
    machine::{CheckStatus, MachineState, Observed},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Command, Host, Reply, now,
    plan::{self, Facts, Step, Vm},
};
use crate::{
    capacity::Reservation,
    checks::{Answer, Checks},
    ledger::{Goal, Record, Suspended},
    link::{Link, LinkError, LinkStatus},
};

/// Answers of health checks that wait to be published.
const ANSWERS: usize = 16;
/// How long to wait before a step that failed and must succeed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The state of the task.
pub(super) struct Actor {
    pub(super) host: Arc<Host>,
    pub(super) record: Record,
    pub(super) facts: Facts,
    pub(super) rootfs: Option<Rootfs>,
    pub(super) link: Option<Arc<Link>>,
    pub(super) status: Option<watch::Receiver<LinkStatus>>,
    /// What runs beside the task; one at a time, and dropped when its outcome no longer matters.
    pub(super) errand: Option<AbortOnDropHandle<Outcome>>,
    pub(super) checks: Option<Checks>,
    pub(super) check_states: Vec<CheckStatus>,
    pub(super) reservation: Option<Reservation>,
    /// How often its program has been started in the life of this task.
    pub(super) starts: u64,
    /// When the present start began.
    pub(super) began: Instant,
    /// The present start goes on with kept memory.
    pub(super) resumes: bool,
    /// Why a step that must succeed does not, while it is tried again.
    pub(super) trouble: Option<String>,
    pub(super) answers: mpsc::Sender<Answer>,
    waiters: Vec<Waiter>,
    inbox: mpsc::Receiver<Command>,
    answered: mpsc::Receiver<Answer>,
}

/// What came of an errand.
pub(super) enum Outcome {
    /// The root filesystem is at hand, or cannot be had.
    Fetched(Result<Rootfs, String>),
    /// Nothing is under way to it any more, but for so much that did not end in time.
    Drained(usize),
    /// Its memory is on the disk, or could not be written.
    Suspended(Result<Suspended, String>),
    /// The guest was told something. What came of it shows in the link's status, unless it cannot be told anything.
    Told(Result<(), LinkError>),
    /// It broke down.
    Lost,
}

/// Something that happened.
enum Happening {
    Command(Box<Command>),
    Guest(LinkStatus),
    Errand(Outcome),
    Check(Answer),
    Time,
    Leave,
}

/// A call that waits for the machine to get somewhere.
struct Waiter {
    until: Until,
    reply: Box<dyn FnOnce(Result<(), NodeError>) + Send>,
}

/// Where a caller wants the machine to be.
pub(super) enum Until {
    /// Its program has been started more often than so many times.
    Started(u64),
    /// Nothing runs.
    Down,
    /// Nothing runs, and nothing is about to.
    Asleep,
    /// It is gone.
    Gone,
}

impl Actor {
    /// Takes over a machine, and puts it into the picture.
    pub(super) fn new(host: Arc<Host>, record: Record, vm: Vm, inbox: mpsc::Receiver<Command>) -> Self {
        let facts = Facts::after_restart(&record, vm);
        let (answers, answered) = mpsc::channel(ANSWERS);
        let actor = Self {
            host,
            record,
            facts,
            rootfs: None,
            link: None,
            status: None,
            errand: None,
            checks: None,
            check_states: Vec::new(),
            reservation: None,
            starts: 0,
            began: Instant::now(),
            resumes: false,
            trouble: None,
            answers,
            waiters: Vec::new(),
            inbox,
            answered,
        };
        actor.publish(plan::state(&actor.record));
        actor
    }

    /// Lives until the machine is gone or the node is closed.
    pub(super) async fn run(mut self) {
        self.take_over();
        loop {
            self.publish(plan::state(&self.record));
            self.answer_waiters();
            if self.must_leave() {
                return;
            }
            match plan::next(&self.record, &self.facts, now()) {
                Step::Wait(until) => {
                    let happening = self.happening(until).await;
                    self.take_note(happening).await;
                }
                Step::Erase => {
                    if self.attempt(Step::Erase).await {
                        return self.farewell();
                    }
                }
                step => _ = self.attempt(step).await,
            }
        }
    }

    /// Takes a step. One that fails and must not be given up is tried again after a pause.
    async fn attempt(&mut self, step: Step) -> bool {
        self.host.probe.tell(step.name());
        let taken = self.take(step).await;
        match taken {
            Ok(()) => {
                self.trouble = None;
                self.host.probe.tell(&format!("{}:done", step.name()));
                true
            }
            Err(reason) => {
                tracing::warn!(machine = %self.record.spec.id, step = step.name(), %reason, "a step failed");
                self.trouble = Some(format!("{} does not succeed and is tried again: {reason}", step.name()));
                self.publish(plan::state(&self.record));
                tokio::time::sleep(RETRY).await;
                false
            }
        }
    }

    /// Waits for the next thing that happens, at most until a moment of the wall clock.
    async fn happening(&mut self, until: Option<Timestamp>) -> Happening {
        let deadline = until.map(|at| Instant::now() + Duration::from_millis(at.0.saturating_sub(now().0)));
        tokio::select! {
            biased;
            () = self.host.leave.cancelled() => Happening::Leave,
            () = self.host.stop_all.cancelled(), if self.record.down.is_none() => Happening::Leave,
            status = next_status(&mut self.status) => Happening::Guest(status),
            outcome = next_outcome(&mut self.errand) => Happening::Errand(outcome),
            Some(command) = self.inbox.recv() => Happening::Command(Box::new(command)),
            Some(answer) = self.answered.recv() => Happening::Check(answer),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => Happening::Time,
        }
    }

    async fn take_note(&mut self, happening: Happening) {
        match happening {
            Happening::Command(command) => self.accept(*command).await,
            Happening::Guest(status) => self.guest_changed(status).await,
            Happening::Errand(outcome) => self.errand_ended(outcome).await,
            Happening::Check(answer) => self.checked(answer).await,
            Happening::Time => {}
            Happening::Leave if self.record.made.is_some() && !self.host.leave.is_cancelled() => {
                self.stop_for_now().await;
            }
            Happening::Leave => {}
        }
    }

    /// Whether the node is being closed and nothing is left to be done for that.
    fn must_leave(&self) -> bool {
        self.host.leave.is_cancelled() || self.host.stop_all.is_cancelled() && self.record.made.is_none()
    }

    /// Changes the record: on the disk first, then here.
    pub(super) async fn commit(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), NodeError> {
        let mut next = self.record.clone();
        change(&mut next);
        next.updated_at = now();
        let ledger = self.host.ledger.clone();
        let written = tokio::task::spawn_blocking(move || ledger.write(&next).map(|()| next)).await;
        let internal = |error: &dyn std::error::Error| NodeError::Internal(kit::report::Report(error).to_string());
        self.record = written.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
        Ok(())
    }

    /// What the node says of the machine.
    pub(super) fn observed(&self, state: MachineState) -> Observed {
        let record = &self.record;
        Observed {
            spec: record.next_spec.as_deref().unwrap_or(&record.spec).clone(),
            state,
            addresses: self.host.addresses(&record.spec, record.slot),
            cordoned: record.cordoned,
            checks: self.check_states.clone(),
            events: record.events.clone(),
            last_exit: record.last_exit.clone(),
            reason: record.failure.clone().or_else(|| self.trouble.clone()),
            isolation: record.isolation,
            created_at: record.created_at,
            updated_at: now(),
        }
    }

    pub(super) fn publish(&self, state: MachineState) {
        self.host.view.publish(self.observed(state));
    }

    /// The machine is gone: says so, to those who waited for it and to those who did not.
    fn farewell(mut self) {
        self.publish(MachineState::Destroyed);
        for waiter in std::mem::take(&mut self.waiters) {
            let answer = match waiter.until {
                Until::Gone | Until::Down | Until::Asleep => Ok(()),
                Until::Started(_) => Err(NodeError::NotFound(self.record.spec.id.clone())),
            };
            (waiter.reply)(answer);
        }
    }

    /// Has a caller wait until the machine is there; then `value` is the answer.
    pub(super) fn wait_until<T: Send + 'static>(&mut self, until: Until, value: T, reply: Reply<T>) {
        self.once(until, move |reached| drop(reply.send(reached.map(|()| value))));
    }

    /// Does something once the machine is there, or will not get there.
    pub(super) fn once(&mut self, until: Until, reply: impl FnOnce(Result<(), NodeError>) + Send + 'static) {
        self.waiters.push(Waiter { until, reply: Box::new(reply) });
    }

    fn answer_waiters(&mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            match self.verdict(&waiter.until) {
                Some(answer) => (waiter.reply)(answer),
                None => self.waiters.push(waiter),
            }
        }
    }

    /// Whether the machine is where a caller wants it, or will not get there.
    fn verdict(&self, until: &Until) -> Option<Result<(), NodeError>> {
        let (record, machine) = (&self.record, &self.record.spec.id);
        let state = plan::state(record);
        let given_up = |reason: &str| NodeError::Denied { machine: machine.clone(), state, reason: reason.into() };
        match until {
            Until::Started(before) if self.starts > *before => Some(Ok(())),
            Until::Started(_) if state == MachineState::Failed => {
                Some(Err(NodeError::Failed(record.failure.clone().unwrap_or_default())))
            }
            Until::Started(_) if record.goal == Goal::Run || record.failure.is_some() => None,
            Until::Started(_) => Some(Err(given_up("another request ended it before it had started; start it again"))),
            Until::Down => record.made.is_none().then_some(Ok(())),
            Until::Asleep if record.goal == Goal::Run => Some(Err(given_up("something came for it; it stays awake"))),
            Until::Asleep => record.made.is_none().then_some(Ok(())),
            Until::Gone => None,
        }
    }
}

async fn next_status(status: &mut Option<watch::Receiver<LinkStatus>>) -> LinkStatus {
    if let Some(receiver) = status
        && receiver.changed().await.is_ok()
    {
        return receiver.borrow_and_update().clone();
    }
    // The link's task has ended, and has said why before.
    *status = None;
    std::future::pending().await
}

async fn next_outcome(errand: &mut Option<AbortOnDropHandle<Outcome>>) -> Outcome {
    if let Some(running) = errand {
        let ended = running.await;
        *errand = None;
        return ended.unwrap_or(Outcome::Lost);
    }
    std::future::pending().await
}
