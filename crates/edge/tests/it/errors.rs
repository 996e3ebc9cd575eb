//! What a client and an app are told when something is wrong.

use std::time::Duration;

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use model::machine::{CheckState, MachineState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::*;

fn get(app: &str, accept: &str) -> Request<Empty<Bytes>> {
    Request::get("/").header("host", host(app)).header("accept", accept).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn an_unknown_host_is_the_clients_fault_in_the_clients_own_format() {
    let world = World::start().await;
    let html = world.send(get("nobody", "text/html,*/*")).await;
    assert_eq!(html.status, StatusCode::NOT_FOUND);
    assert!(html.header("content-type").starts_with("text/html"));
    assert!(html.body.contains("nobody.dunlin.localhost") && html.body.contains(html.header("fly-request-id")));
    let json = world.send(get("nobody", "application/json")).await;
    let object: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((object["status"].as_str(), object["fault"].as_str()), (Some("PH01"), Some("client")));
    let text = world.send(get("nobody", "*/*")).await;
    assert!(text.body.starts_with("PH01: "), "{}", text.body);
    assert_eq!(text.header("dunlin-error"), "PH01");
}

#[tokio::test]
async fn an_app_that_does_not_listen_is_told_where_it_should() {
    let mut world = World::start().await;
    let machine = Machine::of("deaf");
    world.know(&[&machine]).await;
    let answer = world.get("deaf", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PC01"));
    assert!(answer.body.contains("0.0.0.0:8080"), "{}", answer.body);
    let lines = world.logs.lines();
    assert!(lines.iter().any(|line| line.starts_with("[PC01]") && line.contains(answer.header("fly-request-id"))));
}

#[tokio::test]
async fn an_app_that_has_just_started_gets_time_to_listen() {
    let mut world = World::with(|options| options.bounds.startup_grace = PATIENCE).await;
    let machine = Machine::of("slow");
    world.know(&[&machine]).await;
    let (address, request) = (world.http(), get("slow", "*/*"));
    let waiting = tokio::spawn(send(address, request));
    // It is refused at least once before the program listens.
    let held = TcpStream::connect(machine.address()).await;
    assert!(held.is_err() && !waiting.is_finished());
    let _program = machine.run(says("at last")).await;
    assert_eq!(within(waiting).await.unwrap().unwrap().body, "at last");
}

#[tokio::test]
async fn an_app_whose_machines_are_all_stopped_is_refused_at_once() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("shop").state(MachineState::Stopped)]).await;
    let answer = world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PR01"));
    assert!(answer.body.contains("1 stopped"), "{}", answer.body);
    assert!(world.logs.has("PR01"));
}

#[tokio::test]
async fn an_app_that_has_failed_its_checks_for_long_is_not_waited_for() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("sick").check(CheckState::Critical, 1)]).await;
    let answer = world.get("sick", "/").await;
    assert_eq!(answer.header("dunlin-error"), "PR01");
    assert!(answer.body.contains("failing its checks"), "{}", answer.body);
}

#[tokio::test]
async fn plain_http_where_only_https_is_offered_says_so() {
    let mut world = World::start().await;
    let machine = Machine::of("safe").service(|service| {
        service.ports.remove(0);
    });
    world.know(&[&machine]).await;
    let answer = world.get("safe", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::NOT_FOUND, "PH03"));
}

#[tokio::test]
async fn force_https_redirects_to_the_same_address() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("safe").each_port(|port| port.force_https = port.port == Some(80))]).await;
    let answer = world.get("safe", "/a/b?c=d").await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    let port = world.https().port();
    assert_eq!(answer.header("location"), format!("https://safe.dunlin.localhost:{port}/a/b?c=d"));
}

#[tokio::test]
async fn a_machine_that_dies_in_the_middle_of_an_answer_breaks_the_answer_and_is_reported() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let endless = || async {
        let first = stream::iter([Ok::<_, std::io::Error>("begin")]);
        Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()))
    };
    let program = machine.run(Router::new().fallback(endless)).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h1(world.http()).await;
    let mut body = within(sender.send_request(get("shop", "*/*"))).await.unwrap().into_body();
    assert_eq!(within(body.frame()).await.unwrap().unwrap().into_data().unwrap(), "begin");
    drop(program);
    assert!(within(body.frame()).await.unwrap().is_err(), "a broken answer must not look whole");
    until("the app's log says so", || world.logs.has("PC05")).await;
}

/// A machine whose program reads a request and closes the connection, as one that crashes does.
async fn crashes(machine: &Machine) -> mpsc::Receiver<()> {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let (crashed, crashes) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            crashed.send(()).await.unwrap();
        }
    });
    crashes
}

#[tokio::test]
async fn a_safe_request_is_sent_to_another_machine_when_one_dies_over_it() {
    let mut world = World::start().await;
    let (bad, good) = (Machine::of("shop"), Machine::of("shop"));
    let _crashes = crashes(&bad).await;
    let _program = good.run(says("alive")).await;
    world.know(&[&bad, &good]).await;
    for _ in 0..20 {
        assert_eq!(world.get("shop", "/").await.body, "alive");
    }
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_sent_twice() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let mut crashes = crashes(&machine).await;
    world.know(&[&machine]).await;
    let post = Request::post("/").header("host", host("shop")).body(full("pay")).unwrap();
    let answer = world.send(post).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PC03"));
    within(crashes.recv()).await.unwrap();
    assert!(crashes.try_recv().is_err(), "it was sent twice");
}

#[tokio::test]
async fn a_machine_that_refuses_is_passed_over() {
    let mut world = World::start().await;
    let (deaf, good) = (Machine::of("shop"), Machine::of("shop"));
    let _program = good.run(says("alive")).await;
    world.know(&[&deaf, &good]).await;
    for _ in 0..20 {
        let post = Request::post("/").header("host", host("shop")).body(full("pay")).unwrap();
        assert_eq!(world.send(post).await.body, "alive");
    }
}

#[tokio::test]
async fn several_machines_that_all_refuse_are_all_named() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("shop"), &Machine::of("shop")]).await;
    let answer = world.get("shop", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PR03"));
    assert!(answer.body.contains("6 attempts"), "{}", answer.body);
}

#[tokio::test]
async fn an_app_that_does_not_speak_http_is_told_so() {
    let mut world = World::start().await;
    let machine = Machine::of("odd");
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    world.know(&[&machine]).await;
    assert_eq!(world.get("odd", "/").await.header("dunlin-error"), "PU02");
}

#[tokio::test]
async fn an_app_that_never_answers_is_given_up() {
    let mut world = World::with(|options| options.bounds.answer = Duration::from_millis(50)).await;
    let machine = Machine::of("slow");
    let _program = machine.run(Router::new().fallback(std::future::pending::<()>)).await;
    world.know(&[&machine]).await;
    let answer = world.get("slow", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::GATEWAY_TIMEOUT, "PU03"));
}

#[tokio::test]
async fn a_client_who_dawdles_over_his_header_is_cut_off() {
    let world = World::with(|options| {
        options.bounds.header = Duration::from_millis(100);
        options.bounds.idle = Duration::from_millis(100);
    })
    .await;
    for beginning in ["GET / HTTP/1.1\r\nHost: sh", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""] {
        let mut client = TcpStream::connect(world.http()).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        within(async { while client.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} }).await;
    }
}

#[tokio::test]
async fn a_header_beyond_the_bound_is_refused() {
    let world = World::with(|options| options.bounds.header_bytes = 8192).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    let long = "x".repeat(20_000);
    let _ = client.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nLong: {long}\r\n\r\n").as_bytes()).await;
    let mut answer = [0; 12];
    within(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn the_log_of_an_app_is_not_flooded() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("shop").state(MachineState::Stopped)]).await;
    let mut sender = connect_h1(world.http()).await;
    for _ in 0..200 {
        within(sender.ready()).await.unwrap();
        let response = within(sender.send_request(get("shop", "*/*"))).await.unwrap();
        Answer::read(response).await.unwrap();
    }
    assert!((1..100).contains(&world.logs.lines().len()), "{}", world.logs.lines().len());
}
