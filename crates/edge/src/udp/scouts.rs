//! One datagram at a time goes to a machine whose program may not listen yet. Pure.
//!
//! A guest's kernel says that nobody listens some six times, and then once a second at most (`icmp_ratelimit`, icmp(7)): what
//! it no longer says would be taken for silence. So a first datagram goes ahead, the others wait for what becomes of it, and
//! after each refusal the next one goes later.

use std::{collections::HashMap, time::Duration};

use model::MachineId;
use tokio::time::Instant;

/// The first pause after a refusal, and the longest: a little more than the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1100));
/// One that has not come back for so long is forgotten.
const LOST: Duration = Duration::from_secs(1);

/// The machines that are being found out about.
#[derive(Default)]
pub struct Scouts(HashMap<MachineId, Scout>);

enum Scout {
    /// One is under way since then; the pause if it is refused.
    Ahead(Instant, Duration),
    /// None is, until then; the next pause.
    Pausing(Instant, Duration),
    /// The program listens.
    Home,
}

impl Scouts {
    /// Whether a datagram may go to a machine that is uncertain.
    pub fn may_go(&mut self, machine: &MachineId, now: Instant) -> bool {
        let (may, next) = match self.0.get(machine) {
            None => (true, Scout::Ahead(now, PAUSE.0)),
            Some(Scout::Ahead(since, pause)) if now - *since >= LOST => (true, Scout::Ahead(now, *pause)),
            Some(Scout::Pausing(until, pause)) if now >= *until => (true, Scout::Ahead(now, *pause)),
            Some(Scout::Home) => return true,
            Some(_) => return false,
        };
        self.0.insert(machine.clone(), next);
        may
    }

    /// It was refused.
    pub fn refused(&mut self, machine: &MachineId, now: Instant) {
        let Some(scout) = self.0.get_mut(machine) else { return };
        let pause = match *scout {
            Scout::Ahead(_, pause) => pause,
            Scout::Home => PAUSE.0,
            Scout::Pausing(..) => return,
        };
        *scout = Scout::Pausing(now + pause, (pause * 2).min(PAUSE.1));
    }

    /// It was not.
    pub fn taken(&mut self, machine: &MachineId) {
        self.0.insert(machine.clone(), Scout::Home);
    }

    /// Nothing waits for any of them any more.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_at_a_time_ever_more_seldom_until_one_is_taken() {
        let (mut scouts, start, machine) = (Scouts::default(), Instant::now(), MachineId::from_random([1; 7]));
        let at = |ms| start + Duration::from_millis(ms);
        assert!(scouts.may_go(&machine, at(0)) && !scouts.may_go(&machine, at(1)));
        let mut went = Vec::new();
        scouts.refused(&machine, at(1));
        for ms in 2..6000 {
            if scouts.may_go(&machine, at(ms)) {
                went.push(ms);
                scouts.refused(&machine, at(ms));
            }
        }
        assert_eq!(went, [101, 301, 701, 1501, 2601, 3701, 4801, 5901]);
        assert!(scouts.may_go(&machine, at(8000)));
        scouts.taken(&machine);
        assert!(scouts.may_go(&machine, at(8001)) && scouts.may_go(&machine, at(8002)));
    }

    #[test]
    fn one_that_does_not_come_back_is_forgotten() {
        let (mut scouts, start, machine) = (Scouts::default(), Instant::now(), MachineId::from_random([1; 7]));
        assert!(scouts.may_go(&machine, start) && !scouts.may_go(&machine, start + LOST / 2));
        assert!(scouts.may_go(&machine, start + LOST));
    }
}
