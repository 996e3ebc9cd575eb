//! Requests of HTTP/2 and HTTP/3 whose fields would mean something else in HTTP/1, which apps are spoken to. The same
//! corpus for both, written byte by byte, since no library's client writes it. An app sees at most one request of each,
//! and of those that are malformed none.

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{http2, http3::connect_quic, smuggling::recorder, support::*};

/// A body that would be a request if it were read as one.
const HIDDEN: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n\r\n";

/// What may become of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Becomes {
    /// No part of it reaches the app as a whole request.
    Nothing,
    /// It may reach the app, as one request.
    AtMostOne,
}
use Becomes::{AtMostOne, Nothing};

/// Fields that replace the usual pseudo-fields, or come beside them.
type Fields = &'static [(&'static str, &'static str)];

const CASES: &[(&str, Fields, Becomes)] = &[
    ("a line end in a value", &[("x", "a\r\nTransfer-Encoding: chunked")], Nothing),
    ("a bare LF in a value", &[("x", "a\nContent-Length: 0")], Nothing),
    ("a bare CR in a value", &[("x", "a\rContent-Length: 0")], Nothing),
    ("a zero byte in a value", &[("x", "a\0b")], Nothing),
    ("a line end in a name", &[("x\r\ncontent-length", "0")], Nothing),
    ("a colon in a name", &[("transfer-encoding: chunked\r\nx", "1")], Nothing),
    ("a space in a name", &[("content-length ", "0")], Nothing),
    ("a name in capitals", &[("Content-Length", "0")], Nothing),
    ("a name of nothing", &[("", "0")], Nothing),
    ("a coding", &[("transfer-encoding", "chunked")], Nothing),
    ("a field of a connection", &[("connection", "content-length")], Nothing),
    ("an upgrade", &[("upgrade", "h2c")], Nothing),
    ("a coding of trailers", &[("te", "chunked")], Nothing),
    ("a length that is too short", &[("content-length", "5")], Nothing),
    ("a length that is too long", &[("content-length", "1000")], Nothing),
    ("two lengths", &[("content-length", "60"), ("content-length", "5")], Nothing),
    ("a list of lengths", &[("content-length", "60, 60")], Nothing),
    ("a signed length", &[("content-length", "+60")], Nothing),
    ("a request in the method", &[(":method", "GET /smuggled HTTP/1.1\r\nHost: shop\r\n\r\nPOST")], Nothing),
    ("a request in the path", &[(":path", "/a HTTP/1.1\r\nHost: shop\r\n\r\nGET /smuggled")], Nothing),
    ("a space in the path", &[(":path", "/smuggled HTTP/1.1 /a")], Nothing),
    ("a path of nothing", &[(":path", "")], Nothing),
    ("a path that is none", &[(":path", "a")], Nothing),
    ("a line end in the authority", &[(":authority", "shop.dunlin.localhost\r\nX: y")], Nothing),
    ("a path in the authority", &[(":authority", "shop.dunlin.localhost/b")], Nothing),
    ("a user in the authority", &[(":authority", "user@shop.dunlin.localhost")], Nothing),
    ("an unknown pseudo-field", &[(":evil", "1")], Nothing),
    ("an answer's pseudo-field", &[(":status", "200")], AtMostOne),
    ("another host beside the authority", &[("host", "other.dunlin.localhost")], AtMostOne),
    ("two hosts", &[("host", "shop.dunlin.localhost"), ("host", "other.dunlin.localhost")], Nothing),
    ("a field before the pseudo-fields", &[("x", "1"), (":path", "/a")], AtMostOne),
];

/// The fields of a case, each pseudo-field that it does not replace before them.
fn fields(case: Fields) -> Vec<(String, String)> {
    let usual = [(":method", "POST"), (":scheme", "https"), (":authority", "shop.dunlin.localhost"), (":path", "/a")];
    let usual = usual.into_iter().filter(|(name, _)| !case.iter().any(|(it, _)| it == name));
    usual.chain(case.iter().copied()).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Literal fields of QPACK (RFC 9204, 4.5.6), after a prefix that names no dynamic table.
fn qpack(fields: &[(String, String)]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        match u8::try_from(name.len()).unwrap() {
            short @ 0..7 => block.push(0x20 | short),
            long => block.extend([0x27, long - 7]),
        }
        block.extend_from_slice(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// A frame of HTTP/3 (RFC 9114, 7.1).
fn h3_frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (0x4000 | u16::try_from(payload.len()).unwrap()).to_be_bytes();
    [&[kind][..], &length, payload].concat()
}

/// Sends a request by HTTP/2, and waits for what becomes of it.
async fn by_h2(world: &World, fields: &[(String, String)]) {
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        http2::frame(0x4, 0, 0, &[]),
        http2::frame(0x1, 0x4, 1, &http2::block(fields)),
        http2::frame(0x0, 0x1, 1, HIDDEN.as_bytes()),
    ];
    stream.write_all(&request.concat()).await.unwrap();
    let answered = async {
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let _ = stream.read_exact(&mut vec![0; length as usize]).await;
            // An answer, a reset, or the end of the connection.
            if [0x1, 0x3, 0x7].contains(&head[3]) {
                return;
            }
        }
    };
    within(answered).await;
}

/// The same by HTTP/3.
async fn by_h3(world: &World, fields: &[(String, String)]) {
    let (_endpoint, quic) = connect_quic(world, "shop.dunlin.localhost").await.unwrap();
    let mut control = quic.open_uni().await.unwrap();
    control.write_all(&[0x0, 0x4, 0x0]).await.unwrap();
    let (mut send, mut receive) = quic.open_bi().await.unwrap();
    let request = [h3_frame(0x1, &qpack(fields)), h3_frame(0x0, HIDDEN.as_bytes())].concat();
    let _ = send.write_chunk(Bytes::from(request)).await;
    let _ = send.finish();
    // An answer, a reset, or the end of the connection.
    let _ = within(receive.read_to_end(1 << 16)).await;
}

#[tokio::test]
async fn no_field_of_http_2_or_3_becomes_another_request_of_http_1() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (program, seen) = recorder();
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let good = fields(&[("content-length", "60")]);
    for version in [2, 3] {
        for (name, fields, becomes) in CASES.iter().map(|(name, case, becomes)| (*name, fields(case), *becomes)) {
            seen.lock().unwrap().clear();
            if version == 2 {
                by_h2(&world, &fields).await
            } else {
                by_h3(&world, &fields).await
            }
            let lines = seen.lock().unwrap().clone();
            let most = if becomes == AtMostOne { 1 } else { 0 };
            assert!(lines.len() <= most, "HTTP/{version}, {name}: {lines:?}");
            assert!(lines.iter().all(|line| line.starts_with("POST /a ")), "HTTP/{version}, {name}: {lines:?}");
        }
        seen.lock().unwrap().clear();
        if version == 2 {
            by_h2(&world, &good).await
        } else {
            by_h3(&world, &good).await
        }
        assert_eq!(*seen.lock().unwrap(), [format!("POST /a {HIDDEN}")], "HTTP/{version}: a good one arrives");
    }
}
