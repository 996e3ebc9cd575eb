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
    pub waker: Arc<dyn Wake>,
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
        let started = timeout_at(deadline, self.waker.wake(&self.machine)).await;
        let waited = self.context.bounds.hold;
        let started =
            started.unwrap_or_else(|_| Err(NodeError::Timeout { what: "its program to run".into(), after: waited }));
        if let Err(error) = started {
            return self.failed(&error);
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

    fn failed(&self, error: &NodeError) {
        let (app, machine) = (self.app.name.clone(), self.machine.clone());
        let refusal = Refusal::NotWoken { app, machine, why: NoWaking::of(error), reason: error.to_string() };
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
