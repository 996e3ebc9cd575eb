//! Clients that are slow on purpose, or say much and ask for nothing.

use std::time::Duration;

use axum::{Router, body::Body, routing::post};
use bytes::Bytes;
use edge::Pace;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use model::log::LogSource;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{http2::frame, support::*};

/// Impatient enough for a test.
const PACE: Pace = Pace { bytes_per_second: 1_000_000, grace: Duration::from_millis(300) };

/// Reads a body whole before it answers, or sends it back as it comes.
fn program() -> Router {
    Router::new()
        .route("/whole", post(|body: Bytes| async move { format!("{} bytes", body.len()) }))
        .route("/talk", post(|body: Body| async move { body }))
}

/// The answer to a request whose body never ends.
async fn never_sends(world: &World) -> Answer {
    let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    world.send(Request::post("/whole").header("host", host("shop")).body(body).unwrap()).await
}

#[tokio::test]
async fn a_body_that_does_not_come_ends_its_request_but_no_conversation() {
    let mut world = World::with(|options| options.bounds.body_pace = PACE).await;
    let machine = Machine::of("shop");
    let _program = machine.run(program()).await;
    world.know(&[&machine]).await;
    let (pieces, mut body) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let body = StreamBody::new(stream::poll_fn(move |cx| body.poll_recv(cx)));
    let request = Request::post("/talk").header("host", host("shop")).body(body).unwrap();
    let mut sender = connect_h1(world.http()).await;
    pieces.send(Ok(Frame::data(Bytes::from_static(b"hello")))).await.unwrap();
    let mut talk = within(sender.send_request(request)).await.unwrap().into_body();
    assert_eq!(within(talk.frame()).await.unwrap().unwrap().into_data().unwrap(), "hello");

    // Each of these takes longer than the grace.
    for _ in 0..2 {
        let answer = never_sends(&world).await;
        assert_eq!((answer.status.as_u16(), answer.header("dunlin-error")), (408, "PH10"), "{}", answer.body);
    }
    assert!(world.logs.has("PH10"));
    pieces.send(Ok(Frame::data(Bytes::from_static(b"still here?")))).await.unwrap();
    assert_eq!(within(talk.frame()).await.unwrap().unwrap().into_data().unwrap(), "still here?");
}

#[tokio::test]
async fn a_body_that_comes_in_time_is_taken_whole() {
    let mut world = World::with(|options| options.bounds.body_pace = PACE).await;
    let machine = Machine::of("shop");
    let _program = machine.run(program()).await;
    world.know(&[&machine]).await;
    let request = Request::post("/whole").header("host", host("shop")).body(full(&"x".repeat(100_000))).unwrap();
    assert_eq!(world.send(request).await.body, "100000 bytes");
}

#[tokio::test]
async fn a_client_that_does_not_read_gives_its_place_free() {
    use api::internal::Drain;
    let mut world = World::with(|options| options.bounds.answer_pace = PACE).await;
    let machine = Machine::of("shop");
    let endless = || async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 65_536]))) };
    let _program = machine.run(Router::new().fallback(endless)).await;
    world.know(&[&machine]).await;
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", host("shop"));
    stream.write_all(request.as_bytes()).await.unwrap();
    until("the client is given up", || world.logs.has("PH11")).await;
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0);
}

/// An answer without an end, of which a client wants no more than these settings let through, though its connection
/// lives: it asks whether we are still there.
async fn wants_nothing(settings: &[u8]) {
    use api::internal::Drain;
    let mut world = World::with(|options| options.bounds.stalled_answer = Duration::from_millis(300)).await;
    let machine = Machine::of("shop");
    let endless = || async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 65_536]))) };
    let _program = machine.run(Router::new().fallback(endless)).await;
    world.know(&[&machine]).await;
    let (mut read, mut write) = TcpStream::connect(world.http()).await.unwrap().into_split();
    let settings = frame(4, 0, 0, settings);
    let request = |id| frame(1, 5, id, &get("shop"));
    write.write_all(&[&PREFACE[..24], &settings, &request(1), &request(3)].concat()).await.unwrap();
    let reading = tokio::spawn(async move { read.read_to_end(&mut Vec::new()).await });
    let mut lives = tokio::time::interval(Duration::from_millis(20));
    let asks = async {
        while !reading.is_finished() {
            lives.tick().await;
            let _ = write.write_all(&frame(6, 0, 0, &[0; 8])).await;
        }
    };
    within(asks).await;
    assert!(world.logs.has("PH11"));
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0);
}

#[tokio::test]
async fn an_answer_whose_window_stays_closed_gives_its_place_free() {
    wants_nothing(&[0, 4, 0, 0, 0, 0]).await;
}

#[tokio::test]
async fn answers_whose_connection_lets_no_more_through_give_their_places_free() {
    // Of each stream as much as there is, of all together no more than at the beginning.
    wants_nothing(&[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// `GET /` of an app, in HPACK without compression.
fn get(app: &str) -> Vec<u8> {
    let host = host(app);
    [&[0x82, 0x86, 0x84, 0x41, host.len() as u8], host.as_bytes()].concat()
}

/// Sends what a hostile client sends until the edge has had enough. Tells how much it took.
async fn flood(world: &World, next: impl FnMut(u32) -> Vec<u8>) -> usize {
    flood_after(world, &[], next).await
}

/// The same once what comes first has been answered.
async fn flood_after(world: &World, first: &[u8], mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let stream = TcpStream::connect(world.http()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let answered = || world.logs.of(LogSource::Access).len();
    let before = answered();
    write.write_all(&[PREFACE, first].concat()).await.unwrap();
    until("what comes first is answered", || first.is_empty() || answered() > before).await;
    let reading = tokio::spawn(async move {
        let mut answers = Vec::new();
        let _ = read.read_to_end(&mut answers).await;
    });
    let mut sent = 0;
    while !reading.is_finished() {
        assert!(sent < 200_000_000, "there is no end to it");
        let bytes: Vec<u8> = (0..100).flat_map(|_| next(1)).collect();
        sent += bytes.len();
        if write.write_all(&bytes).await.is_err() {
            break;
        }
    }
    within(reading).await.unwrap();
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_own_connection_only() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("fine")).await;
    world.know(&[&machine]).await;
    let mut next_stream = 1;
    let mut rapid_reset = |_| {
        let stream = next_stream;
        next_stream += 2;
        [frame(1, 5, stream, &get("shop")), frame(3, 0, stream, &8u32.to_be_bytes())].concat()
    };
    flood(&world, &mut rapid_reset).await;
    flood(&world, |_| frame(6, 0, 0, &[0; 8])).await;
    flood(&world, |_| frame(4, 0, 0, &[])).await;
    flood(&world, |_| frame(2, 0, 3, &[0, 0, 0, 0, 1])).await;
    flood(&world, |_| frame(77, 0, 0, &[0; 100])).await;
    let mut begun = false;
    let continuations = flood(&world, |_| {
        let field = [&[0x40, 1, b'a', 100][..], &[b'x'; 100]].concat();
        let kind = if std::mem::replace(&mut begun, true) { 9 } else { 1 };
        frame(kind, 0, 1, &if kind == 1 { get("shop") } else { field })
    });
    let taken = continuations.await;
    assert!(taken < 10_000_000, "{taken}");
    // A flood on a connection that is for an app is told in its log.
    flood_after(&world, &frame(1, 5, 1, &get("shop")), |_| frame(6, 0, 0, &[0; 8])).await;
    until("it is told", || world.logs.has("PH09")).await;
    assert_eq!(world.get("shop", "/").await.body, "fine");
}
