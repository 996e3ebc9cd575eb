//! Proofs of host names that are pending, at the edges of all hosts.
//!
//! An ACME server asks for a proof where the name leads, which may be any edge. The one of this host gives an answer as
//! soon as it is told; the others hear of it over a line that they listen on, and whoever orders a certificate waits for
//! them before he calls the server.
//!
//! ```text
//!  certs ──present──▶ Proofs ──▶ this host's edge
//!    │                  └──line──▶ Listener ──▶ another host's edge
//!    └──settled: every listener has taken the line, or has been waited for long enough
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use api::internal::{ChallengeAnswer, ChallengeDoor};
use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long an edge is waited for that does not take what it is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// From taking a line to giving its answers: a way around the world, and some work.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// The pending proofs.
pub struct Proofs {
    here: Arc<dyn ChallengeDoor>,
    patience: Duration,
    pending: watch::Sender<Pending>,
    /// Up to which generation each listener has taken what he was told.
    listeners: watch::Sender<BTreeMap<u64, u64>>,
    next_listener: AtomicU64,
}

/// The answers of one moment.
#[derive(Clone, Default)]
struct Pending {
    generation: u64,
    answers: Arc<Vec<ChallengeAnswer>>,
}

/// An edge of another host that listens.
pub struct Listener {
    id: u64,
    proofs: Arc<Proofs>,
    pending: watch::Receiver<Pending>,
    /// The generation that was said last.
    said: Option<u64>,
}

impl Proofs {
    /// None yet; those that come are given by the edge of this host, and told to others.
    pub fn new(here: Arc<dyn ChallengeDoor>) -> Arc<Self> {
        Self::patient(here, PATIENCE)
    }

    fn patient(here: Arc<dyn ChallengeDoor>, patience: Duration) -> Arc<Self> {
        Arc::new(Self {
            here,
            patience,
            pending: watch::Sender::default(),
            listeners: watch::Sender::default(),
            next_listener: AtomicU64::new(0),
        })
    }

    /// Listens from now on.
    pub fn listen(self: &Arc<Self>) -> Listener {
        let id = self.next_listener.fetch_add(1, Relaxed);
        self.take(id, 0);
        let mut pending = self.pending.subscribe();
        pending.mark_changed();
        Listener { id, proofs: self.clone(), pending, said: None }
    }

    /// A listener has taken what he was told, up to this generation.
    fn take(&self, listener: u64, generation: u64) {
        self.listeners.send_modify(|listeners| {
            listeners.insert(listener, generation);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<ChallengeAnswer>)) {
        self.pending.send_modify(|pending| {
            pending.generation += 1;
            change(Arc::make_mut(&mut pending.answers));
        });
    }
}

#[async_trait]
impl ChallengeDoor for Proofs {
    fn present(&self, answer: &ChallengeAnswer) -> Result<(), String> {
        self.here.present(answer)?;
        self.change(|answers| answers.push(answer.clone()));
        Ok(())
    }

    fn withdraw(&self, answer: &ChallengeAnswer) {
        self.here.withdraw(answer);
        self.change(|answers| {
            // Another order may have given the same one.
            if let Some(place) = answers.iter().position(|it| it == answer) {
                answers.remove(place);
            }
        });
    }

    async fn settled(&self) {
        let wanted = self.pending.borrow().generation;
        let mut listeners = self.listeners.subscribe();
        if listeners.borrow().is_empty() {
            return;
        }
        let all = listeners.wait_for(|listeners| listeners.values().all(|taken| *taken >= wanted));
        if timeout(self.patience, all).await.is_err() {
            tracing::warn!("an edge of another host does not take the proofs of host names that it is told");
        }
        sleep(UNDER_WAY).await;
    }
}

impl Listener {
    /// All answers that are pending, now and after every change; nothing where none comes for so long. Whoever asks has
    /// taken what was said before.
    pub async fn next(&mut self, heartbeat: Duration) -> Option<Arc<Vec<ChallengeAnswer>>> {
        if let Some(said) = self.said {
            self.proofs.take(self.id, said);
        }
        timeout(heartbeat, self.pending.changed()).await.ok()?.ok()?;
        let Pending { generation, answers } = self.pending.borrow_and_update().clone();
        self.said = Some(generation);
        Some(answers)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.proofs.listeners.send_modify(|listeners| {
            listeners.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    /// The edge of this host.
    #[derive(Default)]
    struct Here(Mutex<Vec<ChallengeAnswer>>);

    #[async_trait]
    impl ChallengeDoor for Here {
        fn present(&self, answer: &ChallengeAnswer) -> Result<(), String> {
            self.0.lock().unwrap().push(answer.clone());
            Ok(())
        }

        fn withdraw(&self, answer: &ChallengeAnswer) {
            self.0.lock().unwrap().retain(|it| it != answer);
        }
    }

    fn answer(name: &str) -> ChallengeAnswer {
        ChallengeAnswer::TlsAlpn { hostname: name.parse().unwrap(), digest: [1; 32] }
    }

    const BEAT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_proof_is_settled_once_every_edge_that_listens_has_taken_it() {
        let here = Arc::new(Here::default());
        let proofs = Proofs::new(here.clone());
        proofs.present(&answer("a.test")).unwrap();
        proofs.settled().await;
        let mut listener = proofs.listen();
        assert_eq!(*listener.next(BEAT).await.unwrap(), [answer("a.test")]);
        proofs.present(&answer("b.test")).unwrap();
        let settled = proofs.settled();
        tokio::pin!(settled);
        assert!(timeout(2 * UNDER_WAY, &mut settled).await.is_err(), "it has not been taken");
        assert_eq!(listener.next(BEAT).await.unwrap().len(), 2);
        assert!(listener.next(BEAT).await.is_none(), "nothing changes");
        settled.await;
        proofs.withdraw(&answer("a.test"));
        assert_eq!(*listener.next(BEAT).await.unwrap(), [answer("b.test")]);
        assert_eq!(here.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_edge_that_takes_nothing_or_goes_away_is_not_waited_for_for_ever() {
        let proofs = Proofs::patient(Arc::new(Here::default()), BEAT);
        let silent = proofs.listen();
        proofs.present(&answer("a.test")).unwrap();
        let began = Instant::now();
        proofs.settled().await;
        assert!(began.elapsed() >= BEAT + UNDER_WAY);
        drop(silent);
        assert!(proofs.listeners.borrow().is_empty());
        proofs.settled().await;
    }
}
