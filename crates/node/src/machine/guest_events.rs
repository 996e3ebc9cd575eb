//! What happens by itself: the guest changes, an errand ends, a health check has an answer.

use std::time::Duration;

use guest::{BootFailure, Exit};
use model::{
    GoDuration, Timestamp,
    machine::{CheckState, CheckStatus, RestartPolicy, event::EventRequest},
};

use super::{
    actor::{Actor, Outcome},
    history::{self, Source, because, bounded, describe},
    now,
    plan::{self, Have, Vm},
    restart::{self, Verdict},
};
use crate::{
    cgroup,
    checks::{self, Answer, Checks},
    ledger::{Goal, Record},
    link::{GuestPhase, LinkError, LinkStatus, Session, console_tail},
};

/// How much of the guest's console is shown with a failure.
const CONSOLE_BYTES: u64 = 1500;
/// How long the guest may take to put its disks in order.
pub(super) const POWER_OFF_MS: u64 = 10_000;

impl Actor {
    pub(super) async fn guest_changed(&mut self, status: LinkStatus) {
        match status.guest {
            GuestPhase::Exited(exit) => self.program_ended(Some(exit)).await,
            GuestPhase::Failed(failure) => self.boot_failed(&failure).await,
            GuestPhase::Running => self.program_runs().await,
            GuestPhase::Waiting if self.facts.vm == Vm::Silent => self.facts.vm = Vm::Waiting,
            GuestPhase::Silent | GuestPhase::Waiting => {}
        }
        match status.session {
            Session::Gone => self.vm_ended().await,
            Session::Incompatible(why) => {
                self.fail(&format!("the guest's init is of another release: {why}")).await;
            }
            Session::Connecting | Session::Open(_) => {}
        }
    }

    pub(super) async fn errand_ended(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Fetched(Ok(rootfs)) => {
                (self.rootfs, self.facts.rootfs) = (Some(rootfs), Have::Yes);
            }
            Outcome::Fetched(Err(reason)) => {
                self.facts.rootfs = Have::No;
                self.fail(&reason).await;
            }
            Outcome::Drained(left) => self.drained(left).await,
            Outcome::Suspended(written) => self.memory_written(written).await,
            Outcome::Told(Err(error)) if self.facts.vm == Vm::Booting && error != LinkError::Gone => {
                self.fail(&error.to_string()).await;
            }
            Outcome::Told(_) => {}
            Outcome::Lost => {
                self.facts.rootfs = if self.rootfs.is_some() { Have::Yes } else { Have::No };
                self.forget_errand();
                self.fail("the host made a mistake; see its log").await;
            }
        }
    }

    /// The program has been started, or still runs after this process has taken over.
    async fn program_runs(&mut self) {
        if !matches!(self.facts.vm, Vm::Silent | Vm::Waiting | Vm::Booting) {
            return;
        }
        let known = self.record.made.as_ref().is_some_and(|made| made.started);
        self.facts.vm = Vm::Running;
        if !known && !self.note_start().await {
            return;
        }
        self.starts += 1;
        self.start_checks();
        if std::mem::take(&mut self.resumes)
            && let Some(link) = self.link.clone()
        {
            // Its clock stood still while it was suspended.
            self.send_off(async move { Outcome::Told(link.set_clock(kit::clock::unix_ns()).await) });
        }
    }

    async fn note_start(&mut self) -> bool {
        let took = Duration::from_millis(self.began.elapsed().as_millis() as u64);
        let noted = self.commit(|record| {
            if let Some(made) = &mut record.made {
                made.started = true;
            }
            record.ever_started = true;
            let request = EventRequest { restart_count: Some(record.restarts.len() as u32), ..EventRequest::default() };
            record.note("start", "started", Source::Platform, Some(request));
        });
        if let Err(error) = noted.await {
            self.fail(&error.to_string()).await;
            return false;
        }
        self.host.say(&self.record.spec, format!("Machine started in {}", GoDuration(took)));
        if let Ok(plan) = self.vm_plan() {
            self.host.prepare_for(plan);
        }
        true
    }

    fn start_checks(&mut self) {
        let probes = checks::probes(&self.record.spec.config).unwrap_or_default();
        // A machine that was ready stays so while its node is restarted; the first answers come at once.
        let was_ready = self.record.made.as_ref().is_some_and(|made| made.ready);
        let (status, output) = match was_ready {
            true => (CheckState::Passing, "it passed before the node was restarted"),
            false => (CheckState::Warning, "not yet known"),
        };
        let first = |probe: &checks::Probe| CheckStatus {
            name: probe.name.clone(),
            status,
            output: output.into(),
            updated_at: now(),
        };
        self.check_states = probes.iter().map(first).collect();
        let addresses = self.host.addresses(&self.record.spec, self.record.slot);
        self.checks = Some(Checks::start(probes, addresses.host_local, &self.answers));
    }

    pub(super) async fn checked(&mut self, answer: Answer) {
        if self.checks.is_none() {
            return;
        }
        self.take_answer(answer);
        let observed = self.observed(plan::state(&self.record));
        let known = self.record.made.as_ref().is_none_or(|made| made.ready);
        if !known && observed.service_checks_pass() {
            self.publish(observed.state);
            let noted = self.commit(|record| record.made.iter_mut().for_each(|made| made.ready = true)).await;
            if let Err(error) = noted {
                tracing::warn!(machine = %self.record.spec.id, %error, "cannot note that the machine is ready");
            }
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let Some(check) = self.check_states.iter_mut().find(|check| check.name == answer.name) else { return };
        let changed = check.status != answer.status;
        if changed {
            check.updated_at = now();
            let message = match answer.status {
                CheckState::Passing => format!("Health check '{}' is now passing", answer.name),
                CheckState::Warning => format!("Health check '{}' does not pass yet: {}", answer.name, answer.output),
                CheckState::Critical => format!("Health check '{}' is failing: {}", answer.name, answer.output),
            };
            self.host.say(&self.record.spec, message);
        }
        (check.status, check.output) = (answer.status, answer.output);
    }

    /// The program has ended, or its virtual machine has without a word of it (`None`).
    pub(super) async fn program_ended(&mut self, exit: Option<Exit>) {
        if self.record.made.as_ref().is_none_or(|made| made.exited) {
            return;
        }
        if exit.is_some() && self.record.made.as_ref().is_some_and(|made| !made.started) {
            // It ended so soon that nobody saw it run.
            self.facts.vm = Vm::Booting;
            self.program_runs().await;
        }
        let lost = self.facts.vm == Vm::Unknown;
        self.facts.vm = if exit.is_some() { Vm::Over } else { Vm::Dead };
        (self.errand, self.checks, self.check_states) = (None, None, Vec::new());
        let requested = self.record.down.is_some() || self.record.goal != Goal::Run;
        let out_of_memory =
            exit.is_none() && self.record.made.as_ref().is_some_and(|made| cgroup::oom_kills(&made.cgroups) > 0);
        let mut event = history::exit_event(exit, out_of_memory, requested, false);
        let failed = event.exit_code != 0 || event.oom_killed;
        let verdict = match requested {
            true => Verdict::Done,
            // It was lost with the host, or with an earlier process; no policy asked for that.
            false if lost => Verdict::Again(Duration::ZERO),
            false => restart::decide(&self.record.spec.config.restart, failed, &self.record.restarts, now()),
        };
        event.restarting = matches!(verdict, Verdict::Again(_));
        let noted = self.commit(|record| note_exit(record, &event, verdict, requested)).await;
        if let Err(error) = noted {
            self.trouble = Some(error.to_string());
        }
        self.host.say(&self.record.spec, format!("{}{}", describe(&event), consequence(verdict, requested)));
    }

    /// The VMM has ended.
    async fn vm_ended(&mut self) {
        let started = self.record.made.as_ref().is_some_and(|made| made.started);
        if self.record.suspended.is_some() {
            // It has been ended, now that its memory is kept.
        } else if started {
            self.program_ended(None).await;
        } else {
            self.fail("the virtual machine ended before its program was started").await;
        }
        self.facts.vm = Vm::Dead;
    }

    async fn boot_failed(&mut self, failure: &BootFailure) {
        if self.record.made.as_ref().is_some_and(|made| !made.started) {
            let reason = format!("the program could not be started ({}): {}", failure.step, failure.reason);
            self.fail_with(&reason, false).await;
        }
        if !matches!(self.facts.vm, Vm::PoweringOff(_) | Vm::Dead | Vm::Absent) {
            self.facts.vm = Vm::Over;
        }
    }

    /// The machine cannot be made or started.
    pub(super) async fn fail(&mut self, reason: &str) {
        self.fail_with(reason, true).await;
    }

    async fn fail_with(&mut self, reason: &str, with_console: bool) {
        if self.record.failure.is_some() || self.record.goal == Goal::Gone {
            return;
        }
        if self.resumes && self.record.goal == Goal::Run {
            return self.start_anew(reason);
        }
        self.forget_errand();
        let mut reason = reason.to_owned();
        let console = console_tail(&self.console_log(), CONSOLE_BYTES);
        if with_console && self.facts.vm != Vm::Absent && !console.trim().is_empty() {
            reason.push_str(&format!("; the end of its console: {}", console.trim()));
        }
        let reason = bounded(&reason);
        let again = self.try_again();
        let noted = self.commit(|record| {
            record.note("start", "failed", Source::Platform, because(&reason));
            match again {
                Some(at) => {
                    record.respawn = Some(at);
                    record.restarts.push(at);
                }
                None => (record.goal, record.failure, record.down) = (Goal::Rest, Some(reason.clone()), None),
            }
        });
        if let Err(error) = noted.await {
            tracing::error!(machine = %self.record.spec.id, %error, "a failure cannot be recorded");
            // The failure counts all the same, as long as this process lives.
            (self.record.goal, self.record.failure) = (Goal::Rest, Some(reason.clone()));
        }
        self.host.say(&self.record.spec, format!("Machine failed to start: {reason}"));
    }

    /// Nothing runs beside the task any more, and nothing is waited for that it would have told.
    fn forget_errand(&mut self) {
        self.errand = None;
        if self.facts.drained == Have::Maybe {
            self.facts.drained = Have::Yes;
        }
        if self.facts.vm == Vm::Suspending {
            self.facts.vm = Vm::Dead;
        }
    }

    /// When a start that nobody waits for is tried again, if it is.
    fn try_again(&self) -> Option<Timestamp> {
        let record = &self.record;
        let restart = &record.spec.config.restart;
        if !record.unattended || restart.policy == RestartPolicy::No || record.goal != Goal::Run {
            return None;
        }
        match restart::decide(restart, true, &record.restarts, now()) {
            Verdict::Again(pause) => Some(Timestamp(now().0 + pause.as_millis() as u64)),
            Verdict::Done | Verdict::Enough(_) => None,
        }
    }
}

fn note_exit(record: &mut Record, event: &model::machine::ExitEvent, verdict: Verdict, requested: bool) {
    let at = now();
    if let Some(made) = &mut record.made {
        made.exited = true;
    }
    record.restarts.retain(|restart| restart::is_recent(*restart, at));
    match verdict {
        Verdict::Again(pause) => {
            let not_before = Timestamp(at.0 + pause.as_millis() as u64);
            record.restarts.push(not_before);
            (record.respawn, record.unattended) = (Some(not_before), true);
        }
        Verdict::Done | Verdict::Enough(_) if !requested => {
            record.goal = if record.spec.config.auto_destroy { Goal::Gone } else { Goal::Rest };
        }
        Verdict::Done | Verdict::Enough(_) => {}
    }
    record.last_exit = Some(event.clone());
    let request = EventRequest {
        exit_event: Some(event.clone()),
        restart_count: Some(record.restarts.len() as u32),
        message: Some(describe(event)),
    };
    let status = if event.restarting { "restarting" } else { "stopped" };
    record.note("exit", status, Source::Platform, Some(request));
}

fn consequence(verdict: Verdict, requested: bool) -> String {
    match verdict {
        _ if requested => ", as requested".into(),
        Verdict::Again(pause) if pause.is_zero() => "; it is started again".into(),
        Verdict::Again(pause) => format!("; it is started again in {}", GoDuration(pause)),
        Verdict::Done => String::new(),
        Verdict::Enough(count) => {
            format!("; it has been started again {count} times within five minutes and is left alone now")
        }
    }
}
