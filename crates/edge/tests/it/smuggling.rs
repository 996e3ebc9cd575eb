//! Requests that two readers may read differently. Each is either refused, or reaches the app as exactly one request
//! that nobody can read in two ways.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::*;

/// A program that writes down what it gets whole.
pub fn recorder() -> (Router, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let program = Router::new().fallback(move |request: Request<axum::body::Body>| async move {
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else { return "broken" };
        let line = format!("{} {} {}", parts.method, parts.uri.path(), String::from_utf8_lossy(&body));
        record.lock().unwrap().push(line);
        "ok"
    });
    (program, seen)
}

/// What a client writes (`%` stands for the app's host), and what the app may see of it: nothing (it is refused), or these requests.
struct Case {
    name: &'static str,
    bytes: &'static str,
    may_see: &'static [&'static str],
    status: &'static str,
}

const fn refused(name: &'static str, bytes: &'static str) -> Case {
    Case { name, bytes, may_see: &[], status: "400" }
}

/// The chunks of a body that cannot be understood. The app gets no request whole; the client may be told, or cut off.
const fn broken(name: &'static str, chunks: &'static str) -> Case {
    Case { name, bytes: chunks, may_see: &[], status: BROKEN }
}

/// Stands for the status of a request whose chunks cannot be understood.
const BROKEN: &str = "";

const CASES: &[Case] = &[
    refused(
        "conflicting lengths",
        "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    ),
    refused("a list of lengths", "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: 5, 6\r\n\r\nhello!"),
    refused("a signed length", "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: +5\r\n\r\nhello"),
    refused("a negative length", "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: -1\r\n\r\nhello"),
    refused(
        "a length beyond all bounds",
        "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    ),
    refused(
        "chunked is not last",
        "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    refused("an unknown coding", "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    refused("a coding in HTTP/1.0", "POST /a HTTP/1.0\r\nHost: %\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    refused("a space before the colon", "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length : 5\r\n\r\nhello"),
    refused("a folded line", "GET /a HTTP/1.1\r\nHost: %\r\nX: a\r\n b\r\n\r\n"),
    refused("a name with a control character", "GET /a HTTP/1.1\r\nHost: %\r\nX\x0b: a\r\n\r\n"),
    refused("a value with a zero byte", "GET /a HTTP/1.1\r\nHost: %\r\nX: a\0b\r\n\r\n"),
    refused("two hosts", "GET /a HTTP/1.1\r\nHost: %\r\nHost: other\r\n\r\n"),
    refused("no host", "GET /a HTTP/1.1\r\n\r\n"),
    refused("a host with a user", "GET /a HTTP/1.1\r\nHost: user@%\r\n\r\n"),
    refused("a host with a path", "GET /a HTTP/1.1\r\nHost: %/b\r\n\r\n"),
    refused("a bare CR in a value", "GET /a HTTP/1.1\r\nHost: %\r\nX: a\rGET /smuggled HTTP/1.1\r\n\r\n"),
    refused("a space in the target", "GET /a b HTTP/1.1\r\nHost: %\r\n\r\n"),
    refused("an unknown version", "GET /a HTTP/1.9\r\nHost: %\r\n\r\n"),
    refused("a request of HTTP/0.9", "GET /a\r\n\r\n"),
    refused("tabs in the request line", "GET\t/a\tHTTP/1.1\r\nHost: %\r\n\r\n"),
    refused("a line without a colon", "GET /a HTTP/1.1\r\nHost: %\r\nnothing\r\n\r\n"),
    refused("a first line that is folded", "GET /a HTTP/1.1\r\n Host: %\r\n\r\n"),
    refused("a user in an absolute target", "GET http://user@%/a HTTP/1.1\r\nHost: %\r\n\r\n"),
    refused(
        "a space before the colon of a coding",
        "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    refused(
        "a coding with a control character",
        "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    broken("a chunk whose size ends in a bare LF", "5\nhello\r\n0\r\n\r\n"),
    broken("a chunk whose extension ends in a bare LF", "5;x\nhello\r\n0\r\n\r\n"),
    broken("a chunk's size in another notation", "0x5\r\nhello\r\n0\r\n\r\n"),
    broken("a signed size of a chunk", "+5\r\nhello\r\n0\r\n\r\n"),
    broken("a chunk's size beyond all bounds", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    broken("a chunk that is longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
    broken("a chunk without an end", "5\r\nhello"),
    Case {
        name: "bare LF at the ends of lines (RFC 9112, 2.2)",
        bytes: "GET /a HTTP/1.1\nHost: %\n\n",
        may_see: &["GET /a "],
        status: "200",
    },
    Case {
        name: "empty lines before a request (RFC 9112, 2.2)",
        bytes: "\r\n\r\nGET /a HTTP/1.1\r\nHost: %\r\n\r\n",
        may_see: &["GET /a "],
        status: "200",
    },
    Case {
        name: "trailers cannot frame",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: identity\r\n\r\n",
        may_see: &["POST /a hello"],
        status: "200",
    },
    Case {
        name: "a name that is nearly a coding's",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        may_see: &["POST /a hello"],
        status: "200",
    },
    Case {
        name: "an upgrade to HTTP/2 is not passed on",
        bytes: "GET /a HTTP/1.1\r\nHost: %\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        may_see: &["GET /a "],
        status: "200",
    },
    Case {
        name: "a body where there usually is none",
        bytes: "GET /a HTTP/1.1\r\nHost: %\r\nContent-Length: 5\r\n\r\nhello",
        may_see: &["GET /a hello"],
        status: "200",
    },
    Case {
        name: "a forward proxy's request",
        bytes: "CONNECT %:443 HTTP/1.1\r\nHost: %:443\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: %\r\n\r\n",
        may_see: &[],
        status: "405",
    },
    Case {
        name: "the same length twice",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        may_see: &["POST /a hello"],
        status: "200",
    },
    Case {
        name: "a length and a coding: the coding counts, and the connection ends",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
                5\r\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: %\r\n\r\n",
        may_see: &["POST /a hello"],
        status: "200",
    },
    Case {
        name: "a coding and a length",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n\
                0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: %\r\n\r\n",
        may_see: &["POST /a "],
        status: "200",
    },
    Case {
        name: "a chunk with an extension",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\n\r\n",
        may_see: &["POST /a hello"],
        status: "200",
    },
    Case {
        name: "an absolute target outranks the Host field",
        bytes: "GET http://%/a HTTP/1.1\r\nHost: other.dunlin.localhost\r\n\r\n",
        may_see: &["GET /a "],
        status: "200",
    },
    Case {
        name: "the Connection field cannot take away the length",
        bytes: "POST /a HTTP/1.1\r\nHost: %\r\nConnection: content-length, host\r\nContent-Length: 5\r\n\r\nhello",
        may_see: &["POST /a hello"],
        status: "200",
    },
];

#[tokio::test]
async fn no_ambiguous_request_gets_through() {
    let mut world = World::start().await;
    let machine = Machine::of("shop").limits(model::machine::ConcurrencyKind::Requests, 20, None);
    let (program, seen) = recorder();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    for case in CASES {
        seen.lock().unwrap().clear();
        let mut client = TcpStream::connect(world.http()).await.unwrap();
        let head = "POST /a HTTP/1.1\r\nHost: %\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = if case.status == BROKEN { [head, case.bytes].concat() } else { case.bytes.to_owned() };
        client.write_all(bytes.replace('%', &host("shop")).as_bytes()).await.unwrap();
        if case.status != BROKEN {
            let mut status = [0; 12];
            within(client.read_exact(&mut status)).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
            assert_eq!(&String::from_utf8_lossy(&status)[9..], case.status, "{}", case.name);
        }
        // What follows on the connection is read too before it is looked at what the app saw.
        client.shutdown().await.unwrap();
        let _ = within(client.read_to_end(&mut Vec::new())).await;
        assert_eq!(*seen.lock().unwrap(), case.may_see, "{}", case.name);
    }
}

#[tokio::test]
async fn two_requests_in_one_write_are_two_requests() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (program, seen) = recorder();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    let host = host("shop");
    let both = format!(
        "POST /one HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nxGET /two HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(both.as_bytes()).await.unwrap();
    let mut answers = String::new();
    within(client.read_to_string(&mut answers)).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(*seen.lock().unwrap(), ["POST /one x", "GET /two "]);
}

#[tokio::test]
async fn fields_of_http_2_cannot_frame_an_http_1_request() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (program, seen) = recorder();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let stream = TcpStream::connect(world.http()).await.unwrap();
    // The h2 crate writes what a careful client would not.
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (name, value) in [("transfer-encoding", "chunked"), ("connection", "close"), ("content-length", "100")] {
        let request = Request::post("http://shop.dunlin.localhost/a").header(name, value).body(()).unwrap();
        sender = within(sender.ready()).await.unwrap();
        let sent = sender.send_request(request, false);
        if let Ok((response, mut body)) = sent {
            let _ = body.send_data(Bytes::from("GET /smuggled HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n\r\n"), true);
            assert!(within(response).await.is_err_and(|error| error.is_reset()), "{name}");
        }
    }
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|line| !line.starts_with("GET /smuggled")), "{seen:?}");
}

#[tokio::test]
async fn the_content_of_chunks_that_cannot_be_read_is_never_taken_for_requests() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (program, seen) = recorder();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let host = host("shop");
    let inside = format!("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let size = format!("{:x}", inside.len());
    let pipelined = format!("GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for bad in [
        format!("{size};a={}\r\n{inside}\r\n0\r\n\r\n", "x".repeat(5000)),
        format!("{size};a=\rb\r\n{inside}\r\n0\r\n\r\n"),
        format!("{size} x\r\n{inside}\r\n0\r\n\r\n"),
        format!("fffffffffffffffffff\r\n{inside}\r\n0\r\n\r\n"),
        format!("0\r\nX y\r\n\r\n{pipelined}"),
        format!("0\r\n\n{pipelined}"),
        format!("0\r\nX: y\n\n{pipelined}"),
    ] {
        let mut client = TcpStream::connect(world.http()).await.unwrap();
        let head = format!("POST /p HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.write_all(format!("{head}{bad}{pipelined}").as_bytes()).await.unwrap();
        let mut said = Vec::new();
        let _ = within(client.read_to_end(&mut said)).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.matches("HTTP/1.1 ").count() <= 1 && !said.starts_with("HTTP/1.1 2"), "{bad:?}: {said}");
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_target_without_a_path_asks_for_the_root() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let mut client = TcpStream::connect(world.http()).await.unwrap();
    let request =
        "GET http://shop.dunlin.localhost?x=1 HTTP/1.1\r\nHost: shop.dunlin.localhost\r\nConnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    within(client.read_to_string(&mut said)).await.unwrap();
    assert!(said.contains("target: /?x=1"), "{said}");
}
