//! Starting and stopping.

use std::net::TcpListener;

use axum::Router;
use edge::{Edge, EdgeError};
use http::Request;
use tokio::{net::TcpStream, sync::mpsc};

use crate::support::*;

/// The error of a start with these changes.
async fn refused(change: impl FnOnce(&mut edge::EdgeOptions)) -> EdgeError {
    let directory = tempfile::tempdir().unwrap();
    let publisher = catalog::Publisher::open(directory.path().join("catalog.jsonl"));
    let mut options = edge::EdgeOptions {
        http: vec![(fresh_ip(), 0).into()],
        https: vec![(fresh_ip(), 0).into()],
        domain: "dunlin.localhost".into(),
        region: "local".parse().unwrap(),
        keys: directory.path().join("keys"),
        catalog: publisher.reader(),
        hostnames: hostnames(directory.path()),
        logs: std::sync::Arc::new(Logs::default()),
        platform: Default::default(),
        reserved_ports: Default::default(),
        public_https_port: None,
        trusted_proxies: Vec::new(),
        maintenance: edge::Maintenance::open(directory.path().join("maintenance.json")),
        http3: true,
        backhaul: edge::Backhaul::default(),
        access_records: true,
        bounds: Default::default(),
    };
    change(&mut options);
    Edge::start(options).await.err().expect("it does not start")
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_holder_and_the_flag_to_change() {
    let taken = TcpListener::bind((fresh_ip(), 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let error = refused(|options| options.https = vec![address]).await.to_string();
    for part in [&format!("port {}", address.port()), "--https", &format!("process {}", std::process::id())] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_ours_and_a_domain_that_is_none_are_refused() {
    let error = refused(|options| options.http = vec!["192.0.2.1:0".parse().unwrap()]).await;
    assert!(matches!(&error, EdgeError::Listen { flag: "http-port", .. }), "{error}");
    let error = refused(|options| options.domain = "not a domain".into()).await;
    assert!(error.to_string().contains("dunlin.localhost"), "{error}");
}

#[tokio::test]
async fn it_serves_from_the_last_good_picture_before_the_node_has_spoken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.jsonl");
    let machine = Machine::of("shop");
    let _program = machine.run(says("still here")).await;
    let publisher = catalog::Publisher::open(path.clone());
    let mut view = api::internal::NodeView { generation: 5, ..Default::default() };
    view.machines.insert(machine.id().clone(), std::sync::Arc::new(machine.0.clone()));
    publisher.apply(&view);
    publisher.save().unwrap();
    drop(publisher);
    let restarted = catalog::Publisher::open(path);
    let world = World::with(|options| options.catalog = restarted.reader()).await;
    assert_eq!(world.get("shop", "/").await.body, "still here");
}

#[tokio::test]
async fn stopping_lets_a_request_end_and_takes_no_other() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (arrived, mut arrivals) = mpsc::channel(1);
    let (go, may_go) = tokio::sync::watch::channel(false);
    let program = Router::new().fallback(move || async move {
        arrived.send(()).await.unwrap();
        may_go.clone().wait_for(|go| *go).await.unwrap();
        "finished"
    });
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let request = Request::get("/").header("host", host("shop")).body(full("")).unwrap();
    let under_way = tokio::spawn(send(world.http(), request));
    within(arrivals.recv()).await.unwrap();
    let edge = world.edge.clone();
    let stopped = tokio::spawn(async move { edge.shutdown(PATIENCE).await });
    let mut taken = true;
    while taken {
        taken = TcpStream::connect(world.http()).await.is_ok();
    }
    assert!(!stopped.is_finished());
    go.send_replace(true);
    assert_eq!(within(under_way).await.unwrap().unwrap().body, "finished");
    within(stopped).await.unwrap();
}

#[tokio::test]
async fn stopping_cuts_off_what_does_not_end() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(Router::new().fallback(std::future::pending::<()>)).await;
    world.know(&[&machine]).await;
    let request = Request::get("/").header("host", host("shop")).body(full("")).unwrap();
    let under_way = tokio::spawn(send(world.http(), request));
    let id = machine.id().clone();
    let edge = world.edge.clone();
    let generation = *edge.generation().borrow();
    let begun = async {
        use api::internal::Drain;
        while edge.drained(&id, generation, std::time::Duration::from_millis(1)).await == 0 {}
    };
    within(begun).await;
    within(world.edge.shutdown(std::time::Duration::from_millis(50))).await;
    assert!(within(under_way).await.unwrap().is_err());
}
