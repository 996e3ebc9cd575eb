//! HTTP/2 letter by letter, as no library's client says it.

use std::time::Duration;

use axum::{Router, body::Body, routing};
use bytes::BytesMut;
use edge::http2::{Decoder, PREFACE};
use futures_util::stream;
use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{support::*, tls};

/// A frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Literal fields of HPACK (RFC 7541, 6.2.2).
pub fn block<N: AsRef<str>>(fields: &[(N, N)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.as_ref().len()).unwrap());
            block.extend_from_slice(text.as_ref().as_bytes());
        }
    }
    block
}

/// The fields of a request to an app, and these.
pub fn request<'a>(method: &'a str, host: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<u8> {
    let usual = [(":method", method), (":scheme", "http"), (":authority", host), (":path", "/")];
    block(&[&usual[..], fields].concat())
}

/// The fields of a request for a path.
fn get(host: &str, path: &str) -> Vec<u8> {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", path)])
}

/// A client.
pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
}

/// What it hears: a frame, with the fields of those that have some.
#[derive(Debug)]
pub struct Heard {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
    pub fields: Vec<(String, String)>,
}

impl Heard {
    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

impl Client {
    /// Connects; `settings` is what it says of itself.
    pub async fn connect(world: &World, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(world.http()).await.unwrap();
        stream.write_all(&[PREFACE, &frame(4, 0, 0, settings)].concat()).await.unwrap();
        Self { stream, decoder: Decoder::default() }
    }

    /// Says something.
    pub async fn say(&mut self, frames: &[Vec<u8>]) {
        self.stream.write_all(&frames.concat()).await.unwrap();
    }

    /// The next frame; nothing at the end.
    pub async fn hear(&mut self) -> Option<Heard> {
        let mut head = [0; 9];
        within(self.stream.read_exact(&mut head)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes(*head.last_chunk().unwrap());
        let mut heard = Heard { kind: head[3], flags: head[4], stream, payload, fields: Vec::new() };
        if heard.kind == 1 {
            let list = self.decoder.decode(&heard.payload, 1 << 20).unwrap();
            let text = |text: &BytesMut, (begin, length): (u32, u32)| {
                String::from_utf8(text[begin as usize..][..length as usize].to_vec()).unwrap()
            };
            let fields = list.places.iter().map(|place| (text(&list.text, place.name), text(&list.text, place.value)));
            heard.fields = fields.collect();
        }
        Some(heard)
    }

    /// The next frame of this kind.
    pub async fn hear_of(&mut self, kind: u8) -> Option<Heard> {
        loop {
            let heard = self.hear().await?;
            if heard.kind == kind {
                return Some(heard);
            }
        }
    }
}

fn program() -> Router {
    let endless = || async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 65_536]))) };
    let five = || async {
        let pieces = ["123", "45"].map(Ok::<_, std::io::Error>);
        Body::from_stream(stream::iter(pieces))
    };
    let routes = Router::new().route("/endless", routing::get(endless)).route("/five", routing::get(five));
    routes.fallback(|| async { "fine" })
}

async fn world() -> (World, Machine, Program) {
    let mut world = World::with(|options| options.bounds.header = Duration::from_millis(500)).await;
    let machine = Machine::of("shop");
    let program = machine.run(program()).await;
    world.know(&[&machine]).await;
    (world, machine, program)
}

#[tokio::test]
async fn a_client_that_wants_nothing_of_one_answer_gets_the_others() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    // Nothing of any stream, unless it is asked for.
    let mut client = Client::connect(&world, &[0, 4, 0, 0, 0, 0]).await;
    client.say(&[frame(1, 5, 1, &get(&host, "/endless"))]).await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("200"));
    client.say(&[frame(1, 5, 3, &request("GET", &host, &[])), frame(8, 0, 3, &100_u32.to_be_bytes())]).await;
    let head = client.hear_of(1).await.unwrap();
    assert_eq!((head.stream, head.field("content-length")), (3, Some("4")));
    let data = client.hear_of(0).await.unwrap();
    assert_eq!((data.stream, data.flags, &data.payload[..]), (3, 1, &b"fine"[..]));
    // And of that one what it asks for.
    client.say(&[frame(8, 0, 1, &1000_u32.to_be_bytes())]).await;
    let data = client.hear_of(0).await.unwrap();
    assert_eq!((data.stream, data.payload.len()), (1, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_long_answers_take_turns() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let wide = 0x7fff_0000_u32.to_be_bytes();
    let mut client = Client::connect(&world, &[&[0, 4][..], &wide].concat()).await;
    client.say(&[frame(8, 0, 0, &wide)]).await;
    for id in [1, 3, 5] {
        client.say(&[frame(1, 5, id, &get(&host, "/endless"))]).await;
    }
    let mut bytes = [0_usize; 6];
    while bytes.iter().sum::<usize>() < 30_000_000 {
        let data = client.hear_of(0).await.unwrap();
        bytes[data.stream as usize] += data.payload.len();
    }
    assert!([1, 3, 5].iter().all(|id| bytes[*id] > 1_000_000), "{bytes:?}");
}

#[tokio::test]
async fn fields_that_are_too_long_get_an_answer() {
    let (world, _machine, _program) = world().await;
    let (host, long) = (host("shop"), "x".repeat(120));
    let mut client = Client::connect(&world, &[]).await;
    let fields = request("GET", &host, &vec![("a", long.as_str()); 700]);
    let mut parts = fields.chunks(16_000).peekable();
    let mut kind = 1;
    while let Some(part) = parts.next() {
        let flags = if kind == 1 { 1 } else { 0 } | if parts.peek().is_none() { 4 } else { 0 };
        client.say(&[frame(kind, flags, 1, part)]).await;
        kind = 9;
    }
    let head = client.hear_of(1).await.unwrap();
    assert_eq!((head.field(":status"), head.field("dunlin-error").is_some()), (Some("431"), true), "{head:?}");
    client.say(&[frame(1, 5, 3, &request("GET", &host, &[]))]).await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("200"));
}

#[tokio::test]
async fn whoever_begins_to_say_something_has_to_say_it() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let fields = request("GET", &host, &[]);
    let mut silent = TcpStream::connect(world.http()).await.unwrap();
    silent.write_all(&PREFACE[..20]).await.unwrap();
    let mut half = Client::connect(&world, &[]).await;
    half.say(&[frame(1, 1, 1, &fields[..10])]).await;
    let mut whole = Client::connect(&world, &[]).await;
    assert!(half.hear_of(99).await.is_none());
    assert_eq!(within(silent.read_to_end(&mut Vec::new())).await.unwrap_or(0), 0);
    // Who has said all may take his time.
    whole.say(&[frame(1, 5, 1, &fields)]).await;
    assert_eq!(whole.hear_of(1).await.unwrap().field(":status"), Some("200"));
}

#[tokio::test]
async fn a_tunnel_that_an_app_does_not_open_is_none() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let mut client = Client::connect(&world, &[]).await;
    client.say(&[frame(1, 4, 1, &request("CONNECT", &host, &[(":protocol", "websocket")]))]).await;
    let head = client.hear_of(1).await.unwrap();
    assert_eq!(head.field(":status"), Some("502"), "200 would be its consent: {head:?}");
    client.say(&[frame(1, 4, 3, &request("CONNECT", &host, &[(":protocol", "connect-udp")]))]).await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some(StatusCode::METHOD_NOT_ALLOWED.as_str()));
}

#[tokio::test]
async fn what_is_begun_while_the_edge_says_goodbye_is_answered() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let mut client = Client::connect(&world, &[]).await;
    client.say(&[frame(1, 5, 1, &request("GET", &host, &[]))]).await;
    assert!(client.hear_of(0).await.unwrap().flags & 1 != 0);
    let edge = world.edge.clone();
    let stops = tokio::spawn(async move { edge.shutdown(PATIENCE).await });
    let goodbye = client.hear_of(7).await.unwrap();
    assert_eq!(goodbye.payload[..4], [0x7f, 0xff, 0xff, 0xff], "no request is refused yet");
    let asked = client.hear_of(6).await.unwrap();
    // Begun before the goodbye was heard, for all that the edge knows.
    client.say(&[frame(1, 5, 3, &request("GET", &host, &[])), frame(6, 1, 0, &asked.payload)]).await;
    let mut answered = false;
    let last = loop {
        match client.hear().await.unwrap() {
            Heard { kind: 7, payload, .. } => break payload,
            heard => answered |= heard.kind == 0 && heard.stream == 3,
        }
    };
    assert_eq!(last[..4], 3_u32.to_be_bytes());
    while let Some(heard) = client.hear().await {
        answered |= heard.kind == 0 && heard.stream == 3;
    }
    assert!(answered);
    within(stops).await.unwrap();
}

#[tokio::test]
async fn a_request_that_crosses_the_goodbye_is_answered_though_the_connection_lay_idle() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let mut client = Client::connect(&world, &[]).await;
    client.say(&[frame(1, 5, 1, &request("GET", &host, &[]))]).await;
    assert!(client.hear_of(0).await.is_some());
    // Longer than last words may take.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let edge = world.edge.clone();
    let stops = tokio::spawn(async move { edge.shutdown(PATIENCE).await });
    assert!(client.hear_of(7).await.is_some());
    client.say(&[frame(1, 5, 3, &request("GET", &host, &[]))]).await;
    assert_eq!(client.hear_of(1).await.unwrap().field(":status"), Some("200"));
    // It never said that it has heard: the last stream is named all the same.
    assert_eq!(client.hear_of(7).await.unwrap().payload[..4], 3_u32.to_be_bytes());
    within(stops).await.unwrap();
}

#[tokio::test]
async fn the_end_of_an_answer_needs_no_window() {
    let (world, _machine, _program) = world().await;
    let host = host("shop");
    let mut client = Client::connect(&world, &[0, 4, 0, 0, 0, 5]).await;
    client.say(&[frame(1, 5, 1, &get(&host, "/five"))]).await;
    let head = client.hear_of(1).await.unwrap();
    assert_eq!(head.field("content-length"), None, "its end is not known before it comes");
    let mut content = Vec::new();
    loop {
        let data = client.hear_of(0).await.unwrap();
        content.extend(data.payload);
        if data.flags & 1 != 0 {
            break;
        }
    }
    assert_eq!(content, b"12345");
}

/// Asks for so many bytes over TLS and does not read for a while. What TLS holds back when the system takes no more has to
/// leave, too, though nothing is written after it.
async fn reads_late(world: &World, protocol: &str, length: usize) {
    let host = host("shop");
    let mut stream = tls::connect(tls::client(world, &[protocol]), world.https(), &host).await.unwrap();
    let (wide, path) = (0x7fff_0000_u32.to_be_bytes(), format!("/{length}"));
    let asked = match protocol {
        "h2" => [
            PREFACE,
            &frame(4, 0, 0, &[&[0, 4][..], &wide].concat()),
            &frame(8, 0, 0, &wide),
            &frame(1, 5, 1, &get(&host, &path)),
        ]
        .concat(),
        _ => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
    };
    stream.write_all(&asked).await.unwrap();
    stream.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (mut seen, mut buffer) = (0, vec![0; 65_536]);
    while seen < length {
        let read = within(stream.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "{protocol}: it ended after {seen} of {length}");
        seen += buffer[..read].iter().filter(|byte| **byte == b'~').count();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_all_of_an_answer_leaves_though_its_reader_is_slow() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let program = |request: http::Request<Body>| async move {
        vec![b'~'; request.uri().path().trim_start_matches('/').parse().unwrap()]
    };
    let _program = machine.run(Router::new().fallback(program)).await;
    world.know(&[&machine]).await;
    for protocol in ["h2", "http/1.1"] {
        // Nobody knows how much the system takes: for some of these it is all but the end.
        let clients = (0..100).map(|n| reads_late(&world, protocol, 1_500_000 + n * 50_000));
        futures_util::future::join_all(clients).await;
    }
}

#[tokio::test]
async fn a_request_that_is_taken_back_leaves_its_place_free() {
    use api::internal::Drain;
    let (mut world, machine, _program) = world().await;
    let host = host("shop");
    let mut client = Client::connect(&world, &[]).await;
    client.say(&[frame(1, 5, 1, &get(&host, "/endless"))]).await;
    assert!(client.hear_of(0).await.is_some());
    client.say(&[frame(3, 0, 1, &8_u32.to_be_bytes())]).await;
    // Nothing is known of it any more, though its connection goes on.
    let generation = world.know(&[&machine.clone().cordoned(true)]).await;
    assert_eq!(world.edge.drained(machine.id(), generation, PATIENCE).await, 0);
    client.say(&[frame(6, 0, 0, b"are you?")]).await;
    assert_eq!(client.hear_of(6).await.unwrap().payload, b"are you?");
}
