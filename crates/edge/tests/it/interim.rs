//! What comes before an answer (1xx).

use std::sync::Arc;

use http::StatusCode;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{http2, http3, support::*, worker::from_afar};

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\nConnection: x-private\r\n\
    X-Private: 1\r\nContent-Length: 7\r\nFly-Replay-Cache: /*\r\n\r\n";

/// A program that gives hints first and, once it may, an answer; again and again.
async fn program(machine: &Machine) -> Arc<Semaphore> {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let pass = gate.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let pass = pass.clone();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        if stream.read_line(&mut line).await.unwrap() == 0 {
                            return;
                        }
                    }
                    let hints = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n{HINT}");
                    stream.write_all(hints.as_bytes()).await.unwrap();
                    pass.acquire().await.unwrap().forget();
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await.unwrap();
                }
            });
        }
    });
    gate
}

async fn world() -> (World, Arc<Semaphore>) {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let gate = program(&machine).await;
    world.know(&[&machine]).await;
    (world, gate)
}

async fn they_come_over_http_1(world: &World, gate: &Semaphore) {
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n\r\n").await.unwrap();
        assert_eq!(read_head(&mut client).await, "http/1.1 102 processing\r\n\r\n");
        let hint = read_head(&mut client).await;
        assert_eq!(hint, "http/1.1 103 early hints\r\nlink: </style.css>; rel=preload\r\n\r\n");
        gate.add_permits(1);
        assert!(read_head(&mut client).await.starts_with("http/1.1 200 ok\r\n"));
        let mut body = [0; 4];
        within(client.read_exact(&mut body)).await.unwrap();
        assert_eq!(&body, b"done");
    }
}

#[tokio::test]
async fn interim_answers_come_before_the_answer_as_soon_as_they_are_said() {
    let (world, gate) = world().await;
    they_come_over_http_1(&world, &gate).await;
}

#[tokio::test]
async fn whoever_knows_none_gets_the_answer_alone() {
    let (world, gate) = world().await;
    gate.add_permits(1);
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: shop.dunlin.localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\ndone"), "{answer}");
}

#[tokio::test]
async fn they_come_over_http_2_too() {
    let (world, gate) = world().await;
    let mut client = http2::Client::connect(&world, &[]).await;
    for id in [1, 3] {
        let fields = http2::request("GET", "shop.dunlin.localhost", &[]);
        client.say(&[http2::frame(1, 5, id, &fields)]).await;
        assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("102"));
        let hint = client.hear_of(1).await.unwrap();
        let link = (":status".to_owned(), "103".to_owned());
        assert_eq!(hint.fields, [link, ("link".into(), "</style.css>; rel=preload".into())]);
        assert_eq!((hint.stream, hint.flags & 1), (id, 0), "an answer follows");
        gate.add_permits(1);
        let answer = client.hear_of(1).await.unwrap();
        assert_eq!((answer.stream, answer.field(":status")), (id, Some("200")));
        assert_eq!(client.hear_of(0).await.unwrap().payload, b"done");
    }
}

#[tokio::test]
async fn they_come_over_http_3_too() {
    let (world, gate) = world().await;
    let mut client = http3::Client::connect(&world, &host("shop")).await;
    let mut stream = client.begin(http3::get("shop", "/")).await;
    stream.finish().await.unwrap();
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), StatusCode::PROCESSING);
    let hint = within(stream.recv_response()).await.unwrap();
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    let names: Vec<_> = hint.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["link"]);
    gate.add_permits(1);
    assert_eq!(http3::read(&mut stream).await.body, "done");
}

#[tokio::test]
async fn they_come_from_a_machine_of_another_host_too() {
    let machine = Machine::of("shop");
    let gate = program(&machine).await;
    let (_host, far) = from_afar(&machine).await;
    they_come_over_http_1(&far.world, &gate).await;
}
