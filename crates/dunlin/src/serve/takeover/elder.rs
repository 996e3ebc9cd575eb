//! Processes that were succeeded and have not ended yet: what they have for the logs is written here, and a machine is
//! drained only when they are done with it, too.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::internal::{Drain, LogSink};
use async_trait::async_trait;
use edge::Edge;
use futures_util::future::join_all;
use model::MachineId;
use tokio::sync::{mpsc, oneshot};

use super::wire::{Channel, Said};

/// Questions that wait to be asked. There are no more than deployments at a time.
const QUESTIONS: usize = 64;

/// This process's edge, and those of its elders.
pub struct Elders {
    edge: Arc<Edge>,
    living: Mutex<Vec<mpsc::Sender<Question>>>,
}

/// How much is under way to a machine.
struct Question {
    machine: MachineId,
    deadline: Duration,
    answer: oneshot::Sender<usize>,
}

impl Elders {
    /// An edge without elders.
    pub fn new(edge: Arc<Edge>) -> Arc<Self> {
        Arc::new(Self { edge, living: Mutex::default() })
    }

    /// Hears an elder out: until it has ended, what it says is written to `logs`.
    pub fn add(&self, channel: Channel, logs: Arc<dyn LogSink>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let mut living = self.living.lock().unwrap_or_else(PoisonError::into_inner);
        living.retain(|elder| !elder.is_closed());
        living.push(questions);
        tokio::spawn(hear(channel, asked, logs));
    }

    /// How much is under way at the elders.
    async fn under_way(&self, machine: &MachineId, deadline: Duration) -> usize {
        let living = self.living.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answers = living.into_iter().map(|elder| async move {
            let (answer, answered) = oneshot::channel();
            let question = Question { machine: machine.clone(), deadline, answer };
            // One that has ended has nothing under way.
            if elder.send(question).await.is_ok() { answered.await.unwrap_or_default() } else { 0 }
        });
        join_all(answers).await.into_iter().sum()
    }
}

#[async_trait]
impl Drain for Elders {
    async fn drained(&self, machine: &MachineId, generation: u64, deadline: Duration) -> usize {
        let elders = self.under_way(machine, deadline);
        let (here, there) = tokio::join!(self.edge.drained(machine, generation, deadline), elders);
        here + there
    }
}

/// Hears an elder out.
async fn hear(channel: Channel, mut asked: mpsc::Receiver<Question>, logs: Arc<dyn LogSink>) {
    let mut said = channel.listen();
    let mut waiting: HashMap<u64, oneshot::Sender<usize>> = HashMap::new();
    let mut next = 0;
    loop {
        tokio::select! {
            said = said.recv() => match said {
                Some(Said::Log(record)) => logs.append(*record),
                Some(Said::Drained { question, under_way }) => {
                    let _ = waiting.remove(&question).map(|answer| answer.send(under_way));
                }
                Some(other) => tracing::warn!("an elder said {other:?}"),
                None => return,
            },
            Some(Question { machine, deadline, answer }) = asked.recv() => {
                next += 1;
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                if channel.say(&Said::Drain { question: next, machine, deadline_ms }).await.is_err() {
                    return;
                }
                waiting.insert(next, answer);
            }
        }
    }
}
