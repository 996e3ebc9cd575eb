//! What the edge tells about what it carried.

use std::collections::BTreeSet;

use api::internal::EdgeView;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::{
    log::{LogRecord, LogSource},
    machine::{ConcurrencyKind, MachineState},
};

use crate::support::*;

impl World {
    /// The access records, once there are so many.
    async fn records(&self, count: usize) -> Vec<LogRecord> {
        let records = || self.logs.of(LogSource::Access);
        until("access records", || records().len() >= count).await;
        records()
    }

    /// The value of a line of the metrics page, by its name and a label.
    fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let page = self.edge.metrics(None);
        let line = page.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label))?;
        line.rsplit_once(' ')?.1.parse().ok()
    }
}

#[tokio::test]
async fn each_request_leaves_one_record_in_its_apps_log() {
    let mut world = World::start().await;
    let (machine, deaf) = (Machine::of("shop"), Machine::of("deaf"));
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine, &deaf]).await;
    let answer = world.get("shop", "/a?b=c").await;
    let refused = world.get("deaf", "/").await;
    world.get("nobody", "/").await;
    let records = world.records(2).await;
    assert_eq!(records.len(), 2, "a host that is nobody's has no log: {records:?}");
    let of = |app: &str| records.iter().find(|record| record.app.as_str() == app).unwrap();
    let (good, bad) = (of("shop"), of("deaf"));
    assert_eq!(good.machine.as_ref(), Some(machine.id()));
    for part in ["method=GET path=\"/a?b=c\" host=\"shop.dunlin.localhost\" status=200 code=-", "bytes=5"] {
        assert!(good.message.contains(part), "{}", good.message);
    }
    assert!(good.message.contains(&format!("request={}", answer.header("fly-request-id"))));
    assert!(bad.message.contains("status=502 code=PC01"), "{}", bad.message);
    assert!(bad.message.contains(refused.header("fly-request-id")));
}

#[tokio::test]
async fn records_can_be_turned_off() {
    let mut world = World::with(|options| options.access_records = false).await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    assert_eq!(world.get("shop", "/").await.status, StatusCode::OK);
    until("the request is over", || world.edge.routes().apps[0].ports[0].machines[0].load == 0).await;
    assert!(world.logs.of(LogSource::Access).is_empty());
}

#[tokio::test]
async fn answers_and_connections_are_counted_by_app_and_by_machine() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    for _ in 0..3 {
        world.get("shop", "/").await;
    }
    until("the connections are over", || world.metric("fly_edge_tcp_disconnects_count", "app=\"shop\"") == Some(3.0))
        .await;
    let shop = "app=\"shop\",status=\"200\"";
    assert_eq!(world.metric("fly_edge_http_responses_count", shop), Some(3.0));
    assert_eq!(world.metric("fly_edge_http_response_time_seconds_count", shop), Some(3.0));
    assert_eq!(world.metric("fly_edge_tcp_connects_count", "app=\"shop\""), Some(3.0));
    assert!(world.metric("fly_edge_data_in", "app=\"shop\"").unwrap() > 100.0);
    assert!(world.metric("fly_edge_data_out", "app=\"shop\"").unwrap() > 100.0);
    let instance = format!("instance=\"{}\"", machine.id());
    assert_eq!(world.metric("fly_app_http_responses_count", &instance), Some(3.0));
    assert!(world.metric("fly_app_connect_time_seconds_count", &instance).unwrap() >= 1.0);
    assert_eq!(world.metric("fly_app_concurrency", &instance), Some(0.0));
    let page = world.edge.metrics(Some(&BTreeSet::new()));
    assert!(!page.contains("shop"), "nothing is told to whom it does not belong: {page}");
}

#[tokio::test]
async fn a_machine_reads_the_trace_that_its_request_belongs_to() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = Request::get("/")
        .header("host", host("shop"))
        .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
        .body(Empty::<Bytes>::new())
        .unwrap();
    let answer = world.send(request).await;
    assert!(answer.body.contains(&format!("traceparent: 00-{trace}-")), "{}", answer.body);
    assert!(!answer.body.contains("00f067aa0ba902b7"), "the edge is the parent now: {}", answer.body);
    let records = world.records(1).await;
    assert!(records[0].message.contains(&format!("trace={trace}")), "{}", records[0].message);
    assert!(world.get("shop", "/").await.body.contains("traceparent: 00-"), "a trace begins here");
}

#[tokio::test]
async fn routes_tell_why_a_machine_is_chosen_or_not() {
    let mut world = World::start().await;
    let full = Machine::of("shop").limits(ConcurrencyKind::Requests, 1, Some(1));
    let (stopped, cordoned) = (Machine::of("shop").state(MachineState::Stopped), Machine::of("shop").cordoned(true));
    let broken = Machine::of("shop").service(|service| service.internal_port = 0);
    let program = full.run(sleepy()).await;
    world.know(&[&full, &stopped, &cordoned, &broken]).await;
    let (address, request) =
        (world.http(), Request::get("/").header("host", host("shop")).body(Empty::<Bytes>::new()).unwrap());
    let under_way = tokio::spawn(send(address, request));
    until("the program has the request", || program.accepted() == 1).await;
    let routes = world.edge.routes();
    let shop = &routes.apps[0];
    assert_eq!((shop.name.as_str(), shop.host.as_str()), ("shop", "shop.dunlin.localhost"));
    let why = |machine: &Machine| {
        let found = shop.ports[0].machines.iter().find(|it| it.id == *machine.id()).unwrap();
        (found.takes_traffic, found.load, found.why.clone())
    };
    assert_eq!(why(&full), (false, 1, "full: at its hard limit of 1".into()));
    assert!(!why(&stopped).0 && why(&stopped).2.contains("stopped"), "{:?}", why(&stopped));
    assert!(why(&cordoned).2.contains("uncordon"), "{:?}", why(&cordoned));
    assert!(routes.left_out.iter().any(|it| it.machine.as_ref() == Some(broken.id())), "{:?}", routes.left_out);
    let live = world.edge.connections().connections;
    assert_eq!(live.len(), 1);
    assert_eq!((live[0].app.as_ref().map(|app| app.as_str()), live[0].requests, live[0].tls), (Some("shop"), 1, false));
    under_way.abort();
    until("the table is empty", || world.edge.connections().connections.is_empty()).await;
}

/// A program that takes every request and never answers.
fn sleepy() -> axum::Router {
    axum::Router::new().fallback(|| async { std::future::pending::<()>().await })
}
