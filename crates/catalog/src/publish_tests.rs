//! Standing, publishing, and the last good picture on the disk.

use std::fs;

use model::{
    Addresses, Digest, ImageSpec, MachineId, Timestamp,
    machine::{CheckState, CheckStatus, Event, MachineConfig, MachineSpec, MachineState, Observed, SealedSecrets},
};

use super::*;
use crate::Standing;

fn observed(number: u8) -> Observed {
    let id = MachineId::from_random([number; 7]);
    let network = model::NetworkId(1);
    Observed {
        addresses: Addresses { private: network.machine_address(&id), host_local: [10, 0, 0, number].into() },
        spec: MachineSpec {
            id,
            name: "one".into(),
            org: "personal".parse().unwrap(),
            app: "shop".parse().unwrap(),
            network,
            region: "local".parse().unwrap(),
            version: model::InstanceId::new(1, [0; 10]),
            image: ImageSpec { reference: "shop:1".into(), digest: digest() },
            config: MachineConfig::default(),
            secrets: SealedSecrets::default(),
        },
        state: MachineState::Started,
        cordoned: false,
        checks: Vec::new(),
        events: Vec::new(),
        last_exit: None,
        reason: None,
        isolation: None,
        created_at: Timestamp(1),
        updated_at: Timestamp(5),
    }
}

fn digest() -> Digest {
    format!("sha256:{}", "a".repeat(64)).parse().unwrap()
}

fn view(generation: u64, machines: impl IntoIterator<Item = Observed>) -> NodeView {
    let machines = machines.into_iter().map(|observed| (observed.spec.id.clone(), Arc::new(observed)));
    NodeView { generation, machines: machines.collect::<BTreeMap<_, _>>() }
}

fn standing(change: impl FnOnce(&mut Observed)) -> Standing {
    let mut observed = observed(1);
    change(&mut observed);
    crate::MachineRoute::of(&observed).unwrap().standing
}

fn event(kind: &str, at: u64) -> Event {
    let (id, status, source) = (String::new(), "stopping".into(), "user".into());
    Event { id, kind: kind.into(), status, source, timestamp: Timestamp(at), request: None }
}

#[test]
fn a_machine_stands_as_its_node_says() {
    assert_eq!(standing(|_| ()), Standing::Ready);
    assert_eq!(standing(|it| it.state = MachineState::Replacing), Standing::Coming);
    assert_eq!(standing(|it| it.state = MachineState::Stopped), Standing::Asleep);
    assert_eq!(standing(|it| it.state = MachineState::Stopping), Standing::Asleep);
    let restarts = |it: &mut Observed| {
        it.state = MachineState::Stopping;
        it.events = vec![event("restart", 9)];
    };
    assert_eq!(standing(restarts), Standing::Coming);
    let updates = |it: &mut Observed| {
        it.state = MachineState::Stopping;
        it.events = vec![event("exit", 9), event("uncordon", 8), event("update", 7)];
    };
    assert_eq!(standing(updates), Standing::Coming);
    let cordoned = |it: &mut Observed| {
        it.cordoned = true;
        it.events = vec![event("start", 9), event("cordon", 4)];
    };
    assert_eq!(standing(cordoned), Standing::Cordoned { since: Timestamp(4) });
    let fails = |it: &mut Observed| {
        let name = "servicecheck-00-http-8080".into();
        it.checks.push(CheckStatus {
            name,
            status: CheckState::Critical,
            output: String::new(),
            updated_at: Timestamp(3),
        });
    };
    assert_eq!(standing(fails), Standing::Failing { since: Timestamp(3) });
}

#[test]
fn a_machine_that_is_gone_has_no_row() {
    for state in [MachineState::Destroying, MachineState::Destroyed] {
        assert_eq!(crate::MachineRoute::of(&Observed { state, ..observed(1) }), None);
    }
}

#[test]
fn a_picture_outlives_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let publisher = Publisher::open(path.clone());
    assert_eq!(publisher.reader().load().apps.len(), 0);
    publisher.apply(&view(4, [observed(1), observed(2)]));
    publisher.save().unwrap();
    drop(publisher);

    let reader = Publisher::open(path).reader();
    assert_eq!(reader.load().generation, 4);
    assert_eq!(reader.load().app("shop").unwrap().machines.len(), 2);
}

#[test]
fn an_older_view_changes_nothing_but_the_first_live_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let publisher = Publisher::open(path.clone());
    publisher.apply(&view(9, [observed(1)]));
    publisher.apply(&view(8, []));
    assert_eq!(publisher.reader().load().generation, 9);
    publisher.save().unwrap();

    let again = Publisher::open(path);
    again.apply(&view(2, []));
    assert_eq!(again.reader().load().generation, 2, "the node that lives now is right about itself");
}

#[test]
fn what_another_process_keeps_is_taken_over_and_what_is_the_same_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let (one, other) = (Publisher::open(path.clone()), Publisher::open(path));
    one.apply(&view(1, [observed(1)]));
    one.save().unwrap();
    other.reload();
    let first = other.reader().load();
    other.reload();
    assert!(Arc::ptr_eq(first.app("shop").unwrap(), other.reader().load().app("shop").unwrap()));
    one.apply(&view(2, [observed(2)]));
    one.save().unwrap();
    other.reload();
    let now = other.reader().load();
    assert_eq!((now.generation, now.machines().count()), (2, 1));
    assert_eq!(now.machines().next().unwrap().id, observed(2).spec.id);
}

#[test]
fn a_file_that_cannot_be_read_counts_as_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    fs::write(&path, b"{\"generation\": 1, \"mach").unwrap();
    assert_eq!(Publisher::open(path).reader().load().apps.len(), 0);
}

#[test]
fn a_disk_that_refuses_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let publisher = Publisher::open(directory.path().join("missing/catalog.jsonl"));
    publisher.apply(&view(1, [observed(1)]));
    assert!(publisher.save().is_err());
    fs::create_dir(directory.path().join("missing")).unwrap();
    publisher.save().unwrap();
    assert!(directory.path().join("missing/catalog.jsonl").exists());
}

#[tokio::test]
async fn following_a_node_publishes_each_view_and_saves_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let publisher = Arc::new(Publisher::open(path.clone()));
    let (node, views) = watch::channel(Arc::new(view(1, [observed(1)])));
    let mut generations = publisher.reader().changed();
    let stop = CancellationToken::new();
    let following = tokio::spawn(publisher.clone().follow(views, stop.clone()));
    generations.wait_for(|generation| *generation == 1).await.unwrap();
    node.send_replace(Arc::new(view(2, [observed(1), observed(2)])));
    generations.wait_for(|generation| *generation == 2).await.unwrap();
    stop.cancel();
    following.await.unwrap();
    assert_eq!(Publisher::open(path).reader().load().machines().count(), 2);
}

#[test]
fn machines_are_told_by_whom_they_are_reached_and_older_pictures_know_of_nobody() {
    let publisher = Publisher::in_memory();
    let worker = Worker { host: "one".parse().unwrap(), door: "192.0.2.1:4281".parse().unwrap() };
    publisher.reached_by(worker.clone());
    publisher.apply(&view(1, [observed(1), observed(2)]));
    let picture = publisher.reader().load();
    let machines = &picture.apps.get("shop").unwrap().machines;
    let workers: Vec<_> = machines.iter().filter_map(|machine| machine.worker.as_ref()).collect();
    assert_eq!(workers.len(), 2);
    assert!(*workers[0].as_ref() == worker && Arc::ptr_eq(workers[0], workers[1]), "it is kept once");
    let mut old = serde_json::to_value(machines[0].as_ref()).unwrap();
    old.as_object_mut().unwrap().remove("worker");
    assert_eq!(serde_json::from_value::<MachineRoute>(old).unwrap().worker, None);
}
