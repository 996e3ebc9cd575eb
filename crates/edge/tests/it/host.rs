//! A node in the edge's own terms: its machines wake and fall asleep as those of the real one do, their programs are real
//! servers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use api::internal::{Drain, Idleness, Nap, NodeError, NodeView, Wake};
use async_trait::async_trait;
use axum::Router;
use catalog::Publisher;
use edge::Edge;
use model::{
    MachineId,
    machine::{MachineState, Sleep},
};
use tokio::sync::Notify;

use crate::support::{INTERNAL_PORT, Program};

/// How long what is under way to a machine that falls asleep may take.
const DRAIN: Duration = Duration::from_secs(1);

pub struct Host {
    publisher: Arc<Publisher>,
    view: Arc<Mutex<NodeView>>,
    edge: Arc<Edge>,
    program: Router,
    running: Mutex<HashMap<MachineId, Program>>,
    /// One thing at a time with a machine, and who calls back one that falls asleep.
    machines: Mutex<HashMap<MachineId, Arc<One>>>,
    pub woken: AtomicUsize,
    pub slept: AtomicUsize,
    /// Machines whose start fails.
    pub broken: Mutex<Vec<MachineId>>,
    /// Machines whose programs say that they are busy, for so long.
    pub busy: Mutex<HashMap<MachineId, Duration>>,
}

#[derive(Default)]
struct One {
    turn: tokio::sync::Mutex<()>,
    wanted: Notify,
}

impl Host {
    pub fn new(publisher: Arc<Publisher>, view: Arc<Mutex<NodeView>>, edge: Arc<Edge>, program: Router) -> Self {
        Self {
            publisher,
            view,
            edge,
            program,
            running: Mutex::default(),
            machines: Mutex::default(),
            woken: AtomicUsize::new(0),
            slept: AtomicUsize::new(0),
            broken: Mutex::default(),
            busy: Mutex::default(),
        }
    }

    pub fn state(&self, id: &MachineId) -> MachineState {
        self.view.lock().unwrap().machines[id].state
    }

    fn one(&self, id: &MachineId) -> Arc<One> {
        self.machines.lock().unwrap().entry(id.clone()).or_default().clone()
    }

    /// Tells what a machine does now.
    fn tell(&self, id: &MachineId, state: MachineState) -> u64 {
        let mut view = self.view.lock().unwrap();
        let mut machine = (*view.machines[id]).clone();
        machine.state = state;
        view.machines.insert(id.clone(), Arc::new(machine));
        view.generation += 1;
        self.publisher.apply(&view);
        view.generation
    }

    /// Runs a machine's program, if it does not run.
    pub async fn run(&self, id: &MachineId) {
        let address = (self.view.lock().unwrap().machines[id].addresses.host_local, INTERNAL_PORT).into();
        if !self.running.lock().unwrap().contains_key(id) {
            let program = Program::start(address, self.program.clone()).await;
            self.running.lock().unwrap().insert(id.clone(), program);
        }
    }
}

#[async_trait]
impl Wake for Host {
    async fn wake(&self, id: &MachineId) -> Result<(), NodeError> {
        self.woken.fetch_add(1, SeqCst);
        let one = self.one(id);
        one.wanted.notify_one();
        let _turn = one.turn.lock().await;
        if self.broken.lock().unwrap().contains(id) {
            return Err(NodeError::Failed("it does not boot".into()));
        }
        if self.state(id) != MachineState::Started {
            self.tell(id, MachineState::Starting);
            self.run(id).await;
            self.tell(id, MachineState::Started);
        }
        Ok(())
    }

    async fn sleep(&self, id: &MachineId, how: Sleep, _: Idleness) -> Result<Nap, NodeError> {
        let one = self.one(id);
        let _turn = one.turn.lock().await;
        if let Some(left) = self.busy.lock().unwrap().get(id) {
            return Ok(Nap::Busy(*left));
        }
        let (passing, resting) = match how {
            Sleep::Stopped => (MachineState::Stopping, MachineState::Stopped),
            Sleep::Suspended => (MachineState::Suspending, MachineState::Suspended),
        };
        let generation = self.tell(id, passing);
        let left = tokio::select! {
            left = self.edge.drained(id, generation, DRAIN) => left,
            () = one.wanted.notified() => 1,
        };
        if left > 0 {
            self.tell(id, MachineState::Started);
            return Ok(Nap::Disturbed);
        }
        let program = self.running.lock().unwrap().remove(id);
        if let Some(program) = program {
            program.kill().await;
        }
        self.tell(id, resting);
        self.slept.fetch_add(1, SeqCst);
        Ok(Nap::Asleep)
    }
}
