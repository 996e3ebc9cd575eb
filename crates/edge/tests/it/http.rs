//! Requests and answers.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use model::machine::ConcurrencyKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::support::*;

#[tokio::test]
async fn a_request_reaches_the_app_and_its_answer_comes_back_signed() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let answer = world.get("shop", "/").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "hello"));
    assert_eq!(answer.header("server"), "Dunlin");
    assert_eq!(answer.header("via"), "1.1 dunlin");
    let id = answer.header("fly-request-id");
    let (ulid, region) = id.split_once('-').unwrap();
    assert!(ulid.parse::<model::InstanceId>().is_ok() && region == "local", "{id}");
}

#[tokio::test]
async fn an_app_can_trust_every_field_that_the_platform_sets() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let forged = "6.6.6.6";
    let mut request = Request::get("/a?b=c").header("host", "Shop.dunlin.localhost:1234");
    for name in [
        "fly-client-ip",
        "Fly_Client_IP",
        "fly-region",
        "fly-request-id",
        "fly-replay-src",
        "fly-forwarded-port",
        "x-forwarded-proto",
        "X_Forwarded_For",
        "x-forwarded-port",
        "x-forwarded-ssl",
        "x-real-ip",
    ] {
        request = request.header(name, forged);
    }
    let request = request.header("x-forwarded-for", "10.1.1.1").header("keep-alive", "5");
    let request = request.header("connection", "x-private, host").header("x-private", "secret");
    let answer = world.send(request.body(Empty::<Bytes>::new()).unwrap()).await;
    let lines: Vec<&str> = answer.body.lines().collect();
    assert!(!answer.body.contains(forged) && !answer.body.contains("secret"), "{}", answer.body);
    let port = world.http().port();
    let ip = world.ip;
    let client = lines.iter().find_map(|line| line.strip_prefix("fly-client-ip: ")).unwrap();
    for expected in [
        "target: /a?b=c".to_owned(),
        "host: Shop.dunlin.localhost:1234".into(),
        format!("x-forwarded-for: 10.1.1.1, {client}, {ip}"),
        "x-forwarded-proto: http".into(),
        "x-forwarded-ssl: off".into(),
        format!("x-forwarded-port: {port}"),
        format!("fly-forwarded-port: {port}"),
        "fly-region: local".into(),
        "via: 1.1 dunlin".into(),
        format!("fly-request-id: {}", answer.header("fly-request-id")),
    ] {
        assert!(lines.contains(&expected.as_str()), "no {expected:?} in\n{}", answer.body);
    }
    assert!(!answer.body.contains("keep-alive"), "{}", answer.body);
}

#[tokio::test]
async fn http_2_reaches_an_http_1_app() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h2(world.http()).await;
    let request = Request::get("http://shop.dunlin.localhost/x").version(Version::HTTP_2);
    let request = request.header("cookie", "a=1").header("cookie", "b=2").body(Empty::<Bytes>::new()).unwrap();
    let answer = Answer::read(within(sender.send_request(request)).await.unwrap()).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("host: shop.dunlin.localhost\n"), "{}", answer.body);
    assert!(answer.body.contains("cookie: a=1; b=2"), "{}", answer.body);
    assert!(answer.body.contains("via: 2 dunlin"), "{}", answer.body);
}

#[tokio::test]
async fn http_1_0_gets_an_answer_that_ends_with_the_connection() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let stream = || async { Body::from_stream(stream::iter(["a", "b"].map(Ok::<_, Infallible>))) };
    let _program = machine.run(Router::new().fallback(stream)).await;
    world.know(&[&machine]).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: shop.dunlin.localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nab"), "{answer}");
}

#[tokio::test]
async fn events_arrive_one_by_one_as_they_are_sent() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (events, receiver) = mpsc::channel::<Result<&str, Infallible>>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let program = Router::new().fallback(move || async move {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        Body::from_stream(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    });
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h1(world.http()).await;
    let request = Request::get("/").header("host", host("shop")).body(Empty::<Bytes>::new()).unwrap();
    let mut body = within(sender.send_request(request)).await.unwrap().into_body();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // The next event is not sent before this one has arrived.
        events.send(Ok(event)).await.unwrap();
        let frame = within(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.data_ref().unwrap(), event);
    }
    drop(events);
    assert!(within(body.frame()).await.is_none());
}

#[tokio::test]
async fn an_upload_arrives_while_it_is_sent() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (arrived, mut arrivals) = mpsc::channel::<Bytes>(1);
    let program = Router::new().fallback(move |request: Request<Body>| async move {
        let mut body = request.into_body().into_data_stream();
        while let Some(piece) = body.next().await {
            arrived.send(piece.unwrap()).await.unwrap();
        }
        "whole"
    });
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let (pieces, mut receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
    let request = Request::post("/").header("host", host("shop")).body(body).unwrap();
    let mut sender = connect_h1(world.http()).await;
    let response = tokio::spawn(sender.send_request(request));
    for piece in ["one", "two", "three"] {
        pieces.send(Ok(Frame::data(Bytes::from(piece)))).await.unwrap();
        assert_eq!(within(arrivals.recv()).await.unwrap(), piece);
    }
    drop(pieces);
    let answer = Answer::read(within(response).await.unwrap().unwrap()).await.unwrap();
    assert_eq!(answer.body, "whole");
}

/// What gRPC does: a message, then trailers, over HTTP/2 all the way.
fn grpc_like() -> Router {
    Router::new().fallback(|request: Request<Body>| async move {
        let version = request.version();
        let te = request.headers().get("te").cloned();
        let sent = request.into_body().collect().await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-te", te.unwrap_or(HeaderValue::from_static("none")));
        let echoed = sent.trailers().and_then(|trailers| trailers.get("x-checksum")).cloned();
        trailers.insert("x-echo", echoed.unwrap_or(HeaderValue::from_static("none")));
        let text = format!("{version:?} {}", String::from_utf8_lossy(&sent.to_bytes()));
        let frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from(text))), Ok(Frame::trailers(trailers))];
        Body::new(StreamBody::new(stream::iter(frames)))
    })
}

#[tokio::test]
async fn trailers_pass_both_ways_to_an_h2_app() {
    let mut world = World::start().await;
    let machine = Machine::of("rpc").h2_backend();
    let program = machine.run(grpc_like()).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h2(world.http()).await;
    for round in 1..=2 {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("42"));
        let frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from("message"))), Ok(Frame::trailers(trailers))];
        let request = Request::post("http://rpc.dunlin.localhost/Service/Method").header("te", "trailers");
        let request = request.body(StreamBody::new(stream::iter(frames))).unwrap();
        let answer = Answer::read(within(sender.send_request(request)).await.unwrap()).await.unwrap();
        assert_eq!(answer.body, "HTTP/2.0 message", "round {round}");
        let trailers = answer.trailers.unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-te"], &trailers["x-echo"]),
            (&HeaderValue::from_static("0"), &HeaderValue::from_static("trailers"), &HeaderValue::from_static("42"))
        );
    }
    assert_eq!(program.accepted(), 1, "one connection carries all requests");
}

#[tokio::test]
async fn an_app_without_http_2_behind_h2_backend_is_told_so() {
    let mut world = World::start().await;
    let machine = Machine::of("rpc").h2_backend();
    let listener = tokio::net::TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    world.know(&[&machine]).await;
    let answer = world.get("rpc", "/").await;
    assert_eq!(answer.header("dunlin-error"), "PU01", "{answer:?}");
}

#[tokio::test]
async fn connections_to_the_app_are_used_again_only_where_requests_count() {
    let mut world = World::start().await;
    let by_request = Machine::of("a").limits(ConcurrencyKind::Requests, 20, None);
    let by_connection = Machine::of("b").limits(ConcurrencyKind::Connections, 20, None);
    let (first, second) = (by_request.run(says("a")).await, by_connection.run(says("b")).await);
    world.know(&[&by_request, &by_connection]).await;
    for _ in 0..5 {
        assert_eq!(world.get("a", "/").await.body, "a");
        assert_eq!(world.get("b", "/").await.body, "b");
    }
    assert_eq!((first.accepted(), second.accepted()), (1, 5));
}

#[tokio::test]
async fn a_machine_that_came_back_gets_no_request_over_a_connection_of_its_former_life() {
    let mut world = World::start().await;
    let machine = Machine::of("a").limits(ConcurrencyKind::Requests, 20, None);
    let program = machine.run(says("first life")).await;
    world.know(&[&machine]).await;
    assert_eq!(world.get("a", "/").await.body, "first life");
    world.know(&[&machine.clone().state(model::machine::MachineState::Replacing)]).await;
    world.know(&[&machine]).await;
    let post = Request::post("/").header("host", host("a")).body(full("x")).unwrap();
    assert_eq!(world.send(post).await.body, "first life");
    assert_eq!(program.accepted(), 2);
}

#[tokio::test]
async fn the_platforms_own_services_answer_at_their_hosts() {
    let api = Router::new().route(
        "/v1/ping",
        any(|request: Request<Body>| async move {
            format!(
                "{} {}",
                request.headers()["host"].to_str().unwrap(),
                request.headers()["x-forwarded-proto"].to_str().unwrap()
            )
        }),
    );
    let world = World::with(|options| {
        options.platform.insert("api".into(), World::platform(api));
    })
    .await;
    let answer = world.get("api", "/v1/ping").await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "api.dunlin.localhost http"));
    assert_eq!(world.get("api", "/nothing").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn expect_continue_is_answered_before_the_body_is_sent() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(Router::new().fallback(|body: Bytes| async move { body })).await;
    world.know(&[&machine]).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    within(client.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"ok").await.unwrap();
    let mut answer = [0; 15];
    within(client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_large_answer_passes_unchanged() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let large: Bytes = (0..5_000_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    let sent = large.clone();
    let _program = machine.run(Router::new().fallback(move || async move { sent })).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h1(world.http()).await;
    let request = Request::get("/").header("host", host("shop")).body(Empty::<Bytes>::new()).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert!(within(response.into_body().collect()).await.unwrap().to_bytes() == large);
}
