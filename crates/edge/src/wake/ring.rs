//! Waking one machine: from the call to its node to the first request that it took, told in its app's log.

use std::{sync::Arc, time::Duration};

use api::internal::{NodeError, Wake};
use catalog::Standing;
use model::{GoDuration, MachineId};
use tokio::time::{Instant, timeout_at};

use crate::{
    Refusal,
    context::Context,
    machine::{AppState, Machine},
    refusal::NoWaking,
    worker::{Errand, Hop, Want},
};

/// What a machine is woken with.
pub struct Bell {
    /// What every connection shares.
    pub context: Arc<Context>,
    /// Its app.
    pub app: Arc<AppState>,
    /// The machine.
    pub machine: MachineId,
    /// Who wakes it.
    pub waker: Waker,
}

/// Who wakes a machine.
pub enum Waker {
    /// The node of this host.
    Node(Arc<dyn Wake>),
    /// Another host's worker, for the sake of this port inside the guest.
    Worker(Arc<Hop>, u16),
}

impl Bell {
    /// Wakes the machine, and tells those who wait what came of it.
    pub async fn ring(self) {
        let context = self.context.clone();
        tokio::select! {
            () = self.wake() => {}
            () = context.stopping.cancelled() => {}
        }
    }

    async fn wake(&self) {
        let began = Instant::now();
        // From now on it is noted when it is reached.
        if let Some(machine) = self.context.routing.load().machine(&self.machine) {
            machine.drowsy();
        }
        let deadline = began + self.context.bounds.hold;
        let started = timeout_at(deadline, self.start()).await.unwrap_or_else(|_| {
            let after = self.context.bounds.hold;
            Err(self.refusal(&NodeError::Timeout { what: "its program to run".into(), after }))
        });
        if let Err(refusal) = started {
            return self.failed(refusal);
        }
        let started = began.elapsed();
        let awake = timeout_at(deadline, self.awake()).await;
        self.context.alarms.silence(&self.machine);
        self.app.stirred.notify_waiters();
        let Ok(machine) = awake else { return };
        if timeout_at(deadline, machine.drowsy().reached()).await.is_ok() {
            let reachable = began.elapsed() - started;
            let (started, reachable) = (in_words(started), in_words(reachable));
            let line = format!("Woken by a request: machine started in {started}, became reachable in {reachable}");
            self.context.journal.about(&self.app, &self.machine, line);
        }
    }

    async fn start(&self) -> Result<(), Refusal> {
        match &self.waker {
            Waker::Node(node) => node.wake(&self.machine).await.map_err(|error| self.refusal(&error)),
            Waker::Worker(hop, port) => {
                let (app, machine) = (self.app.name.clone(), self.machine.clone());
                let errand = Errand { app, machine, port: *port, only: true, want: Want::Waking };
                self.context.dialer.wake(hop, &errand).await
            }
        }
    }

    fn refusal(&self, error: &NodeError) -> Refusal {
        let (app, machine) = (self.app.name.clone(), self.machine.clone());
        Refusal::NotWoken { app, machine, why: NoWaking::of(error), reason: error.to_string() }
    }

    fn failed(&self, refusal: Refusal) {
        self.context.journal.refused(&self.app, &refusal, &"(another machine is tried, if there is one)");
        self.context.alarms.fail(&self.machine, refusal, Instant::now());
        self.app.stirred.notify_waiters();
    }

    /// Waits until the machine takes traffic.
    async fn awake(&self) -> Arc<Machine> {
        let mut pictures = self.context.routed.subscribe();
        loop {
            pictures.mark_unchanged();
            let routing = self.context.routing.load_full();
            let app = routing.app(self.app.name.as_str());
            let row = app.and_then(|app| app.route.machines.iter().find(|row| row.id == self.machine));
            if row.is_some_and(|row| row.standing == Standing::Ready)
                && let Some(machine) = routing.machine(&self.machine)
            {
                return machine.clone();
            }
            if pictures.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

fn in_words(time: Duration) -> GoDuration {
    GoDuration(Duration::from_millis(time.as_millis() as u64))
}
