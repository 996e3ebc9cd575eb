//! The predecessor's side, once its successor is ready: until the last client has gone it carries what was under way.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use api::internal::Drain;
use catalog::Publisher;
use edge::Edge;
use model::log::LogRecord;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};

use super::wire::{Channel, Said};

/// How often the catalog that the successor keeps is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long connections get to end that have been asked to.
const LAST: Duration = Duration::from_secs(10);

/// Carries what was under way, for `deadline` at the most. Log records go to the successor, as long as it lives.
pub async fn retire(
    edge: Arc<Edge>,
    (catalog, path): (Arc<Publisher>, PathBuf),
    channel: Channel,
    records: mpsc::Receiver<LogRecord>,
    deadline: Duration,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(talk(channel, records, edge.clone()));
    tasks.spawn(follow(catalog, path));
    edge.retire(deadline, LAST).await;
}

/// Routes by what the successor knows.
async fn follow(catalog: Arc<Publisher>, path: PathBuf) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        looks.tick().await;
        let there = fs::metadata(&path).ok().map(|file| (file.ino(), file.len(), file.mtime(), file.mtime_nsec()));
        if there != seen {
            seen = there;
            let catalog = catalog.clone();
            let _ = tokio::task::spawn_blocking(move || catalog.reload()).await;
        }
    }
}

/// Tells the successor what belongs into logs, and answers what it asks.
async fn talk(channel: Channel, mut records: mpsc::Receiver<LogRecord>, edge: Arc<Edge>) {
    let mut said = channel.listen();
    let mut draining = JoinSet::new();
    loop {
        let answer = tokio::select! {
            Some(record) = records.recv() => Said::Log(Box::new(record)),
            Some(Ok(drained)) = draining.join_next() => drained,
            said = said.recv() => match said {
                Some(Said::Drain { question, machine, deadline_ms }) => {
                    let edge = edge.clone();
                    draining.spawn(async move {
                        // Its generations are not ours; what it knows is read from the disk.
                        let under_way = edge.drained(&machine, 0, Duration::from_millis(deadline_ms)).await;
                        Said::Drained { question, under_way }
                    });
                    continue;
                }
                Some(other) => {
                    tracing::warn!("the successor said {other:?}");
                    continue;
                }
                // What is under way is carried to its end all the same.
                None => return,
            },
        };
        if channel.say(&answer).await.is_err() {
            return;
        }
    }
}
