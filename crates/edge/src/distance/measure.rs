//! Asking every worker for nothing, again and again, to see how long that takes.
//!
//! It goes over the connection that requests take: so that one is there before the first request needs it, and what is
//! measured is what a request would meet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use model::Region;
use tokio::time::{MissedTickBehavior, interval};

use crate::{context::Context, worker::Hop};

/// So many workers are asked at the same time.
const AT_A_TIME: usize = 64;

/// Measures until the edge stops.
pub async fn measure(context: Arc<Context>) {
    context.stopping.token().run_until_cancelled(rounds(&context)).await;
}

async fn rounds(context: &Context) {
    let mut ticks = interval(context.bounds.measure);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => context.hops.all(),
            // What was guessed may be far off.
            () = context.hops.came.notified() => {
                let mut new = context.hops.all();
                new.retain(|hop| hop.round_trip().is_none());
                new
            }
        };
        let asked = futures_util::stream::iter(asked);
        asked.for_each_concurrent(AT_A_TIME, |hop| ask(context, hop)).await;
        tell_regions(context);
    }
}

/// A region is as far as its closest host.
fn tell_regions(context: &Context) {
    let mut closest: BTreeMap<Region, Duration> = BTreeMap::new();
    for hop in context.hops.all() {
        let Some(round_trip) = hop.round_trip() else { continue };
        closest.entry(hop.region.clone()).and_modify(|so_far| *so_far = round_trip.min(*so_far)).or_insert(round_trip);
    }
    closest.iter().for_each(|(region, round_trip)| context.distances.measured(region, *round_trip));
}

async fn ask(context: &Context, hop: Arc<Hop>) {
    let mut quickest: Option<Duration> = None;
    // The first one of a burst may meet somebody who has to be woken.
    for _ in 0..2 {
        match context.dialer.greet(&hop).await {
            Ok(took) => quickest = Some(quickest.map_or(took, |before| before.min(took))),
            Err(why) => return tracing::debug!(door = %hop.worker.door, "not measured: {why}"),
        }
    }
    quickest.into_iter().for_each(|round_trip| hop.measured(round_trip));
}
