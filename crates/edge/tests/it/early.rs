//! Answers that begin before their request has ended, and those that end before they are whole.

use std::{future::poll_fn, time::Duration};

use model::log::LogSource;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::*;

/// An app with one machine that does not run yet.
async fn world(machine: &Machine) -> (World, TcpListener) {
    let mut world = World::start().await;
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    world.know(&[machine]).await;
    (world, listener)
}

/// A client that has said the beginning of a request.
async fn asks(world: &World, rest_of_head: &str) -> TcpStream {
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n{rest_of_head}\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

/// The program's side of a request whose head was read.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut program, _) = within(listener.accept()).await.unwrap();
    read_head(&mut program).await;
    program
}

#[tokio::test]
async fn a_long_answer_that_begins_before_the_request_has_ended_comes_whole() {
    const SENT: usize = 12_000_000;
    let (world, listener) = world(&Machine::of("shop")).await;
    let mut client = asks(&world, &format!("Content-Length: {SENT}\r\n")).await;
    let mut program = asked(&listener).await;
    program.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    let (mut reads, mut writes) = client.split();
    let (_, _, whole) = within(async {
        tokio::join!(
            async { writes.write_all(&vec![b'x'; SENT]).await.unwrap() },
            async {
                // It reads more slowly than the content comes.
                let mut room = vec![0; 200_000];
                let mut rest = SENT;
                while rest > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    rest -= program.read(&mut room[..rest.min(200_000)]).await.unwrap();
                }
                program.write_all(&vec![b'y'; 1_000_000]).await.unwrap();
            },
            async {
                let mut whole = Vec::new();
                while !whole.ends_with(b"yyyy") || whole.len() < 1_000_000 {
                    assert!(reads.read_buf(&mut whole).await.unwrap() > 0);
                }
                whole
            }
        )
    })
    .await;
    assert!(whole.ends_with(&vec![b'y'; 1_000_000]));
}

#[tokio::test]
async fn a_client_that_takes_its_answer_only_when_it_has_said_all_can_say_all() {
    const MUCH: usize = 30_000_000;
    let (world, listener) = world(&Machine::of("shop")).await;
    let mut client = asks(&world, &format!("Content-Length: {MUCH}\r\n")).await;
    let program = asked(&listener).await;
    let (mut reads, mut writes) = program.into_split();
    let (said, mut hears) = mpsc::unbounded_channel();
    let answering = tokio::spawn(async move {
        writes.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        // An endless answer, which its client does not read.
        while writes.write_all(&[b"1000\r\n", &[b'y'; 4096][..], b"\r\n"].concat()).await.is_ok() {
            let _ = said.send(());
        }
    });
    // Until there is no room for more of it.
    while tokio::time::timeout(Duration::from_millis(300), hears.recv()).await.is_ok() {}
    let reading = tokio::spawn(async move {
        let mut content = vec![0; MUCH];
        reads.read_exact(&mut content).await.map(|_| ())
    });
    within(client.write_all(&vec![b'x'; MUCH])).await.unwrap();
    within(reading).await.unwrap().unwrap();
    drop(client);
    within(answering).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_is_missed_though_its_answer_has_begun() {
    let (world, listener) = world(&Machine::of("shop")).await;
    let mut client = asks(&world, "Transfer-Encoding: chunked\r\n").await;
    client.write_all(b"5\r\nhello\r\n").await.unwrap();
    let mut program = asked(&listener).await;
    program.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n").await.unwrap();
    read_head(&mut client).await;
    drop(client);
    let mut rest = Vec::new();
    let _ = within(program.read_to_end(&mut rest)).await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it must not look whole");
}

#[tokio::test]
async fn a_client_that_leaves_while_its_answer_is_quiet_is_missed_by_a_machine_that_speaks_http_2() {
    let (world, listener) = world(&Machine::of("shop").h2_backend()).await;
    let (left, mut hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let left = left.clone();
            tokio::spawn(async move {
                let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                let mut content = request.into_body();
                while content.data().await.is_some() {}
                left.send("has read all").unwrap();
                poll_fn(|cx| answer.poll_reset(cx)).await.unwrap();
                left.send("is alone").unwrap();
            });
        }
    });
    let mut client = asks(&world, "Content-Length: 5\r\n").await;
    read_head(&mut client).await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(within(hears.recv()).await.unwrap(), "has read all");
    drop(client);
    assert_eq!(within(hears.recv()).await.unwrap(), "is alone");
}

#[tokio::test]
async fn a_long_answer_that_breaks_off_on_its_way_past_the_edge_is_told_to_the_app() {
    let (world, listener) = world(&Machine::of("shop")).await;
    let mut client = asks(&world, "").await;
    let mut program = asked(&listener).await;
    program.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await.unwrap();
    program.write_all(&[b'y'; 300_000]).await.unwrap();
    drop(program);
    let mut got = Vec::new();
    let _ = within(client.read_to_end(&mut got)).await;
    assert!(got.len() >= 300_000);
    until("the app's log says so", || world.logs.has("PC05")).await;
    let records = || world.logs.of(LogSource::Access);
    until("its record says so", || records().iter().any(|record| record.message.contains("code=PC05"))).await;
}

#[tokio::test]
async fn what_came_before_an_answer_broke_off_reaches_the_client() {
    let (world, listener) = world(&Machine::of("shop")).await;
    let mut client = asks(&world, "").await;
    let mut program = asked(&listener).await;
    let said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nthese last words\r\n";
    program.write_all(said).await.unwrap();
    drop(program);
    let mut got = String::new();
    let _ = within(client.read_to_string(&mut got)).await;
    assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains("these last words"), "{got:?}");
    assert!(!got.ends_with("0\r\n\r\n"), "it must not look whole: {got:?}");
}

#[tokio::test]
async fn the_record_of_a_client_that_left_before_its_answer_says_so() {
    let (world, listener) = world(&Machine::of("shop")).await;
    let client = asks(&world, "").await;
    let _program = asked(&listener).await;
    drop(client);
    let records = || world.logs.of(LogSource::Access);
    until("a record", || !records().is_empty()).await;
    let record = &records()[0].message;
    assert!(record.contains(" status=499 code=PH06 "), "{record}");
}
