//! A node is killed (SIGKILL) before and after every step of a machine's life. The next one finishes what was begun, and
//! in the end nothing is left.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use api::internal::{Launch, Node, StopRequest};
use model::{
    MachineId,
    machine::{MachineSpec, MachineState},
};
use node::StepProbe;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::world::{World, in_own_network, leftovers, machine, this_program};

/// What a node does until it is killed.
#[derive(Serialize, Deserialize)]
struct Script {
    directory: String,
    /// The steps' count at which it is killed.
    killed_at: usize,
}

/// What is done to the machine, in order, and the states that it may rest in if the node is killed meanwhile.
const LIFE: [(&str, &[Option<MachineState>]); 6] = [
    ("create", &[None, Some(MachineState::Started)]),
    ("stop", &[Some(MachineState::Started), Some(MachineState::Stopped)]),
    ("start", &[Some(MachineState::Stopped), Some(MachineState::Started)]),
    ("update", &[Some(MachineState::Started)]),
    ("restart", &[Some(MachineState::Started)]),
    ("destroy", &[Some(MachineState::Started), None]),
];

fn spec(version: &str) -> MachineSpec {
    let mut spec = machine(1, "serve");
    spec.version = version.parse().unwrap();
    spec.config.mounts = serde_json::from_str(r#"[{"name": "data", "path": "/data"}]"#).unwrap();
    spec
}

const FIRST: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const SECOND: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAW";

/// The life of the node that is killed. It tells each step and each act.
pub fn play(script: &str) {
    let script: Script = serde_json::from_str(script).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let probe = StepProbe::new(move |step| {
        println!("STEP {step}");
        if count.fetch_add(1, Ordering::SeqCst) == script.killed_at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    });
    Runtime::new().unwrap().block_on(async {
        let world = World::open(Path::new(&script.directory), probe).await;
        for (act, _) in LIFE {
            println!("ACT {act}");
            perform(&world, act).await;
        }
        println!("END");
    });
}

async fn perform(world: &World, act: &str) {
    let (id, node) = (spec(FIRST).id, &world.node);
    match act {
        "create" => {
            node.create(spec(FIRST), Launch { start: true, cordoned: false }).await.unwrap();
            world.until(&id, |machine| machine.state == MachineState::Started).await;
        }
        "stop" => node.stop(&id, StopRequest::default()).await.unwrap(),
        "start" => drop(node.start(&id).await.unwrap()),
        "update" => {
            node.update(spec(SECOND)).await.unwrap();
            let updated = |state, version: &str| state == MachineState::Started && version == SECOND;
            world.until(&id, |machine| updated(machine.state, machine.spec.version.as_str())).await;
        }
        "restart" => node.restart(&id, StopRequest::default()).await.unwrap(),
        _ => node.destroy(&id, true).await.unwrap(),
    }
}

/// Plays the life up to a step; what was told of it.
fn play_until(directory: &Path, killed_at: usize) -> Vec<String> {
    let script = Script { directory: directory.to_str().unwrap().into(), killed_at };
    let mut command = Command::new(this_program());
    command.args(["--exact", "process", "--nocapture"]);
    let output = command.env("DUNLIN_TEST_SCRIPT", serde_json::to_string(&script).unwrap()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let known = |line: &&str| line.starts_with("STEP ") || line.starts_with("ACT ") || *line == "END";
    let lines: Vec<String> = told.lines().filter(known).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    lines
}

#[test]
fn a_node_that_is_killed_at_any_step_goes_on_where_it_was_and_leaks_nothing() {
    if !in_own_network("crash::a_node_that_is_killed_at_any_step_goes_on_where_it_was_and_leaks_nothing") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let whole = play_until(directory.path(), usize::MAX);
    assert_eq!(whole.last().map(String::as_str), Some("END"));
    assert_eq!(leftovers(directory.path()), Vec::<String>::new());
    let steps = whole.iter().filter(|line| line.starts_with("STEP ")).count();
    assert!(steps > 80, "{whole:?}");
    for killed_at in 0..steps {
        let told = play_until(directory.path(), killed_at);
        let step = told.last().unwrap().clone();
        let act = told.iter().rev().find_map(|line| line.strip_prefix("ACT ")).unwrap();
        let allowed = LIFE.iter().find(|(name, _)| *name == act).unwrap().1;
        runtime.block_on(go_on(directory.path(), &format!("{act}, {step}"), allowed));
    }
}

/// Opens the node that was killed, and sees what becomes of its machine.
async fn go_on(directory: &Path, at: &str, allowed: &[Option<MachineState>]) {
    let id: MachineId = spec(FIRST).id;
    let recorded = directory.join("machines").join(id.as_str()).join("record.json").exists();
    let world = World::open(directory, StepProbe::none()).await;
    let settled = match recorded {
        true => Some(world.until(&id, |machine| machine.state.rests()).await),
        false => None,
    };
    let state = settled.as_ref().map(|machine| machine.state).filter(|state| *state != MachineState::Destroyed);
    assert!(allowed.contains(&state), "killed at {at}: it ends up {settled:?}");
    if state == Some(MachineState::Started) {
        assert!(!world.exec(&id, "pid").await.is_empty());
    }
    if state.is_some() {
        world.node.destroy(&id, true).await.unwrap();
    }
    world.node.shutdown().await;
    assert_eq!(leftovers(directory), Vec::<String>::new(), "killed at {at}");
    let volumes: Vec<_> = std::fs::read_dir(directory.join("volumes/a")).into_iter().flatten().collect();
    assert!(volumes.len() <= 1, "one volume, used again and again: {volumes:?}");
}
