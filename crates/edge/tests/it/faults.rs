//! What breaks beside a request must not break the request, where the rules allow that: while the control plane is down
//! and the catalog has a row that cannot be read.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use api::internal::NodeView;
use axum::{Router, body::Body};
use catalog::Publisher;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::Empty;
use model::machine::ConcurrencyKind;
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    load::{Load, connects, keeps_alive},
    support::*,
};

/// A world without a control plane: all there is is the last good catalog, one row of which is poisoned.
async fn without_control(machines: &[&Machine], change: impl FnOnce(&mut edge::EdgeOptions)) -> World {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let publisher = Publisher::open(path.clone());
    let mut view = NodeView { generation: 5, ..NodeView::default() };
    let poisoned = Machine::of("poisoned");
    for machine in machines.iter().chain([&&poisoned]) {
        view.machines.insert(machine.id().clone(), Arc::new(machine.0.clone()));
    }
    publisher.apply(&view);
    publisher.save().unwrap();
    poison(&path, poisoned.id().as_str());
    let catalog = Publisher::open(path).reader();
    assert_eq!(catalog.load().quarantined().len(), 1);
    World::with(|options| {
        options.catalog = catalog;
        change(options);
    })
    .await
}

/// Makes a machine's row one that cannot be read.
fn poison(path: &Path, id: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(id));
    std::fs::write(path, text.replace(id, "not a machine id")).unwrap();
}

/// Clients that go on until the end, of each kind some.
fn clients(load: &Arc<Load>, address: SocketAddr) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        clients.spawn(connects(load.clone(), address));
        clients.spawn(keeps_alive(load.clone(), address));
    }
    clients
}

/// Accepts connections and resets them, some before and some after a request has come.
async fn resets(machine: &Machine) -> JoinSet<()> {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut before = false;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            before = !before;
            if !before {
                stream.readable().await.unwrap();
            }
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    });
    task
}

/// Listens, but its queue is full: nobody gets through, and nobody is told so.
fn never_accepts(machine: &Machine) -> (Socket, Vec<Socket>) {
    let address = machine.address().into();
    let new = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = new();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let waiting = (0..3).map(|_| {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address);
        socket
    });
    (listener, waiting.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_while_machines_die_hang_and_reset_and_the_edge_is_restarted() {
    let machines: Vec<Machine> = (0..4).map(|_| Machine::of("shop")).collect();
    let all: Vec<&Machine> = machines.iter().collect();
    let mut world = without_control(&all, |options| options.bounds.connect = Duration::from_millis(200)).await;
    let _good = machines[0].run(says("hello")).await;
    let dies = machines[1].run(says("hello")).await;
    // Nobody listens in the other two yet.
    let load = Arc::new(Load::default());
    let mut clients = clients(&load, world.http());
    load.goes_on_for_all("two machines serve, two refuse").await;

    dies.kill().await;
    load.goes_on_for_all("one has died").await;
    let resetting = resets(&machines[1]).await;
    load.goes_on_for_all("it came back and resets what comes").await;
    let hanging = never_accepts(&machines[2]);
    load.goes_on_for_all("another hangs").await;

    let mut retiring = JoinSet::new();
    for _ in 0..3 {
        let old = world.take_over().await;
        retiring.spawn(async move { old.retire(PATIENCE, PATIENCE).await });
        load.goes_on_for_all("the edge was restarted").await;
    }
    drop((resetting, hanging));
    load.end();
    while let Some(client) = within(clients.join_next()).await {
        client.unwrap();
    }
    within(retiring.join_all()).await;
    assert_eq!(load.failed(), 0, "of {:?}", load.answered());
    assert_eq!(world.get("poisoned", "/").await.header("dunlin-error"), "PH01");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_while_every_machine_is_at_its_limit() {
    let machines: Vec<Machine> =
        (0..2).map(|_| Machine::of("shop").limits(ConcurrencyKind::Requests, 1, Some(1))).collect();
    let world = without_control(&[&machines[0], &machines[1]], |_| ()).await;
    let _programs = (machines[0].run(says("hello")).await, machines[1].run(says("hello")).await);
    let load = Arc::new(Load::default());
    let clients = clients(&load, world.http());
    load.goes_on_for_all("six clients share two places").await;
    load.end();
    within(clients.join_all()).await;
    assert_eq!(load.failed(), 0, "of {:?}", load.answered());
}

#[tokio::test]
async fn a_machine_that_dies_breaks_the_answers_that_it_had_begun_and_no_others() {
    let machines = [Machine::of("shop"), Machine::of("shop")];
    let world = without_control(&[&machines[0], &machines[1]], |_| ()).await;
    let endless = || async {
        let begin = stream::iter([Ok::<_, std::io::Error>("begin")]);
        Body::from_stream(begin.chain(stream::pending()))
    };
    let program = || Router::new().route("/endless", axum::routing::get(endless)).fallback(|| async { "hello" });
    let (_lives, dies) = (machines[0].run(program()).await, machines[1].run(program()).await);
    let mut begun = Vec::new();
    for _ in 0..20 {
        let request = Request::get("/endless").header("host", host("shop")).body(Empty::<bytes::Bytes>::new()).unwrap();
        let mut sender = connect_h1(world.http()).await;
        begun.push((within(sender.send_request(request)).await.unwrap().into_body(), sender));
    }
    let on_the_one_that_dies = dies.accepted();
    assert!((1..20).contains(&on_the_one_that_dies), "{on_the_one_that_dies}");
    dies.kill().await;
    let broken = || world.logs.lines().iter().filter(|line| line.starts_with("[PC05]")).count();
    until("its answers are broken", || broken() == on_the_one_that_dies).await;
    for _ in 0..50 {
        assert_eq!(world.get("shop", "/").await.body, "hello");
    }
    assert_eq!(broken(), world.logs.lines().len(), "{:?}", world.logs.lines());
}
