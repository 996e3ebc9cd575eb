//! Machines that sleep: a request wakes one where no other has room; one that has nothing to do falls asleep.
//!
//! ```text
//!             a request finds none awake, or all above their soft limits
//!   asleep ─────────────────────────────────────────────────────────────▶ waking ─▶ awake ◀──────────────┐
//!    ▲  ▲                          it failed: not again for a while          │         │ nothing to do     │
//!    │  └────────────────────────────────────────────────────────────────────┘         │ for long enough,  │ it is busy,
//!    │                                                                                 ▼ and not needed    │ or something
//!    └─────────────────────────────────────────────────────────────────────────── falling asleep ──────────┘ came for it
//! ```
//!
//! - The edge asks the node that has the machine ([`api::internal::Wake`]), or that host's worker; nothing else takes part.
//! - However many requests wait, a machine is woken once ([`Alarms`]); whom to wake is a pure function ([`choose()`]).
//! - Each awake machine that may sleep has its own timer ([`watch()`]); whether it is needed is a pure function ([`idle`]).
//!   Its node takes its traffic away first and calls it back if something came for it meanwhile, so that nothing is lost
//!   between a last request and a next one.
//! - Requests wait as they do for any machine on its way up (`crate::choose`), with the same deadline.

mod alarms;
mod choose;
mod drowsy;
mod idle;
mod ring;
mod watch;

use std::sync::Arc;

use catalog::{Backend, PortRoute, Standing};
use model::{Region, machine::MachineState};
use tokio::time::Instant;

pub use self::{
    alarms::Alarms,
    drowsy::Drowsy,
    watch::{Falling, watch},
};
use self::{
    alarms::Held,
    choose::{Choice, Ring, Sleeper, choose},
    ring::{Bell, Waker},
};
use crate::{Refusal, context::Context, routing::App, wish::Wish};

/// What can be hoped for of an app's sleeping machines.
pub enum Outlook {
    /// One is being woken, or is on its way up for another reason.
    Waking,
    /// None sleeps that a request may wake.
    Nobody,
    /// None could be woken, and this is why the last one could not.
    Failed(Refusal),
}

/// Wakes a machine for a request that finds no other.
pub fn rouse(context: &Arc<Context>, app: &App, route: &PortRoute, wish: &Wish) -> Outlook {
    rouse_among(context, app, route, wish, |_| true)
}

/// Wakes one more machine of a region whose awake ones are all above their soft limits.
pub fn reinforce(context: &Arc<Context>, app: &App, route: &PortRoute, wish: &Wish, region: &Region) {
    rouse_among(context, app, route, wish, |backend| backend.machine.region == *region);
}

fn rouse_among(
    context: &Arc<Context>,
    app: &App,
    route: &PortRoute,
    wish: &Wish,
    among: impl Fn(&Backend) -> bool,
) -> Outlook {
    let node = context.waker();
    let now = Instant::now();
    let mut alarms = context.alarms.hold();
    let (mut backends, mut sleepers) = (Vec::new(), Vec::new());
    let has_waker = |backend: &Backend| node.is_some() || context.hops.worker(&backend.machine).is_some();
    for backend in route.backends.iter().filter(|backend| among(backend) && has_waker(backend)) {
        let Some(sleeper) = sleeper(context, &alarms, backend, wish, now) else { continue };
        if sleeper.ring == Ring::Rings || backend.machine.standing == Standing::Coming {
            return Outlook::Waking;
        }
        if backend.autostart && backend.machine.standing == Standing::Asleep {
            backends.push(backend);
            sleepers.push(sleeper);
        }
    }
    match choose(&sleepers) {
        Choice::Nobody => Outlook::Nobody,
        Choice::Failed => {
            let why = backends.iter().find_map(|backend| alarms.why(&backend.machine.id));
            why.map_or(Outlook::Nobody, Outlook::Failed)
        }
        Choice::Ring(place) => {
            let Backend { machine, internal_port, .. } = backends[place];
            let waker = match (context.hops.to(machine), node) {
                (Some(hop), _) => Waker::Worker(hop, *internal_port),
                (None, Some(node)) => Waker::Node(node),
                (None, None) => return Outlook::Nobody,
            };
            let machine = machine.id.clone();
            alarms.ring(&machine, now);
            let bell = Bell { context: context.clone(), app: app.state.clone(), machine, waker };
            context.tasks.spawn(bell.ring());
            Outlook::Waking
        }
    }
}

/// A machine that meets a wish, as the choice sees it.
fn sleeper(context: &Context, alarms: &Held<'_>, backend: &Backend, wish: &Wish, now: Instant) -> Option<Sleeper> {
    let machine = &backend.machine;
    Some(Sleeper {
        ring: alarms.of(&machine.id, now),
        wished: wish.rank(&machine.id, &machine.region)?,
        distance: context.distances.to(&machine.region).round_trip(),
        suspended: machine.state == MachineState::Suspended,
    })
}
