//! Connections that become tunnels.

use api::internal::Drain;
use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
};
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::Empty;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::support::*;

/// Sends every message back and tells how the client said goodbye.
pub fn echo() -> (Router, mpsc::Receiver<Option<u16>>) {
    let (closed, closes) = mpsc::channel(10);
    let serve = move |mut socket: WebSocket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            match message {
                Message::Close(frame) => return closed.send(frame.map(|frame| frame.code)).await.unwrap(),
                message => socket.send(message).await.unwrap(),
            }
        }
        let _ = closed.send(None).await;
    };
    (Router::new().fallback(move |upgrade: WebSocketUpgrade| async move { upgrade.on_upgrade(serve) }), closes)
}

/// A client's frame. The mask is all zeros, which is allowed and leaves the payload readable.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

pub async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    stream.write_all(&frame(1, text.as_bytes())).await.unwrap();
    stream.flush().await.unwrap();
    let mut echoed = vec![0; 2 + text.len()];
    within(stream.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed[2..], text.as_bytes());
}

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: chat.dunlin.localhost\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub async fn open(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    stream
}

#[tokio::test]
async fn messages_pass_both_ways() {
    let mut world = World::start().await;
    let machine = Machine::of("chat");
    let (program, mut closes) = echo();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut stream = open(&world).await;
    exchange(&mut stream, "hello").await;
    exchange(&mut stream, "again").await;
    drop(stream);
    within(closes.recv()).await.unwrap();
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0, "nothing stays counted");
}

#[tokio::test]
async fn over_http_2_it_reaches_an_app_that_knows_http_1_only() {
    let mut world = World::start().await;
    let machine = Machine::of("chat");
    let (program, mut closes) = echo();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h2(world.http()).await;
    // With the first answer the client also has the edge's settings, which offer extended CONNECT.
    let first = Request::get("http://chat.dunlin.localhost/").version(Version::HTTP_2).body(Empty::new()).unwrap();
    within(sender.send_request(first)).await.unwrap();
    let mut request = Request::connect("http://chat.dunlin.localhost/").version(Version::HTTP_2);
    request = request.header("sec-websocket-version", "13").extension(Protocol::from_static("websocket"));
    let response = within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut stream = TokioIo::new(within(hyper::upgrade::on(response)).await.unwrap());
    exchange(&mut stream, "over two").await;
    stream.write_all(&frame(8, &1000_u16.to_be_bytes())).await.unwrap();
    assert_eq!(within(closes.recv()).await.unwrap(), Some(1000));
}

#[tokio::test]
async fn a_drain_closes_it_with_going_away_and_the_app_hears_the_answer() {
    let mut world = World::start().await;
    let machine = Machine::of("chat");
    let (program, mut closes) = echo();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut stream = open(&world).await;
    exchange(&mut stream, "hello").await;
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    let (edge, id) = (world.edge.clone(), machine.id().clone());
    let deadline = std::time::Duration::from_secs(4);
    let drained = tokio::spawn(async move { edge.drained(&id, generation, deadline).await });
    let mut close = [0; 4];
    within(stream.read_exact(&mut close)).await.unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xe9], "1001, going away");
    stream.write_all(&frame(8, &1001_u16.to_be_bytes())).await.unwrap();
    assert_eq!(within(closes.recv()).await.unwrap(), Some(1001));
    assert_eq!(within(drained).await.unwrap(), 0);
}

#[tokio::test]
async fn stopping_the_edge_closes_it_with_going_away() {
    let mut world = World::start().await;
    let machine = Machine::of("chat");
    let (program, _closes) = echo();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut stream = open(&world).await;
    exchange(&mut stream, "hello").await;
    let edge = world.edge.clone();
    let stopped = tokio::spawn(async move { edge.shutdown(PATIENCE).await });
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, [0x88, 2, 0x03, 0xe9]);
    within(stopped).await.unwrap();
}

#[tokio::test]
async fn an_app_that_declines_answers_as_usual() {
    let mut world = World::start().await;
    let machine = Machine::of("chat");
    let _program = machine.run(says("no sockets here")).await;
    world.know(&[&machine]).await;
    let request = Request::get("/").header("host", host("chat")).header("connection", "upgrade");
    let request = request.header("upgrade", "websocket").body(Empty::<Bytes>::new()).unwrap();
    let answer = world.send(request).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "no sockets here"));
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_passed_on() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let request = Request::get("/").header("host", host("shop")).header("connection", "upgrade, http2-settings");
    let request = request.header("upgrade", "h2c").header("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA");
    let answer = world.send(request.body(Empty::<Bytes>::new()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.body.contains("upgrade") && !answer.body.contains("http2-settings"), "{}", answer.body);
}

#[tokio::test]
async fn an_app_that_switches_protocols_unasked_is_refused() {
    let mut world = World::start().await;
    let machine = Machine::of("odd");
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
                .await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    world.know(&[&machine]).await;
    assert_eq!(world.get("odd", "/").await.header("dunlin-error"), "PU02");
}

#[tokio::test]
async fn a_websocket_is_opened_where_its_request_is_sent_on_to() {
    let mut world = World::start().await;
    let (front, back) = (Machine::of("chat"), Machine::of("room"));
    let (program, _closes) = echo();
    let sends_on = Router::new().fallback(|| async { [("fly-replay", "app=room")] });
    let _programs = (front.run(sends_on).await, back.run(program).await);
    world.know(&[&front, &back]).await;
    let mut stream = open(&world).await;
    exchange(&mut stream, "hello").await;
}
