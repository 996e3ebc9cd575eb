//! Which machines are being woken, and which could not be: each is woken once, however many requests wait for it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use model::MachineId;
use tokio::time::Instant;

use super::choose::Ring;
use crate::Refusal;

/// How long a machine that could not be woken is left alone, at first and at most; it doubles.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(300);
/// So many machines are remembered at most; beyond that the failures are forgotten first.
const MAX_ALARMS: usize = 65_536;

/// The alarms of all machines. One that sleeps undisturbed has none.
#[derive(Default)]
pub struct Alarms(Mutex<HashMap<MachineId, Alarm>>);

enum Alarm {
    /// It is being woken; so many tries before this one have failed.
    Ringing { failures: u32 },
    /// It could not be woken.
    Failed { at: Instant, failures: u32, refusal: Refusal },
}

/// The alarms, held for one decision.
pub struct Held<'a>(MutexGuard<'a, HashMap<MachineId, Alarm>>);

impl Alarms {
    /// Holds them for one decision.
    pub fn hold(&self) -> Held<'_> {
        Held(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A machine is awake.
    pub fn silence(&self, machine: &MachineId) {
        self.hold().0.remove(machine);
    }

    /// A machine could not be woken.
    pub fn fail(&self, machine: &MachineId, refusal: Refusal, now: Instant) {
        let mut held = self.hold();
        let failures = held.failures(machine) + 1;
        held.0.insert(machine.clone(), Alarm::Failed { at: now, failures, refusal });
    }
}

impl Held<'_> {
    /// What is known of waking a machine.
    pub fn of(&self, machine: &MachineId, now: Instant) -> Ring {
        match self.0.get(machine) {
            None => Ring::Quiet(0),
            Some(Alarm::Ringing { .. }) => Ring::Rings,
            Some(Alarm::Failed { at, failures, .. }) if now < *at + pause(*failures) => Ring::Failed,
            Some(Alarm::Failed { at, .. }) if now >= *at + MEMORY => Ring::Quiet(0),
            Some(Alarm::Failed { failures, .. }) => Ring::Quiet(*failures),
        }
    }

    /// Why a machine could not be woken.
    pub fn why(&self, machine: &MachineId) -> Option<Refusal> {
        match self.0.get(machine) {
            Some(Alarm::Failed { refusal, .. }) => Some(refusal.clone()),
            _ => None,
        }
    }

    /// A machine is being woken from now on.
    pub fn ring(&mut self, machine: &MachineId, now: Instant) {
        if self.0.len() >= MAX_ALARMS {
            self.0.retain(|_, alarm| matches!(alarm, Alarm::Ringing { .. }));
        }
        let failures = match self.of(machine, now) {
            Ring::Quiet(failures) => failures,
            Ring::Rings | Ring::Failed => self.failures(machine),
        };
        self.0.insert(machine.clone(), Alarm::Ringing { failures });
    }

    fn failures(&self, machine: &MachineId) -> u32 {
        match self.0.get(machine) {
            None => 0,
            Some(Alarm::Ringing { failures } | Alarm::Failed { failures, .. }) => *failures,
        }
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE.0.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_cannot_be_woken_is_left_alone_for_longer_each_time() {
        let (alarms, machine, mut now) = (Alarms::default(), MachineId::from_random([1; 7]), Instant::now());
        let mut last = Duration::ZERO;
        for failures in 1..10 {
            alarms.hold().ring(&machine, now);
            assert_eq!(alarms.hold().of(&machine, now), Ring::Rings);
            alarms.fail(&machine, Refusal::Connect, now);
            let pause = pause(failures);
            assert!(pause >= last && pause <= PAUSE.1);
            assert_eq!(alarms.hold().of(&machine, now + pause / 2), Ring::Failed);
            now += pause;
            assert_eq!(alarms.hold().of(&machine, now), Ring::Quiet(failures));
            assert_eq!(alarms.hold().why(&machine), Some(Refusal::Connect));
            last = pause;
        }
        assert_eq!(alarms.hold().of(&machine, now + MEMORY), Ring::Quiet(0));
        alarms.silence(&machine);
        assert_eq!(alarms.hold().of(&machine, now), Ring::Quiet(0));
    }
}
