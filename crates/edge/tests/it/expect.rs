//! Content that its client holds back until it is wanted (RFC 9110, 10.1.1).

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use crate::{
    http2,
    support::*,
    worker::{Far, from_afar},
};

const ASKED: &[u8] =
    b"POST / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";

/// A program that says `first` to a head and, if that is no answer yet, answers once the content is there. What it got of
/// the content is told at the end of each connection.
async fn program(machine: &Machine, first: &'static str) -> mpsc::UnboundedReceiver<String> {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let (got, gets) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if stream.read_line(&mut line).await.unwrap() == 0 {
                    return;
                }
            }
            stream.write_all(first.as_bytes()).await.unwrap();
            let mut content = vec![0; 5];
            let length = stream.read_exact(&mut content).await.unwrap_or(0);
            got.send(String::from_utf8_lossy(&content[..length]).into_owned()).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    });
    gets
}

async fn world(first: &'static str) -> (World, mpsc::UnboundedReceiver<String>) {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let gets = program(&machine, first).await;
    world.know(&[&machine]).await;
    (world, gets)
}

async fn is_asked_and_says_it(client: &mut TcpStream) {
    assert_eq!(read_head(client).await, "http/1.1 100 continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(client).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn a_machine_that_wants_it_asks_the_client_for_it() {
    let (world, mut gets) = world("HTTP/1.1 100 Continue\r\n\r\n").await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    is_asked_and_says_it(&mut client).await;
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_machine_that_does_not_want_it_never_gets_it_and_the_client_never_sends_it() {
    let (world, mut gets) = world("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    // The connection cannot go on: its client may send the content after all, or another request.
    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("http/1.1 401 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(within(gets.recv()).await.unwrap(), "");
}

#[tokio::test]
async fn a_machine_that_answers_well_at_once_may_still_read_it() {
    let (world, mut gets) = world("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n").await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("http/1.1 200 "));
    client.write_all(b"hello").await.unwrap();
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
    // Nothing stands between the head and its content.
    assert!(read_head(&mut client).await.starts_with("http/1.1 200 "));
}

#[tokio::test]
async fn a_machine_that_knows_nothing_of_it_gets_it_after_a_while() {
    let (world, mut gets) = world("").await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    let began = Instant::now();
    let early = timeout(Duration::from_millis(500), client.read_u8()).await;
    assert!(early.is_err(), "nobody has said that it is wanted");
    assert_eq!(read_head(&mut client).await, "http/1.1 100 continue\r\n\r\n");
    assert!(began.elapsed() >= Duration::from_millis(900));
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("http/1.1 200 "));
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
}

/// The same over HTTP/2, asked already.
async fn asked_over_http_2(first: &'static str) -> (World, http2::Client, mpsc::UnboundedReceiver<String>) {
    let (world, gets) = world(first).await;
    let mut client = http2::Client::connect(&world, &[]).await;
    let fields = [("expect", "100-continue"), ("content-length", "5")];
    client.say(&[http2::frame(1, 4, 1, &http2::request("POST", "shop.dunlin.localhost", &fields))]).await;
    (world, client, gets)
}

#[tokio::test]
async fn over_http_2_it_is_asked_for_when_the_machine_wants_it() {
    let (_world, mut client, mut gets) = asked_over_http_2("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("100"));
    client.say(&[http2::frame(0, 1, 1, b"hello")]).await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("200"));
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
}

#[tokio::test]
async fn over_http_2_it_is_not_asked_for_if_the_machine_refuses_first() {
    let refuses = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let (_world, mut client, mut gets) = asked_over_http_2(refuses).await;
    let answer = client.hear_of(1).await.unwrap();
    assert_eq!((answer.field(":status"), answer.flags & 1), (Some("401"), 1));
    // The client need not send it, and the connection goes on.
    let reset = client.hear_of(3).await.unwrap();
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 0][..]));
    assert_eq!(within(gets.recv()).await.unwrap(), "");
}

/// The same by the edge of another host than the machine's, asked already.
async fn asked_from_afar(first: &'static str) -> ((World, Far), TcpStream, mpsc::UnboundedReceiver<String>) {
    let machine = Machine::of("shop");
    let gets = program(&machine, first).await;
    let (host, far) = from_afar(&machine).await;
    let mut client = TcpStream::connect(far.world.http()).await.unwrap();
    client.write_all(ASKED).await.unwrap();
    ((host, far), client, gets)
}

#[tokio::test]
async fn a_machine_of_another_host_asks_for_it_when_it_wants_it() {
    let (_hosts, mut client, mut gets) = asked_from_afar("HTTP/1.1 100 Continue\r\n\r\n").await;
    is_asked_and_says_it(&mut client).await;
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_machine_of_another_host_that_refuses_first_never_gets_it() {
    let refuses = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let (_hosts, mut client, mut gets) = asked_from_afar(refuses).await;
    let answer = read_head(&mut client).await;
    assert!(answer.starts_with("http/1.1 401 ") && answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(within(gets.recv()).await.unwrap(), "");
}

#[tokio::test]
async fn a_machine_of_another_host_that_knows_nothing_of_it_gets_it_after_a_while() {
    let (_hosts, mut client, mut gets) = asked_from_afar("").await;
    let early = timeout(Duration::from_millis(500), client.read_u8()).await;
    assert!(early.is_err(), "nobody has said that it is wanted");
    is_asked_and_says_it(&mut client).await;
    assert_eq!(within(gets.recv()).await.unwrap(), "hello");
}
