//! Whether a machine is needed: a pure function.
//!
//! A machine may sleep if enough others of its process group stay awake in its region, and if it has nothing to do, or if
//! what all of them had to do at the same time, at most, since it was looked at last fits on the others below their soft
//! limits.

/// What the awake machines of a process group in one region had to do for one service, at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// The machine itself.
    pub mine: u32,
    /// The others.
    pub others: Vec<Peer>,
}

/// Another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// What was under way to it, at most.
    pub peak: u32,
    /// Above it, others are preferred.
    pub soft_limit: u32,
}

/// Why a machine is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// It has nothing to do.
    Idle,
    /// The others can do what it does.
    Excess,
}

/// Whether a machine is not needed, and why.
pub fn spare(idle: bool, others_awake: usize, least_awake: u32, services: &[Load]) -> Option<Spare> {
    let enough = others_awake >= least_awake as usize;
    let fits = || others_awake > 0 && services.iter().all(Load::fits_on_others);
    match enough {
        true if idle => Some(Spare::Idle),
        true if fits() => Some(Spare::Excess),
        _ => None,
    }
}

impl Load {
    /// Whether the others stay below their soft limits with all of it.
    fn fits_on_others(&self) -> bool {
        let all = self.others.iter().map(|peer| u64::from(peer.peak)).sum::<u64>() + u64::from(self.mine);
        let room: u64 = self.others.iter().map(|peer| u64::from(peer.soft_limit)).sum();
        all < room
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_peer() -> impl Strategy<Value = Peer> {
        (0..30_u32, 1..30_u32).prop_map(|(peak, soft_limit)| Peer { peak, soft_limit })
    }

    /// Puts machines to sleep one after the other as long as one may; who is left.
    fn settle(mut machines: Vec<Peer>, least: u32) -> Vec<Peer> {
        let spare_one = |machines: &[Peer]| {
            (0..machines.len()).find(|place| {
                let mut others = machines.to_vec();
                let me = others.remove(*place);
                let load = Load { mine: me.peak, others: others.clone() };
                spare(me.peak == 0, others.len(), least, &[load]).is_some()
            })
        };
        while let Some(place) = spare_one(&machines) {
            let gone = machines.remove(place);
            // Its load comes to whoever is left.
            if let Some(first) = machines.first_mut() {
                first.peak += gone.peak;
            }
        }
        machines
    }

    proptest! {
        #[test]
        fn what_is_left_awake_is_enough_for_the_load_and_for_the_minimum(
            machines in prop::collection::vec(any_peer(), 0..8), least in 0..4_u32,
        ) {
            let sum = |of: fn(&Peer) -> u32, machines: &[Peer]| machines.iter().map(of).sum::<u32>();
            let (load, before) = (sum(|it| it.peak, &machines), machines.len());
            let left = settle(machines, least);
            prop_assert!(left.len() >= before.min(least as usize));
            prop_assert!(load == 0 || !left.is_empty(), "somebody is there for what there is to do");
            prop_assert!(load > 0 || left.len() == before.min(least as usize), "all that may sleep do");
        }

        #[test]
        fn what_has_something_to_do_sleeps_only_where_the_others_stay_below_their_soft_limits(
            mine in 1..30_u32, others in prop::collection::vec(any_peer(), 0..6),
        ) {
            let all = mine + others.iter().map(|it| it.peak).sum::<u32>();
            let room = others.iter().map(|it| it.soft_limit).sum::<u32>();
            let verdict = spare(false, others.len(), 0, &[Load { mine, others }]);
            prop_assert_eq!(verdict, (all < room).then_some(Spare::Excess));
        }

        #[test]
        fn the_last_machine_sleeps_only_when_it_has_nothing_to_do(mine in 0..9_u32, least in 0..2_u32) {
            let verdict = spare(mine == 0, 0, least, &[Load { mine, others: Vec::new() }]);
            prop_assert_eq!(verdict.is_some(), mine == 0 && least == 0);
        }
    }
}
