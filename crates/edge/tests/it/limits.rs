//! Floods: what they get, and that nobody else feels them.

use std::net::SocketAddr;

use bytes::Bytes;
use edge::{EdgeOptions, Rate};
use http::{Request, StatusCode};
use http_body_util::Empty;
use model::machine::Handler;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    support::*,
    tls::{client, shake_hands},
};

/// Nobody is trusted for standing on the same host.
fn strict(options: &mut EdgeOptions) {
    options.bounds.unlimited_sources = Vec::new();
}

async fn connect_from(source: &str, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
    socket.connect(address).await
}

/// How many of so many handshakes come to a good end.
async fn handshakes(world: &World, source: &str, app: &str, count: usize) -> usize {
    let mut good = 0;
    for _ in 0..count {
        let stream = connect_from(source, world.https()).await.unwrap();
        good += usize::from(shake_hands(client(world, &[]), stream, &host(app)).await.is_ok());
    }
    good
}

fn metric(world: &World, line: &str) -> f64 {
    use api::internal::EdgeView;
    let page = world.edge.metrics(None);
    let value = page.lines().find_map(|it| it.strip_prefix(line)).unwrap_or_else(|| panic!("no {line} in\n{page}"));
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn handshakes_of_one_range_are_limited_and_those_of_another_are_not() {
    let mut world = World::with(|options| {
        strict(options);
        options.bounds.handshake_rate_per_range = Rate::new(1, 5);
    })
    .await;
    world.know(&[&Machine::of("shop")]).await;
    let mut good = 0;
    for host in 1..=20 {
        good += handshakes(&world, &format!("127.9.1.{host}"), "shop", 1).await;
    }
    assert!((5..20).contains(&good), "{good}");
    assert_eq!(handshakes(&world, "127.9.2.1", "shop", 3).await, 3);
    assert!(world.logs.has("PT01") && !world.logs.has("PT02"));
    let limited = (20 - good) as f64;
    let line = r#"fly_edge_tcp_rate_limited_count{region="local",app="shop",type="tls"}"#;
    assert_eq!(metric(&world, line), limited);
}

#[tokio::test]
async fn handshakes_for_one_name_are_limited_and_those_for_another_are_not() {
    let mut world = World::with(|options| options.bounds.handshake_rate_per_name = Rate::new(1, 5)).await;
    world.know(&[&Machine::of("shop"), &Machine::of("other")]).await;
    let mut good = 0;
    for range in 1..=20 {
        good += handshakes(&world, &format!("127.9.{range}.1"), "shop", 1).await;
    }
    assert!((5..20).contains(&good), "{good}");
    assert_eq!(handshakes(&world, "127.9.1.1", "other", 3).await, 3);
    assert!(world.logs.has("PT02") && !world.logs.has("PT01"));
}

#[tokio::test]
async fn connections_of_one_range_are_limited_before_anything_is_read() {
    let mut world = World::with(|options| {
        strict(options);
        options.bounds.connection_rate_per_range = Rate::new(1, 5);
    })
    .await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let mut answered = 0;
    for host in 1..=20 {
        let stream = connect_from(&format!("127.9.1.{host}"), world.http()).await.unwrap();
        answered += usize::from(get_over(stream, "shop").await.is_some());
    }
    assert!((5..20).contains(&answered), "{answered}");
    let stream = connect_from("127.9.2.1", world.http()).await.unwrap();
    assert_eq!(get_over(stream, "shop").await.unwrap(), "HTTP/1.1 200 OK");
    let limited = metric(&world, r#"fly_edge_tcp_rate_limited_count{region="local",app="",type="connections"}"#);
    assert_eq!(limited, (20 - answered) as f64);
}

/// The first line of the answer, if one comes.
async fn get_over(mut stream: TcpStream, app: &str) -> Option<String> {
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", host(app));
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.ok()?;
    answer.lines().next().map(str::to_owned)
}

#[tokio::test]
async fn one_apps_connections_leave_room_for_anothers() {
    let mut world = World::with(|options| options.bounds.connections = 40).await;
    let flooded = Machine::of("flooded").port(7000, &[]);
    let other = Machine::of("other");
    let _programs = (flooded.run(says("busy")).await, other.run(says("fine")).await);
    world.know(&[&flooded, &other]).await;
    let mut held = Vec::new();
    while !world.logs.has("PL05") {
        held.push(TcpStream::connect((world.ip, 7000)).await.unwrap());
        assert!(held.len() < 1000, "nothing is refused");
        // The edge has either found it a machine or refused it.
        let told = || held.len() == connections_of(&world, "flooded") || world.logs.has("PL05");
        until("the connection is seen", told).await;
    }
    assert_eq!(connections_of(&world, "flooded"), 20, "half of them");
    for _ in 0..50 {
        assert_eq!(world.get("other", "/").await.body, "fine");
    }
    // Over HTTP it says so.
    let answer = world.get("flooded", "/").await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PL05"));
    assert_eq!(metric(&world, r#"fly_edge_tcp_connections_drop_count{region="local",app="flooded"}"#), 2.0);
    drop(held);
    until("they have ended", || connections_of(&world, "flooded") == 0).await;
    assert_eq!(world.get("flooded", "/").await.body, "busy");
}

/// How many connections are an app's.
fn connections_of(world: &World, app: &str) -> usize {
    use api::internal::EdgeView;
    let connections = world.edge.connections().connections;
    connections.iter().filter(|it| it.app.as_ref().is_some_and(|it| it.as_str() == app)).count()
}

#[tokio::test]
async fn one_apps_requests_leave_room_for_anothers() {
    let mut world = World::with(|options| options.bounds.requests = 40).await;
    let (flooded, other) = (Machine::of("flooded"), Machine::of("other"));
    let (program, mut arrivals, gate) = gated();
    let _programs = (flooded.run(program).await, other.run(says("fine")).await);
    world.know(&[&flooded, &other]).await;
    let sender = connect_h2(world.http()).await;
    let mut requests = JoinSet::new();
    for _ in 0..60 {
        let mut sender = sender.clone();
        let request = Request::get(format!("http://{}/", host("flooded"))).body(Empty::<Bytes>::new()).unwrap();
        requests.spawn(async move { Answer::read(sender.send_request(request).await.unwrap()).await.unwrap() });
    }
    for _ in 0..20 {
        within(arrivals.recv()).await.unwrap();
    }
    for _ in 0..50 {
        assert_eq!(world.get("other", "/").await.body, "fine");
    }
    let mut refused = 0;
    while refused < 40 {
        let answer = within(requests.join_next()).await.unwrap().unwrap();
        assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::SERVICE_UNAVAILABLE, "PL06"));
        refused += 1;
    }
    gate.add_permits(20);
    while let Some(answer) = within(requests.join_next()).await {
        assert_eq!(answer.unwrap().body, "done");
    }
    assert!(world.logs.has("PL06"));
}

#[tokio::test]
async fn handshakes_that_would_be_too_many_for_their_app_cost_nothing() {
    let mut world = World::with(|options| options.bounds.connections_per_app = 3).await;
    world.know(&[&Machine::of("broker").port(8883, &[Handler::Tls]), &Machine::of("shop")]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(world.https()).await.unwrap();
        held.push(shake_hands(client(&world, &[]), stream, &host("shop")).await.unwrap());
    }
    until("they count", || connections_of(&world, "shop") == 3).await;
    assert_eq!(handshakes(&world, "127.0.0.1", "shop", 3).await, 0);
    assert_eq!(handshakes(&world, "127.0.0.1", "broker", 3).await, 3);
    assert!(world.logs.has("PL05"));
}
