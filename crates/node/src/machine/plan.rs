//! What to do next with a machine: a pure function of its record and of what is known to be on the host.
//!
//! There is no stored program counter. The record says where the machine is meant to end up and what may exist; from
//! that, [`next`] finds the next step at any moment, also after the process was killed in the middle of one.
//!
//! ```text
//!   up:    fetch ─▶ declare ─▶ overlay ─▶ tap ─▶ firewall ─▶ cgroup ─▶ launch ─▶ (hello) ─▶ boot ─▶ (started) ─▶ rest
//!   down:  drain ─▶ (drained) ─▶ ask ─▶ (exited) ─▶ power off ─▶ (ended) ─▶ kill ─▶ uncgroup ─▶ close firewall ─▶ untap
//!          ─▶ unoverlay ─▶ undeclare
//!   to be suspended, in place of `ask` to `(ended)`:  suspend ─▶ (written); the writable layer stays
//!   then:  discard (kept memory that nobody wants) · replace (another spec) · land (the order to go down is fulfilled) ·
//!          erase (destroyed) · rest
//! ```
//!
//! Names in parentheses are waits: something must happen, or a deadline pass. Whoever goes down, and why ever: its
//! traffic is taken away (its state says so), what is under way ends, long-lived connections are asked to close (the
//! edge does so while it drains), and only then its program is asked to end.

use model::{Timestamp, machine::MachineState};

use crate::ledger::{Goal, Preparation, Record};

/// Whether something of the machine is on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Have {
    /// It is not.
    #[default]
    No,
    /// It may be, whole or in part: an earlier process was about to make or remove it.
    Maybe,
    /// It is, complete.
    Yes,
}

/// What the virtual machine is doing, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Vm {
    /// There is none.
    #[default]
    Absent,
    /// There may be one that an earlier process launched and that cannot be gone on with.
    Unknown,
    /// It boots; its init has not been heard yet.
    Silent,
    /// Its init waits to be told what to run.
    Waiting,
    /// Its init has been told.
    Booting,
    /// Its program runs.
    Running,
    /// Its memory is being written to the disk.
    Suspending,
    /// Its program has been asked to end; all of it is killed when this moment has passed.
    Asked(Timestamp),
    /// Its program has ended, the virtual machine not yet.
    Over,
    /// Its guest puts its disks in order; it is killed when this moment has passed.
    PoweringOff(Timestamp),
    /// The VMM has ended, or must be ended.
    Dead,
}

/// What is known of the machine on the host. Lives in memory alone: [`Facts::after_restart`] is what the record implies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// The root filesystem is at hand.
    pub rootfs: Have,
    /// The writable layer.
    pub overlay: Have,
    /// The tap.
    pub tap: Have,
    /// The firewall lets it pass.
    pub firewall: Have,
    /// The cgroup.
    pub cgroup: Have,
    /// Nothing is under way to it any more, or has been given up; `Maybe` while that is waited for.
    pub drained: Have,
    /// The virtual machine.
    pub vm: Vm,
    /// When the guest's start is given up.
    pub boot_deadline: Timestamp,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something happens or, if there is one, this moment comes.
    Wait(Option<Timestamp>),
    /// Have the root filesystem made.
    Fetch,
    /// Claim and make the volume; then the machine is created.
    Prepare,
    /// Write down what is about to be made.
    Declare,
    /// Make a fresh writable layer.
    Overlay,
    /// Make the tap.
    Tap,
    /// Let its packets pass.
    Firewall,
    /// Make the cgroup.
    Cgroup,
    /// Launch the VMM.
    Launch,
    /// Tell the guest what to run.
    Boot,
    /// The guest did not come up in time.
    GiveUp,
    /// Wait until nothing is under way to it any more.
    Drain,
    /// Write its memory to the disk.
    Suspend,
    /// Ask the program to end.
    Ask,
    /// The program has ended: have the guest put its disks in order and power off.
    PowerOff,
    /// Kill the virtual machine, if any is left.
    Kill,
    /// Remove the cgroup.
    RemoveCgroup,
    /// Let its packets pass no more.
    CloseFirewall,
    /// Remove the tap.
    RemoveTap,
    /// Remove the writable layer.
    RemoveOverlay,
    /// Write down that nothing is left.
    Undeclare,
    /// Throw its kept memory away.
    Discard,
    /// Put the next spec in force.
    Replace,
    /// The order to go down is fulfilled.
    Land,
    /// Remove the machine's record and directory.
    Erase,
}

impl Vm {
    /// Whether it can only end.
    fn is_lost(self) -> bool {
        matches!(
            self,
            Self::Unknown | Self::Suspending | Self::Asked(_) | Self::Over | Self::PoweringOff(_) | Self::Dead
        )
    }
}

impl Step {
    /// The step's name, as a probe is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wait(_) => "wait",
            Self::Fetch => "fetch",
            Self::Prepare => "prepare",
            Self::Declare => "declare",
            Self::Overlay => "overlay",
            Self::Tap => "tap",
            Self::Firewall => "firewall",
            Self::Cgroup => "cgroup",
            Self::Launch => "launch",
            Self::Boot => "boot",
            Self::GiveUp => "give-up",
            Self::Drain => "drain",
            Self::Suspend => "suspend",
            Self::Ask => "ask",
            Self::PowerOff => "power-off",
            Self::Kill => "kill",
            Self::RemoveCgroup => "remove-cgroup",
            Self::CloseFirewall => "close-firewall",
            Self::RemoveTap => "remove-tap",
            Self::RemoveOverlay => "remove-overlay",
            Self::Undeclare => "undeclare",
            Self::Discard => "discard",
            Self::Replace => "replace",
            Self::Land => "land",
            Self::Erase => "erase",
        }
    }
}

impl Facts {
    /// What a record implies when its process has been replaced: nothing, or everything that may have been made.
    /// `vm` is what has been found out about the virtual machine.
    pub fn after_restart(record: &Record, vm: Vm) -> Self {
        let have = match (&record.made, vm) {
            (None, _) => Have::No,
            (Some(_), Vm::Unknown | Vm::Dead | Vm::Absent) => Have::Maybe,
            // All of it was complete before the virtual machine was launched.
            (Some(_), _) => Have::Yes,
        };
        let vm = if record.made.is_some() { vm } else { Vm::Absent };
        Self { overlay: have, tap: have, firewall: have, cgroup: have, vm, ..Self::default() }
    }
}

/// The next step of a machine.
pub fn next(record: &Record, facts: &Facts, now: Timestamp) -> Step {
    let free = record.down.is_none() && record.next_spec.is_none();
    if free && record.goal != Goal::Gone && record.made.is_none() {
        let paused = record.respawn.filter(|not_before| now < *not_before);
        if record.goal == Goal::Run && paused.is_some() {
            return Step::Wait(paused);
        }
        if record.preparation != Preparation::Done && record.failure.is_none() {
            return if facts.rootfs == Have::Yes { Step::Prepare } else { fetch(facts) };
        }
    }
    let ended = record.respawn.is_some() && record.made.is_some();
    if free && record.goal == Goal::Run && !ended && !lost(record, facts) {
        go_up(record, facts, now)
    } else {
        go_down(record, facts, now)
    }
}

/// Whether what exists cannot be gone on with and must be removed before it is made anew.
fn lost(record: &Record, facts: &Facts) -> bool {
    record.made.is_some() && facts.vm.is_lost()
}

fn fetch(facts: &Facts) -> Step {
    // `Maybe` means here that it is under way.
    if facts.rootfs == Have::Maybe { Step::Wait(None) } else { Step::Fetch }
}

fn go_up(record: &Record, facts: &Facts, now: Timestamp) -> Step {
    match facts.vm {
        Vm::Waiting if facts.rootfs != Have::Yes => return fetch(facts),
        Vm::Waiting => return Step::Boot,
        Vm::Silent | Vm::Booting if now >= facts.boot_deadline => return Step::GiveUp,
        Vm::Silent | Vm::Booting => return Step::Wait(Some(facts.boot_deadline)),
        Vm::Running => return Step::Wait(None),
        Vm::Absent | Vm::Unknown | Vm::Suspending | Vm::Asked(_) | Vm::Over | Vm::PoweringOff(_) | Vm::Dead => {}
    }
    let undeclared = record.made.is_none();
    match () {
        () if facts.rootfs != Have::Yes => fetch(facts),
        () if undeclared => Step::Declare,
        () if facts.overlay != Have::Yes => Step::Overlay,
        () if facts.tap != Have::Yes => Step::Tap,
        () if facts.firewall != Have::Yes => Step::Firewall,
        () if facts.cgroup != Have::Yes => Step::Cgroup,
        () => Step::Launch,
    }
}

fn go_down(record: &Record, facts: &Facts, now: Timestamp) -> Step {
    if record.made.is_none() {
        let wanted = record.next_spec.is_none() && matches!(record.goal, Goal::Run | Goal::Suspend);
        return match record.goal {
            _ if record.suspended.is_some() && !wanted => Step::Discard,
            _ if record.next_spec.is_some() => Step::Replace,
            _ if record.down.is_some() => Step::Land,
            Goal::Gone => Step::Erase,
            _ => Step::Wait(None),
        };
    }
    let kill_at_once = record.down.as_ref().is_none_or(|down| down.kill);
    match facts.vm {
        Vm::Running if !kill_at_once => take_leave(record, facts),
        Vm::Suspending if !kill_at_once => Step::Wait(None),
        Vm::Over => Step::PowerOff,
        Vm::Asked(deadline) if now < deadline && !kill_at_once => Step::Wait(Some(deadline)),
        Vm::PoweringOff(deadline) if now < deadline => Step::Wait(Some(deadline)),
        Vm::Absent => clear_away(record, facts),
        _ => Step::Kill,
    }
}

/// A program that runs goes in good order.
fn take_leave(record: &Record, facts: &Facts) -> Step {
    let drains = record.down.as_ref().is_some_and(|down| down.drain_ms > 0);
    match facts.drained {
        Have::No if drains => Step::Drain,
        Have::Maybe => Step::Wait(None),
        _ if record.goal == Goal::Suspend => Step::Suspend,
        _ => Step::Ask,
    }
}

fn clear_away(record: &Record, facts: &Facts) -> Step {
    match () {
        () if facts.cgroup != Have::No => Step::RemoveCgroup,
        () if facts.firewall != Have::No => Step::CloseFirewall,
        () if facts.tap != Have::No => Step::RemoveTap,
        () if facts.overlay != Have::No && record.suspended.is_none() => Step::RemoveOverlay,
        () => Step::Undeclare,
    }
}

/// What a machine is doing, in the product's words.
pub fn state(record: &Record) -> MachineState {
    use MachineState as S;
    let started = record.made.as_ref().map(|made| made.started);
    match (record.goal, started) {
        (Goal::Gone, _) => S::Destroying,
        _ if record.next_spec.is_some() => S::Replacing,
        _ if record.preparation != Preparation::Done && record.failure.is_some() => S::Failed,
        _ if record.preparation == Preparation::New => S::Creating,
        _ if record.preparation == Preparation::Replaced => S::Replacing,
        (Goal::Run, _) if record.respawn.is_some() => S::Restarting,
        (Goal::Run, _) if record.down.is_some() => S::Stopping,
        (Goal::Run, Some(true)) => S::Started,
        (Goal::Run, _) => S::Starting,
        (Goal::Suspend, Some(true)) => S::Suspending,
        (Goal::Suspend, Some(false)) => S::Stopping,
        (Goal::Suspend, None) if record.suspended.is_some() => S::Suspended,
        (Goal::Suspend, None) => S::Stopped,
        (Goal::Rest, Some(true)) => S::Stopping,
        (Goal::Rest, Some(false)) => {
            if record.failure.is_some() {
                S::Starting
            } else {
                S::Stopping
            }
        }
        (Goal::Rest, None) if record.failure.is_some() => S::Failed,
        (Goal::Rest, None) => {
            if record.ever_started {
                S::Stopped
            } else {
                S::Created
            }
        }
    }
}

#[cfg(test)]
mod tests;
