//! A new edge takes over the sockets of the one before, under load: no request fails, and what is under way ends where it
//! began.

use std::sync::Arc;

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Empty};
use model::machine::Handler;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    load::{Load, connects, keeps_alive, multiplexes},
    support::*,
    tls, websocket,
};

/// Datagrams, each followed by its answer.
async fn datagrams(load: Arc<Load>, address: std::net::SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    let mut answer = [0; 16];
    while load.goes_on() {
        // A datagram may be lost, as any may: then it is sent again.
        socket.send(b"hello").await.unwrap();
        let soon = std::time::Duration::from_millis(200);
        if let Ok(Ok(length)) = tokio::time::timeout(soon, socket.recv(&mut answer)).await {
            load.count(3, Ok(String::from_utf8_lossy(&answer[..length]).into_owned()));
        }
    }
}

/// Answers at once, or in pieces, half of which wait until they are let.
fn program(gate: Arc<Semaphore>) -> Router {
    let long = move || {
        let gate = gate.clone();
        async move {
            let pieces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1000]))).take(1000);
            let pieces = pieces.enumerate().then(move |(at, piece)| {
                let gate = gate.clone();
                async move {
                    if at == 500 {
                        gate.acquire().await.unwrap().forget();
                    }
                    piece
                }
            });
            Body::from_stream(pieces).into_response()
        }
    };
    Router::new().route("/", get(|| async { "hello" })).route("/long", get(long))
}

/// Sends back what comes, over connections and in datagrams.
async fn echo(machine: &Machine) {
    let ip = machine.address().ip();
    let (listener, socket) = (TcpListener::bind((ip, 9000)).await.unwrap(), UdpSocket::bind((ip, 9001)).await.unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            socket.send_to(&bytes[..length], from).await.unwrap();
        }
    });
}

fn echo_services(mut machine: Machine) -> Machine {
    use model::machine::{Port, Protocol, Service};
    let port = |port| Port { port: Some(port), ..Port::default() };
    let services = &mut machine.0.spec.config.services;
    services.push(Service { internal_port: 9000, ports: vec![port(9000)], ..Service::default() });
    let datagrams =
        Service { internal_port: 9001, protocol: Protocol::Udp, ports: vec![port(9001)], ..Service::default() };
    services.push(datagrams);
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sockets_change_hands_under_load_and_nothing_is_lost() {
    let mut world = World::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let (shop, chat) = (Machine::of("shop"), Machine::of("chat"));
    let wire = echo_services(Machine::of("wire").port(8443, &[Handler::Tls]));
    let (talk, _closes) = websocket::echo();
    let _programs = (shop.run(program(gate.clone())).await, chat.run(talk).await);
    echo(&wire).await;
    world.know(&[&shop, &chat, &wire]).await;

    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for _ in 0..2 {
        clients.spawn(connects(load.clone(), world.http()));
        clients.spawn(keeps_alive(load.clone(), world.http()));
    }
    clients.spawn(multiplexes(load.clone(), world.https(), tls::client(&world, &["h2"])));
    clients.spawn(datagrams(load.clone(), (world.ip, 9001).into()));

    let long = Request::get("/long").header("host", host("shop")).body(Empty::<Bytes>::new()).unwrap();
    let mut download = {
        let mut sender = connect_h1(world.http()).await;
        sender.send_request(long).await.unwrap().into_body()
    };
    assert!(download.frame().await.unwrap().unwrap().is_data());
    let mut socket = websocket::open(&world).await;
    let mut wire = TcpStream::connect((world.ip, 9000)).await.unwrap();

    let mut retiring = JoinSet::new();
    for round in 0..5 {
        let old = world.take_over().await;
        retiring.spawn(async move { old.retire(PATIENCE, PATIENCE).await });
        load.goes_on_for_all(&format!("every client is served, in round {round}")).await;
        websocket::exchange(&mut socket, "still here").await;
        wire.write_all(b"ping").await.unwrap();
        within(wire.read_exact(&mut [0; 4])).await.unwrap();
    }
    gate.add_permits(1);
    let rest = within(download.collect()).await.unwrap().to_bytes();
    assert!(rest.len() > 500_000 && rest.len() < 1_000_000, "{}", rest.len());

    load.end();
    within(clients.join_all()).await;
    drop((socket, wire));
    // With their last client gone, all but the newest have ended.
    within(retiring.join_all()).await;
    assert_eq!(load.failed(), 0);
    eprintln!("answered: {:?}", load.answered());
}

#[tokio::test]
async fn whoever_connects_waits_until_the_next_edge_opens() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let old = world.take_over().await;
    within(old.retire(PATIENCE, PATIENCE)).await;
    assert_eq!(world.get("shop", "/").await.body, "hello");
    drop(old);
    assert_eq!(world.get("shop", "/").await.body, "hello");
}
