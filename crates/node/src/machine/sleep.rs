//! How a machine comes to rest and may be called back: draining, falling asleep, keeping its memory.
//!
//! ```text
//!            sleep                 drained            suspended, or its program ended
//!   started ──────▶ (traffic ends) ───────▶ (no way back) ─────────────────────────▶ asleep
//!      ▲  ▲               │ │ something is still under way,
//!      │  └───────────────┘ │ or a request wakes it
//!      └────────────────────┘
//! ```
//!
//! Until its program has been asked to end, or its memory is being written, a machine that falls asleep loses nothing by
//! staying awake. After that it goes down first and comes up again.

use std::time::Duration;

use api::internal::{Idleness, Nap, NodeError, StopRequest};
use model::{
    GoDuration,
    machine::{Action, MachineState, Sleep, Verdict},
};
use tokio::time::Instant;

use super::{
    Reply,
    actor::{Actor, Outcome, Until},
    history::{Source, because},
    plan::{self, Facts, Have, Vm},
};
use crate::{
    ledger::{Cause, Down, Goal, Suspended},
    link::LinkStatus,
    vmm,
};

impl Actor {
    /// Puts the machine to sleep, unless it says that it is busy.
    pub(super) async fn sleep(&mut self, how: Sleep, why: Idleness, reply: Reply<Nap>) {
        let nap = match plan::state(&self.record) {
            MachineState::Stopped | MachineState::Suspended => Ok(Some(Nap::Asleep)),
            MachineState::Started if !self.record.cordoned => match self.busy_for() {
                Some(left) => Ok(Some(self.left_alone(left))),
                None => self.doze(how, why).await.map(|()| None),
            },
            _ => Ok(Some(Nap::Disturbed)),
        };
        match nap {
            Ok(None) => self.once(Until::Asleep, |reached| drop(reply.send(asleep(reached)))),
            Ok(Some(nap)) => drop(reply.send(Ok(nap))),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn left_alone(&self, left: Duration) -> Nap {
        let left_s = GoDuration::from_secs(left.as_secs().max(1));
        self.host
            .say(&self.record.spec, format!("Machine is left awake: its program says that it is busy for {left_s}"));
        Nap::Busy(left)
    }

    async fn doze(&mut self, how: Sleep, why: Idleness) -> Result<(), NodeError> {
        let order = Down { cause: Cause::Idle, ..self.order(&StopRequest::default())? };
        let (goal, kind, status, verb) = match how {
            Sleep::Stopped => (Goal::Rest, "stop", "stopping", "is stopped"),
            Sleep::Suspended => (Goal::Suspend, "suspend", "suspending", "is suspended"),
        };
        let why = match why {
            Idleness::Idle(time) => format!("has had nothing to do for {}", GoDuration(time)),
            Idleness::Spare(time) => format!("has not been needed beside the others for {}", GoDuration(time)),
        };
        self.facts.drained = Have::No;
        let note = because(&why);
        self.commit(|record| {
            (record.goal, record.respawn, record.down) = (goal, None, Some(order));
            record.note(kind, status, Source::Proxy, note);
        })
        .await?;
        self.host.say(&self.record.spec, format!("Machine {why} and {verb}; a request wakes it"));
        Ok(())
    }

    /// Keeps the machine's memory and ends its virtual machine.
    pub(super) async fn suspend(&mut self, reply: Reply<()>) {
        let ordered = match plan::state(&self.record).may(Action::Suspend) {
            Verdict::Deny(reason) => Err(self.denied(reason)),
            Verdict::Ignore => Ok(()),
            Verdict::Accept => self.want_suspended().await,
        };
        match ordered {
            Ok(()) => self.wait_until(Until::Down, (), reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn want_suspended(&mut self) -> Result<(), NodeError> {
        let order = self.order(&StopRequest::default())?;
        self.facts.drained = Have::No;
        self.commit(|record| {
            (record.goal, record.respawn, record.down) = (Goal::Suspend, None, Some(order));
            record.note("suspend", "suspending", Source::User, None);
        })
        .await?;
        self.host.say(&self.record.spec, "Suspending machine");
        Ok(())
    }

    /// Whether the machine falls asleep and loses nothing by staying awake.
    pub(super) fn is_dozing(&self) -> bool {
        self.facts.vm == Vm::Running && self.record.down.as_ref().is_some_and(|down| down.cause == Cause::Idle)
    }

    /// Calls a machine back that was falling asleep.
    pub(super) async fn stay_awake(&mut self, why: &str) -> Result<(), NodeError> {
        self.commit(|record| {
            (record.goal, record.down) = (Goal::Run, None);
            record.note("start", "started", Source::Proxy, because(why));
        })
        .await?;
        (self.errand, self.facts.drained) = (None, Have::No);
        self.host.say(&self.record.spec, format!("Machine stays awake: {why}"));
        Ok(())
    }

    /// Waits, beside the task, until nothing is under way to the machine. The edge has seen by then that it takes no
    /// more, because what it has to catch up with is published.
    pub(super) fn drain(&mut self) {
        let patience = Duration::from_millis(self.record.down.as_ref().map_or(0, |down| down.drain_ms));
        let (drain, id) = (self.host.drain.clone(), self.record.spec.id.clone());
        let generation = self.host.view.observe().borrow().generation;
        self.facts.drained = Have::Maybe;
        self.send_off(async move { Outcome::Drained(drain.drained(&id, generation, patience).await) });
    }

    /// What was under way has ended, or its time has passed.
    pub(super) async fn drained(&mut self, left: usize) {
        self.facts.drained = Have::Yes;
        if left > 0 && self.is_dozing() {
            let awake = self.stay_awake("something is still under way to it").await;
            self.trouble = awake.err().map(|error| error.to_string());
        } else if left > 0 {
            let words = format!("{left} requests or connections are still open, and are cut off");
            self.host.say(&self.record.spec, words);
        }
    }

    /// Has the memory written, beside the task.
    pub(super) fn write_memory(&mut self) {
        let Some(made) = self.record.made.clone() else { return };
        let Some(vm) = made.vm.clone() else { return };
        let (vmm, memory) = (self.host.vmm.clone(), self.directory().join("memory"));
        self.facts.vm = Vm::Suspending;
        self.send_off(async move {
            let written = vmm.suspend(&vm, &memory).await;
            let suspended = Suspended { boot_id: made.boot_id, overlay: made.overlay, memory, isolation: vm.isolation };
            Outcome::Suspended(written.map(|()| suspended).map_err(|error| kit::report::Report(&error).to_string()))
        });
    }

    /// The memory is on the disk, or could not be written: then the program is asked to end instead.
    pub(super) async fn memory_written(&mut self, written: Result<Suspended, String>) {
        let noted = match written {
            Ok(suspended) => {
                let noted = self.commit(|record| record.suspended = Some(suspended)).await;
                noted.map_err(|error| error.to_string())
            }
            Err(reason) => Err(reason),
        };
        match noted {
            Ok(()) => {
                self.facts.vm = Vm::Dead;
                self.host.say(&self.record.spec, "Machine suspended");
            }
            Err(reason) => self.stop_instead(&reason).await,
        }
    }

    async fn stop_instead(&mut self, reason: &str) {
        self.host.say(&self.record.spec, format!("Machine cannot be suspended and is stopped instead: {reason}"));
        self.facts.vm = Vm::Running;
        let noted = self.commit(|record| match record.goal {
            Goal::Suspend => record.goal = Goal::Rest,
            // It is wanted again meanwhile, and has lost nothing.
            Goal::Run if record.next_spec.is_none() => record.down = None,
            _ => {}
        });
        self.trouble = noted.await.err().map(|error| error.to_string());
    }

    /// Throws the kept memory away.
    pub(super) async fn discard(&mut self) -> Result<(), String> {
        let Some(suspended) = self.record.suspended.clone() else { return Ok(()) };
        self.host.disks.remove_overlay(&suspended.overlay).map_err(|error| error.to_string())?;
        let memory = &suspended.memory;
        vmm::remove_memory(memory).map_err(|error| format!("cannot remove {}: {error}", memory.display()))?;
        self.commit(|record| record.suspended = None).await.map_err(|error| error.to_string())?;
        self.host.say(&self.record.spec, "The machine's kept memory is thrown away");
        Ok(())
    }

    /// The kept memory cannot be gone on with: what was made of it is removed, and the machine starts anew.
    pub(super) fn start_anew(&mut self, reason: &str) {
        self.host
            .say(&self.record.spec, format!("Machine cannot go on with its kept memory and starts anew: {reason}"));
        self.resumes = false;
        self.errand = None;
        self.facts = Facts { vm: Vm::Dead, overlay: Have::Maybe, ..self.facts };
    }

    /// How much longer its program is busy, as it says.
    fn busy_for(&self) -> Option<Duration> {
        let status = self.status.as_ref().map(|status| status.borrow().clone());
        let until = status.and_then(|LinkStatus { busy_until, .. }| busy_until)?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

fn asleep(reached: Result<(), NodeError>) -> Result<Nap, NodeError> {
    match reached {
        Ok(()) => Ok(Nap::Asleep),
        Err(NodeError::Denied { .. }) => Ok(Nap::Disturbed),
        Err(error) => Err(error),
    }
}
