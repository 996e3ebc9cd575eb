//! HTTP/3, by its own library's client and by one that is not ours (aioquic).

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use bytes::{Buf, Bytes};
use futures_util::stream;
use h3::{client::SendRequest, error::Code};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use model::machine::{ConcurrencyKind, HttpOptions, ResponseOptions, TlsOptions};
use quinn::{ClientConfig, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{support::*, tls};

type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// A client of one connection.
pub struct Client {
    pub sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    pub quic: quinn::Connection,
    /// Resolves once the connection has ended.
    pub ended: tokio::task::JoinHandle<h3::error::ConnectionError>,
    _endpoint: Endpoint,
}

/// Connects by QUIC alone.
pub async fn connect_quic(world: &World, name: &str) -> Result<(Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = endpoint(world);
    let connection = within(endpoint.connect(world.https(), name).unwrap()).await?;
    Ok((endpoint, connection))
}

pub fn endpoint(world: &World) -> Endpoint {
    let crypto = QuicClientConfig::try_from(tls::client(world, &["h3"])).unwrap();
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    endpoint
}

impl Client {
    pub async fn connect(world: &World, name: &str) -> Self {
        let (endpoint, quic) = connect_quic(world, name).await.unwrap();
        let (mut driver, sender) = within(h3::client::new(h3_quinn::Connection::new(quic.clone()))).await.unwrap();
        let ended = tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Self { sender, quic, ended, _endpoint: endpoint }
    }

    pub async fn begin(&mut self, request: Request<()>) -> Stream {
        within(self.sender.send_request(request)).await.unwrap()
    }

    pub async fn fetch(&mut self, request: Request<()>) -> Answer {
        let mut stream = self.begin(request).await;
        stream.finish().await.unwrap();
        read(&mut stream).await
    }
}

pub fn get(app: &str, path: &str) -> Request<()> {
    Request::get(format!("https://{}{path}", host(app))).body(()).unwrap()
}

fn post(app: &str, path: &str) -> http::request::Builder {
    Request::post(format!("https://{}{path}", host(app)))
}

pub async fn read(stream: &mut Stream) -> Answer {
    let response = within(stream.recv_response()).await.unwrap();
    let mut body = Vec::new();
    while let Some(mut data) = within(stream.recv_data()).await.unwrap() {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    let trailers = within(stream.recv_trailers()).await.unwrap();
    let body = String::from_utf8(body).unwrap();
    Answer { status: response.status(), headers: response.headers().clone(), trailers, body }
}

/// A world with one machine that runs a program.
pub async fn world_with(machine: &Machine, program: Router) -> (World, Program) {
    let mut world = World::start().await;
    let program = machine.run(program).await;
    world.know(&[machine]).await;
    (world, program)
}

#[tokio::test]
async fn an_app_is_reached_and_sees_the_same_as_by_other_versions() {
    let (world, _program) = world_with(&Machine::of("shop"), mirror()).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let answer = client.fetch(get("shop", "/deep?x=1")).await;
    assert_eq!(answer.status, StatusCode::OK);
    for line in [
        "target: /deep?x=1",
        "via: 3 dunlin",
        "x-forwarded-proto: https",
        "x-forwarded-ssl: on",
        "fly-client-ip: 127.0.0.1",
    ] {
        assert!(answer.body.lines().any(|it| it == line), "{line}: {}", answer.body);
    }
    assert!(!answer.body.contains("transfer-encoding"), "a request without a body is sent as such: {}", answer.body);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert!(answer.header("date").ends_with(" GMT"), "{answer:?}");
    assert_eq!(answer.header("alt-svc"), "", "who is here already need not be told");
    // Another one over the same connection.
    assert_eq!(client.fetch(get("shop", "/again")).await.status, StatusCode::OK);
    let live = api::internal::EdgeView::connections(world.edge.as_ref()).connections;
    assert!(live.iter().any(|it| it.requests == 2 && it.tls && it.bytes_in > 0 && it.bytes_out > 0), "{live:?}");
}

#[tokio::test]
async fn every_method_and_status_keeps_its_form() {
    let program = Router::new().fallback(|request: Request<Body>| async move {
        let status = request.uri().path()[1..].parse().unwrap();
        http::Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from("body")).unwrap()
    });
    let (world, _program) = world_with(&Machine::of("shop"), program).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    for (method, status, body) in [
        (Method::GET, 200, "body"),
        (Method::HEAD, 200, ""),
        (Method::DELETE, 404, "body"),
        (Method::GET, 304, ""),
        (Method::PUT, 204, ""),
    ] {
        let mut request = get("shop", &format!("/{status}"));
        *request.method_mut() = method.clone();
        let answer = client.fetch(request).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (status, body), "{method}");
    }
}

#[tokio::test]
async fn bodies_stream_both_ways_at_the_same_time() {
    let echo = Router::new().fallback(|request: Request<Body>| async move { request.into_body() });
    let (world, _program) = world_with(&Machine::of("shop"), echo).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let mut stream = client.begin(post("shop", "/").body(()).unwrap()).await;
    stream.send_data(Bytes::from("first")).await.unwrap();
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), StatusCode::OK);
    for round in ["first", "second", "third"] {
        if round != "first" {
            stream.send_data(Bytes::from(round)).await.unwrap();
        }
        let mut back = Vec::new();
        while back.len() < round.len() {
            let mut data = within(stream.recv_data()).await.unwrap().unwrap();
            back.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        assert_eq!(back, round.as_bytes());
    }
    stream.finish().await.unwrap();
    assert!(within(stream.recv_data()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_long_body_passes_whole_whatever_the_windows_are() {
    let echo = Router::new().fallback(|request: Request<Body>| async move { request.into_body() });
    let (world, _program) = world_with(&Machine::of("shop"), echo).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let body: Bytes = (0..3_000_000_u32).map(|number| number as u8).collect();
    let stream = client.begin(post("shop", "/").header("content-length", body.len()).body(()).unwrap()).await;
    let (mut send, mut receive) = stream.split();
    let sent = body.clone();
    tokio::spawn(async move {
        for piece in sent.chunks(100_000) {
            send.send_data(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        send.finish().await.unwrap();
    });
    within(receive.recv_response()).await.unwrap();
    let mut back = Vec::new();
    while let Some(mut data) = within(receive.recv_data()).await.unwrap() {
        back.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    assert!(back == body, "{} bytes of {} came back", back.len(), body.len());
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let program = Router::new().fallback(|request: Request<Body>| async move {
        let sent = request.into_body().collect().await.unwrap();
        let echoed = sent.trailers().and_then(|trailers| trailers.get("x-checksum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-echo", echoed.unwrap_or(HeaderValue::from_static("none")));
        let frames = vec![Ok::<_, Infallible>(Frame::data(sent.to_bytes())), Ok(Frame::trailers(trailers))];
        Body::new(StreamBody::new(stream::iter(frames)))
    });
    let (world, _program) = world_with(&Machine::of("rpc").h2_backend(), program).await;
    let mut client = Client::connect(&world, &host("rpc")).await;
    let mut stream = client.begin(post("rpc", "/Service/Method").header("te", "trailers").body(()).unwrap()).await;
    stream.send_data(Bytes::from("message")).await.unwrap();
    let sent = HeaderMap::from_iter([
        ("x-checksum".parse().unwrap(), HeaderValue::from_static("42")),
        ("fly-client-ip".parse().unwrap(), HeaderValue::from_static("6.6.6.6")),
    ]);
    stream.send_trailers(sent).await.unwrap();
    stream.finish().await.unwrap();
    let answer = read(&mut stream).await;
    let trailers = answer.trailers.unwrap();
    assert_eq!(answer.body, "message");
    assert!(trailers["grpc-status"] == "0" && trailers["x-echo"] == "42", "{trailers:?}");
}

#[tokio::test]
async fn a_client_that_waits_for_consent_gets_it_once_somebody_reads() {
    let echo = Router::new().fallback(|body: Bytes| async move { body });
    let (world, _program) = world_with(&Machine::of("shop"), echo).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let request = post("shop", "/").header("expect", "100-continue").header("content-length", "5");
    let mut stream = client.begin(request.body(()).unwrap()).await;
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), StatusCode::CONTINUE);
    stream.send_data(Bytes::from("hello")).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(read(&mut stream).await.body, "hello");
    // Nobody reads the body of what is refused.
    let refused = Request::post("https://other.dunlin.localhost/").header("expect", "100-continue");
    let mut stream = client.begin(refused.body(()).unwrap()).await;
    assert_eq!(within(stream.recv_response()).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test]
async fn answers_over_tls_announce_it_unless_the_app_does_not_want_it() {
    let mut world = World::start().await;
    let pristine = HttpOptions {
        response: Some(ResponseOptions { pristine: true, ..ResponseOptions::default() }),
        ..HttpOptions::default()
    };
    let without = TlsOptions { alpn: vec!["h2".into(), "http/1.1".into()], ..TlsOptions::default() };
    let old = TlsOptions { versions: vec!["TLSv1.2".into()], ..TlsOptions::default() };
    let machines = [
        Machine::of("shop"),
        Machine::of("pure").each_port(|port| port.http_options = Some(pristine.clone())),
        Machine::of("without").each_port(|port| port.tls_options = Some(without.clone())),
        Machine::of("old").each_port(|port| port.tls_options = Some(old.clone())),
    ];
    let mut programs = Vec::new();
    for machine in &machines {
        programs.push(machine.run(says("hello")).await);
    }
    world.know(&machines.iter().collect::<Vec<_>>()).await;
    let announced = format!("h3=\":{}\"; ma=86400", world.https().port());
    for (app, header, reached) in
        [("shop", announced.as_str(), true), ("pure", "", true), ("without", "", false), ("old", "", false)]
    {
        let stream = tls::connect(tls::client(&world, &["http/1.1"]), world.https(), &host(app)).await.unwrap();
        assert_eq!(tls::fetch(stream, &host(app)).await.header("alt-svc"), header, "{app}");
        assert_eq!(connect_quic(&world, &host(app)).await.is_ok(), reached, "{app}");
    }
    assert_eq!(world.get("shop", "/").await.header("alt-svc"), "", "not in the clear");
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let mut world = World::with(|options| options.http3 = false).await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let stream = tls::connect(tls::client(&world, &["http/1.1"]), world.https(), &host("shop")).await.unwrap();
    assert_eq!(tls::fetch(stream, &host("shop")).await.header("alt-svc"), "");
    let free = std::net::UdpSocket::bind(world.https());
    assert!(free.is_ok(), "nobody listens");
}

#[tokio::test]
async fn a_connection_is_for_one_name_and_foreign_names_get_none() {
    let mut world = World::start().await;
    let machines = [Machine::of("one"), Machine::of("two")];
    let _programs = (machines[0].run(says("one")).await, machines[1].run(says("two")).await);
    world.know(&[&machines[0], &machines[1]]).await;
    let mut client = Client::connect(&world, &host("one")).await;
    let answer = client.fetch(get("two", "/")).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::MISDIRECTED_REQUEST, "PH05"));
    assert!(connect_quic(&world, "www.example.com").await.is_err());
    let mut nobody = Client::connect(&world, &host("nobody")).await;
    assert_eq!(nobody.fetch(get("nobody", "/")).await.header("dunlin-error"), "PH01");
}

#[tokio::test]
async fn nothing_is_lost_when_the_edge_ends() {
    let (program, mut arrivals, gate) = gated();
    let (world, _program) = world_with(&Machine::of("slow"), program).await;
    let mut client = Client::connect(&world, &host("slow")).await;
    let mut stream = client.begin(get("slow", "/")).await;
    stream.finish().await.unwrap();
    within(arrivals.recv()).await.unwrap();
    let edge = world.edge.clone();
    let ending = tokio::spawn(async move { edge.shutdown(PATIENCE).await });
    // The client hears of it, and begins nothing more.
    let told = async {
        // What is for another host is answered at once.
        while let Ok(mut late) = client.sender.send_request(get("other", "/")).await {
            let _ = late.finish().await;
            let _ = late.recv_response().await;
        }
    };
    within(told).await;
    gate.add_permits(1);
    assert_eq!(read(&mut stream).await.body, "done");
    drop(client.sender);
    let ended = within(client.ended).await.unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
    within(ending).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_an_error() {
    let mut world = World::with(|options| options.bounds.idle = Duration::from_millis(100)).await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    assert_eq!(client.fetch(get("shop", "/")).await.body, "hello");
    let ended = within(client.ended).await.unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place_at_the_machine() {
    let (program, mut arrivals, gate) = gated();
    let machine = Machine::of("slow").limits(ConcurrencyKind::Requests, 1, Some(1));
    let (world, _program) = world_with(&machine, program).await;
    let mut client = Client::connect(&world, &host("slow")).await;
    let mut stream = client.begin(get("slow", "/")).await;
    stream.finish().await.unwrap();
    within(arrivals.recv()).await.unwrap();
    stream.stop_sending(Code::H3_REQUEST_CANCELLED);
    drop(stream);
    let mut next = client.begin(get("slow", "/")).await;
    next.finish().await.unwrap();
    within(arrivals.recv()).await.expect("the next one is let in");
    gate.add_permits(2);
    assert_eq!(read(&mut next).await.body, "done");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let listener = tokio::net::TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
        }
    });
    world.know(&[&machine]).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let mut stream = client.begin(get("shop", "/")).await;
    stream.finish().await.unwrap();
    let all = async {
        // The reset may overtake the answer's beginning.
        assert_eq!(stream.recv_response().await?.status(), StatusCode::OK);
        while let Some(data) = stream.recv_data().await? {
            drop(data);
        }
        Ok::<_, h3::error::StreamError>(())
    };
    assert!(within(all).await.is_err());
}

#[tokio::test]
async fn one_source_cannot_take_every_place() {
    let mut world = World::with(|options| {
        options.bounds.connections_per_source = 2;
        options.bounds.unlimited_sources.clear();
    })
    .await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let mut first = Client::connect(&world, &host("shop")).await;
    assert_eq!(first.fetch(get("shop", "/")).await.body, "hello");
    let (_endpoint, second) = connect_quic(&world, &host("shop")).await.unwrap();
    let (_other, third) = connect_quic(&world, &host("shop")).await.unwrap();
    let closed = within(async {
        tokio::select! { it = second.closed() => it, it = third.closed() => it }
    })
    .await;
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed:?}");
    assert_eq!(first.fetch(get("shop", "/")).await.body, "hello");
}

/// Opens a request's stream and writes bytes that the library's client would not.
async fn write_raw(quic: &quinn::Connection, bytes: &[u8]) -> (quinn::SendStream, quinn::RecvStream) {
    let (mut send, receive) = within(quic.open_bi()).await.unwrap();
    send.write_all(bytes).await.unwrap();
    (send, receive)
}

#[tokio::test]
async fn a_header_without_an_end_ends_its_stream_and_nothing_else() {
    let (world, _program) = world_with(&Machine::of("shop"), says("hello")).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    // HEADERS of 2^30 - 1 bytes.
    let (send, _receive) = write_raw(&client.quic, &[0x1, 0xbf, 0xff, 0xff, 0xff, 0]).await;
    let code = within(send.stopped()).await.unwrap().unwrap();
    assert_eq!(code, VarInt::from_u64(Code::H3_EXCESSIVE_LOAD.value()).unwrap());
    assert_eq!(client.fetch(get("shop", "/")).await.body, "hello");
}

#[tokio::test]
async fn a_stream_that_says_nothing_does_not_keep_its_place() {
    let mut world = World::with(|options| options.bounds.header = Duration::from_millis(100)).await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let (_send, mut receive) = write_raw(&client.quic, &[0x1]).await;
    assert!(within(receive.read_to_end(100)).await.is_err(), "it is reset, not ended");
    assert_eq!(client.fetch(get("shop", "/")).await.body, "hello");
}

#[tokio::test]
async fn a_header_that_is_too_long_is_answered() {
    let (world, _program) = world_with(&Machine::of("shop"), says("hello")).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    let mut request = get("shop", "/");
    for number in 0..1500 {
        request.headers_mut().append("x-filler", HeaderValue::from(number));
    }
    // So many small fields count for more than they are long (RFC 9114, 4.2.2).
    let (_endpoint, quic) = connect_quic(&world, &host("shop")).await.unwrap();
    let (_driver, mut sender) =
        h3::client::builder().build::<_, _, Bytes>(h3_quinn::Connection::new(quic)).await.unwrap();
    let mut stream = within(sender.send_request(request)).await.unwrap();
    let _ = stream.finish().await;
    let response = within(stream.recv_response()).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(client.fetch(get("shop", "/")).await.body, "hello");
}

#[tokio::test]
async fn early_data_is_refused_and_sessions_are_resumed() {
    let (world, _program) = world_with(&Machine::of("shop"), says("hello")).await;
    let mut config = tls::client(&world, &["h3"]);
    config.enable_early_data = true;
    let crypto = QuicClientConfig::try_from(config).unwrap();
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    for _ in 0..2 {
        let connecting = endpoint.connect(world.https(), &host("shop")).unwrap();
        let connection = match connecting.into_0rtt() {
            Ok(_) => panic!("no ticket allows early data"),
            Err(connecting) => within(connecting).await.unwrap(),
        };
        let (driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await.unwrap();
        let mut stream = sender.send_request(get("shop", "/")).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(read(&mut stream).await.body, "hello");
        drop(driver);
    }
}

/// A client of another library: it fetches an address twice and sends a body, then prints what it got.
const AIOQUIC: &str = include_str!("aioquic_client.py");

#[tokio::test]
async fn aioquic_fetches_and_sends() {
    let echo = Router::new().fallback(|request: Request<Body>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let version = head.headers.get("via").map_or("", |via| via.to_str().unwrap()).to_owned();
        format!("{} {} {version} {}", head.method, head.uri, body.len())
    });
    let (world, _program) = world_with(&Machine::of("shop"), echo).await;
    let run = tokio::process::Command::new("python3")
        .args(["-c", AIOQUIC])
        .arg(world.edge.authority_path())
        .args([world.https().ip().to_string(), world.https().port().to_string(), host("shop")])
        .kill_on_drop(true)
        .output();
    let output = within(run).await.ok();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let Some(output) = output.filter(|output| !said(output).contains("No module named 'aioquic'")) else {
        println!("skipped: aioquic_fetches_and_sends: python3 with aioquic is not there");
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = ["200 GET /one 3 dunlin 0", "200 GET /two 3 dunlin 0", "200 POST /three 3 dunlin 300000"];
    assert_eq!(lines.lines().collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn an_edge_that_takes_over_speaks_it_as_soon_as_the_one_before_has_left() {
    let (mut world, _program) = world_with(&Machine::of("shop"), says("hello")).await;
    let mut client = Client::connect(&world, &host("shop")).await;
    assert_eq!(client.fetch(get("shop", "/")).await.body, "hello");
    let before = world.take_over().await;
    let leaving = tokio::spawn(async move { before.retire(PATIENCE, PATIENCE).await });
    // Whoever is connected is told to go, and nobody else gets in until the address is free.
    let ended = within(client.ended).await.unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
    within(leaving).await.unwrap();
    let reached = async {
        while connect_quic(&world, &host("shop")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(reached).await;
    assert_eq!(Client::connect(&world, &host("shop")).await.fetch(get("shop", "/")).await.body, "hello");
}
