//! When a machine may sleep: what its services say together. Pure.

use std::time::Duration;

use super::{AutoStop, Service};

/// How a machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sleep {
    /// With its memory kept on the disk, so that it goes on where it was.
    Suspended,
    /// Stopped, so that its program starts anew.
    Stopped,
}

/// When a machine may sleep for want of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepRule {
    /// How it sleeps.
    pub how: Sleep,
    /// How long it must have had nothing to do; the platform's own time unless given.
    pub after: Option<Duration>,
    /// So many machines of its process group stay awake in its region.
    pub least_awake: u32,
}

impl SleepRule {
    /// The rule that services give; `None` if the machine never sleeps. A machine is one thing, so one service that wants
    /// it up keeps it up, and of two answers the more careful one counts: stopped rather than suspended, later rather than
    /// sooner, more awake rather than fewer. A service without public ports gets no traffic and has no say.
    pub fn of(services: &[Service]) -> Option<Self> {
        let rules = services.iter().filter(|service| !service.ports.is_empty()).map(Self::of_service);
        rules.collect::<Option<Vec<_>>>()?.into_iter().reduce(|one, other| Self {
            how: one.how.max(other.how),
            after: one.after.max(other.after),
            least_awake: one.least_awake.max(other.least_awake),
        })
    }

    fn of_service(service: &Service) -> Option<Self> {
        let how = match service.autostop {
            AutoStop::Off => return None,
            AutoStop::Stop => Sleep::Stopped,
            AutoStop::Suspend => Sleep::Suspended,
        };
        let after = service.autostop_after.map(|after| after.0);
        Some(Self { how, after, least_awake: service.min_machines_running.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{GoDuration, machine::Port};

    fn any_service() -> impl Strategy<Value = Service> {
        let autostop = prop::sample::select(vec![AutoStop::Off, AutoStop::Stop, AutoStop::Suspend]);
        let numbers = (prop::option::of(0..4_u32), prop::option::of(1..90_u64));
        (autostop, numbers, 0..2_usize).prop_map(|(autostop, (least, after), ports)| Service {
            autostop,
            min_machines_running: least,
            autostop_after: after.map(GoDuration::from_secs),
            ports: vec![Port::default(); ports],
            ..Service::default()
        })
    }

    proptest! {
        #[test]
        fn the_most_careful_service_counts(services in prop::collection::vec(any_service(), 0..5)) {
            let heard: Vec<_> = services.iter().filter(|service| !service.ports.is_empty()).collect();
            let never = heard.is_empty() || heard.iter().any(|service| service.autostop == AutoStop::Off);
            let Some(rule) = SleepRule::of(&services) else {
                prop_assert!(never);
                return Ok(());
            };
            prop_assert!(!never);
            prop_assert!(heard.iter().all(|it| it.min_machines_running.unwrap_or_default() <= rule.least_awake));
            prop_assert!(heard.iter().all(|it| it.autostop_after.map(|after| after.0) <= rule.after));
            let suspended = heard.iter().all(|it| it.autostop == AutoStop::Suspend);
            prop_assert_eq!(rule.how == Sleep::Suspended, suspended);
        }
    }
}
