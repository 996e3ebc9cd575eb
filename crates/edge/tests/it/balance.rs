//! Holding, queueing, draining: what makes a deploy lose nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use api::internal::Drain;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::machine::{CheckState, ConcurrencyKind, MachineState};
use tokio::sync::mpsc;

use crate::support::*;

fn get(app: &str) -> Request<Empty<Bytes>> {
    Request::get("/").header("host", host(app)).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_request_waits_while_the_only_machine_is_on_its_way_up() {
    for coming in [MachineState::Creating, MachineState::Starting, MachineState::Restarting, MachineState::Replacing] {
        let mut world = World::start().await;
        let machine = Machine::of("shop");
        let _program = machine.run(says("up")).await;
        world.know(&[&machine.clone().state(coming)]).await;
        let waiting = tokio::spawn(send(world.http(), get("shop")));
        // Another picture that does not help is not the end of waiting.
        world.know(&[&machine.clone().check(CheckState::Warning, kit::clock::unix_ms())]).await;
        assert!(!waiting.is_finished());
        world.know(&[&machine]).await;
        assert_eq!(within(waiting).await.unwrap().unwrap().body, "up", "{coming:?}");
    }
}

#[tokio::test]
async fn a_wait_that_comes_to_nothing_ends_with_the_reason() {
    let mut world = World::with(|options| options.bounds.hold = Duration::from_millis(100)).await;
    world.know(&[&Machine::of("shop").state(MachineState::Starting)]).await;
    let answer = world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PR04"));
    assert!(answer.body.contains("1 starting"), "{}", answer.body);
}

#[tokio::test]
async fn a_wait_ends_at_once_when_the_last_hope_goes() {
    let mut world = World::start().await;
    let machine = Machine::of("shop").state(MachineState::Starting);
    world.know(&[&machine]).await;
    let waiting = tokio::spawn(send(world.http(), get("shop")));
    world.know(&[&machine.state(MachineState::Failed)]).await;
    assert_eq!(within(waiting).await.unwrap().unwrap().header("dunlin-error"), "PR01");
}

#[tokio::test]
async fn only_so_many_wait() {
    let mut world = World::with(|options| options.bounds.held_per_app = 2).await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("up")).await;
    world.know(&[&machine.clone().state(MachineState::Starting)]).await;
    let (answers, mut answered) = mpsc::channel(3);
    for _ in 0..3 {
        let (address, answers) = (world.http(), answers.clone());
        tokio::spawn(async move { answers.send(send(address, get("shop")).await.unwrap()).await });
    }
    assert_eq!(within(answered.recv()).await.unwrap().header("dunlin-error"), "PL02");
    world.know(&[&machine]).await;
    for _ in 0..2 {
        assert_eq!(within(answered.recv()).await.unwrap().body, "up");
    }
}

#[tokio::test]
async fn a_machine_gets_no_more_than_its_hard_limit_and_the_rest_queues() {
    let mut world = World::start().await;
    let machine = Machine::of("shop").limits(ConcurrencyKind::Requests, 1, Some(2));
    let (program, mut arrivals, gate) = gated();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let requests: Vec<_> = (0..6).map(|_| tokio::spawn(send(world.http(), get("shop")))).collect();
    for _ in 0..3 {
        within(arrivals.recv()).await.unwrap();
        within(arrivals.recv()).await.unwrap();
        assert!(arrivals.try_recv().is_err(), "more than two at a time");
        gate.add_permits(2);
    }
    for request in requests {
        assert_eq!(within(request).await.unwrap().unwrap().body, "done");
    }
}

#[tokio::test]
async fn a_queue_that_does_not_move_ends_with_the_reason() {
    let mut world = World::with(|options| options.bounds.queue = Duration::from_millis(100)).await;
    let machine = Machine::of("shop").limits(ConcurrencyKind::Requests, 1, Some(1));
    let (program, mut arrivals, gate) = gated();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let first = tokio::spawn(send(world.http(), get("shop")));
    within(arrivals.recv()).await.unwrap();
    let answer = world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PL01"));
    assert_eq!(answer.header("retry-after"), "5");
    gate.add_permits(1);
    assert_eq!(within(first).await.unwrap().unwrap().body, "done");
}

#[tokio::test]
async fn above_its_soft_limit_a_machine_is_used_only_when_all_are() {
    let mut world = World::start().await;
    let machines = [Machine::of("shop"), Machine::of("shop")].map(|it| it.limits(ConcurrencyKind::Requests, 2, None));
    let ((one, mut to_one, gate_one), (other, mut to_other, gate_other)) = (gated(), gated());
    let _programs = (machines[0].run(one).await, machines[1].run(other).await);
    world.know(&[&machines[0], &machines[1]]).await;
    let mut requests = Vec::new();
    for _ in 0..4 {
        requests.push(tokio::spawn(send(world.http(), get("shop"))));
        within(async {
            tokio::select! { _ = to_one.recv() => (), _ = to_other.recv() => () }
        })
        .await;
    }
    let loads = [&gate_one, &gate_other].map(|gate| gate.available_permits());
    assert_eq!(loads, [0, 0]);
    gate_one.add_permits(2);
    gate_other.add_permits(2);
    for request in requests {
        // Had one of them taken three, its third would wait for a permit for ever.
        within(request).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_cordoned_machine_finishes_what_it_has_and_gets_nothing_new() {
    let mut world = World::start().await;
    let (old, new) = (Machine::of("shop"), Machine::of("shop"));
    let (program, mut arrivals, gate) = gated();
    let _old = old.run(program).await;
    world.know(&[&old]).await;
    let under_way = tokio::spawn(send(world.http(), get("shop")));
    within(arrivals.recv()).await.unwrap();

    let _new = new.run(says("new")).await;
    let generation = world.know(&[&old.clone().cordoned(true), &new]).await;
    assert_eq!(world.get("shop", "/").await.body, "new");
    let (edge, id) = (world.edge.clone(), old.id().clone());
    let drained = tokio::spawn(async move { edge.drained(&id, generation, PATIENCE).await });
    assert_eq!(world.get("shop", "/").await.body, "new");
    assert!(!drained.is_finished());
    gate.add_permits(1);
    assert_eq!(within(under_way).await.unwrap().unwrap().body, "done");
    assert_eq!(within(drained).await.unwrap(), 0);
    assert!(arrivals.try_recv().is_err());
}

#[tokio::test]
async fn a_drain_that_runs_out_of_time_says_what_is_left() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (program, mut arrivals, gate) = gated();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let under_way = tokio::spawn(send(world.http(), get("shop")));
    within(arrivals.recv()).await.unwrap();
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    assert_eq!(world.edge.drained(machine.id(), generation, Duration::from_millis(50)).await, 1);
    gate.add_permits(1);
    assert_eq!(within(under_way).await.unwrap().unwrap().body, "done");
    assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0);
}

#[tokio::test]
async fn a_drain_waits_for_the_picture_it_was_asked_about() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let generation = world.know(&[&machine]).await;
    let behind = world.edge.drained(machine.id(), generation + 1, Duration::from_millis(50)).await;
    assert_eq!(behind, 1, "the edge may still choose it");
    let (edge, id) = (world.edge.clone(), machine.id().clone());
    let drained = tokio::spawn(async move { edge.drained(&id, generation + 1, PATIENCE).await });
    world.know(&[&machine.cordoned(true)]).await;
    assert_eq!(within(drained).await.unwrap(), 0);
}

/// Sends requests without a pause, safe and unsafe ones, until told to stop. Returns how many, and what failed.
async fn load(address: std::net::SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(SeqCst) {
        let number = done.fetch_add(1, SeqCst);
        let method = if number.is_multiple_of(2) { "GET" } else { "POST" };
        let request = Request::builder().method(method).uri("/").header("host", host("shop"));
        match send(address, request.body(full(if method == "POST" { "x" } else { "" })).unwrap()).await {
            Ok(answer) if answer.status == StatusCode::OK => {}
            Ok(answer) => failures.push(format!("{method} {number}: {} {}", answer.status, answer.body)),
            Err(error) => failures.push(format!("{method} {number}: {error}")),
        }
    }
    failures
}

/// Runs `change` many times under load and counts what failed.
async fn failures_during(world: &mut World, mut change: impl AsyncFnMut(&mut World)) -> Vec<String> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(load(world.http(), stop.clone(), done.clone()))).collect();
    for _ in 0..12 {
        let before = done.load(SeqCst);
        change(world).await;
        until("more requests are done", || done.load(SeqCst) > before + 20).await;
    }
    stop.store(true, SeqCst);
    let mut failures = Vec::new();
    for client in clients {
        failures.extend(within(client).await.unwrap());
    }
    failures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_swapped_under_load_without_a_lost_request() {
    let mut world = World::start().await;
    let mut current = Machine::of("shop").limits(ConcurrencyKind::Requests, 20, None);
    let mut program = current.run(says("one")).await;
    world.know(&[&current]).await;
    let failures = failures_during(&mut world, async |world| {
        let next = Machine::of("shop").limits(ConcurrencyKind::Requests, 20, None);
        let next_program = next.run(says("next")).await;
        world.know(&[&next]).await;
        let generation = world.know(&[&current.clone().cordoned(true)]).await;
        assert_eq!(world.edge.drained(current.id(), generation, PATIENCE).await, 0);
        world.remove(&current);
        world.tell();
        program = next_program;
        current = next;
    })
    .await;
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_machine_is_replaced_under_load_without_a_lost_request() {
    let mut world = World::with(|options| options.bounds.startup_grace = PATIENCE).await;
    let machine = Machine::of("shop").limits(ConcurrencyKind::Requests, 20, None);
    let mut program = Some(machine.run(says("one")).await);
    world.know(&[&machine]).await;
    let failures = failures_during(&mut world, async |world| {
        let generation = world.know(&[&machine.clone().cordoned(true)]).await;
        assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0);
        world.know(&[&machine.clone().cordoned(true).state(MachineState::Replacing)]).await;
        program.take().unwrap().kill().await;
        world.know(&[&machine.clone().cordoned(true).state(MachineState::Starting)]).await;
        // It counts as started before its program listens.
        world.know(&[&machine.clone().cordoned(true)]).await;
        world.know(&[&machine]).await;
        program = Some(machine.run(says("again")).await);
    })
    .await;
    assert!(failures.is_empty(), "{failures:?}");
}
