//! What the edge changes in an app's answers: compression, header edits, signatures.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io::Read,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use model::machine::{HeaderEdit, HttpOptions, ResponseOptions};
use tokio::sync::mpsc;

use crate::support::*;

/// A page that gains by compression.
fn page() -> String {
    "<p>The quick brown fox jumps over the lazy dog.</p>\n".repeat(200)
}

/// Answers with the page, of the kind and with the fields that the request asks for in `x-answer: name=value|…`.
fn pages() -> Router {
    Router::new().fallback(|request: Request<Body>| async move {
        let mut answer = Response::builder();
        let wanted = request.headers().get("x-answer").map_or("", |wanted| wanted.to_str().unwrap());
        for (name, value) in wanted.split('|').filter_map(|field| field.split_once('=')) {
            answer = if name == "status" { answer.status(value) } else { answer.header(name, value) };
        }
        answer.body(Body::from(page())).unwrap()
    })
}

struct Fetched {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Fetched {
    fn field(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    fn text(&self) -> String {
        String::from_utf8(decoded(self.field("content-encoding").first().copied(), &self.body)).unwrap()
    }
}

fn decoded(coding: Option<&str>, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // Of a stream that has not ended yet, what was flushed is given before the error.
    let _ = match coding {
        None => { bytes }.read_to_end(&mut out),
        Some("zstd") => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        Some("br") => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        Some("gzip") => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        Some("deflate") => flate2::read::ZlibDecoder::new(bytes).read_to_end(&mut out),
        Some(other) => panic!("{other}"),
    };
    out
}

async fn fetch(world: &World, method: &str, fields: &[(&str, &str)]) -> Fetched {
    let mut request = Request::builder().method(method).uri("/").header("host", host("shop"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let mut sender = connect_h1(world.http()).await;
    let response = within(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap().to_bytes().to_vec();
    Fetched { status: parts.status, headers: parts.headers, body }
}

fn with_options(machine: Machine, options: HttpOptions) -> Machine {
    machine.each_port(|port| port.http_options = Some(options.clone()))
}

#[tokio::test]
async fn each_client_gets_the_coding_it_likes_best() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(pages()).await;
    world.know(&[&machine]).await;
    let html = ("x-answer", "content-type=text/html|etag=\"v1\"");
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("gzip, deflate", "gzip"),
        ("deflate", "deflate"),
        ("zstd;q=0.1, gzip;q=0.9", "gzip"),
    ] {
        let answer = fetch(&world, "GET", &[html, ("accept-encoding", accept)]).await;
        assert_eq!(answer.field("content-encoding"), [coding], "{accept}");
        assert!(answer.body.len() < page().len() / 4 && answer.text() == page(), "{accept}");
        assert_eq!(answer.field("vary"), ["Accept-Encoding"]);
        assert_eq!(answer.field("etag"), ["W/\"v1\""]);
        assert!(answer.field("content-length").is_empty());
    }
    let answer = fetch(&world, "GET", &[html]).await;
    assert_eq!((answer.text(), answer.field("etag")), (page(), vec!["\"v1\""]));
    assert_eq!(answer.field("vary"), ["Accept-Encoding"], "a cache must not give this answer to everybody");
}

#[tokio::test]
async fn answers_that_must_not_be_changed_pass_as_they_are() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(pages()).await;
    world.know(&[&machine]).await;
    let accept = ("accept-encoding", "gzip");
    for answer in [
        "content-type=image/png",
        "content-type=text/html|content-encoding=identity",
        "content-type=text/html|content-encoding=none",
        "content-type=text/html|cache-control=no-transform",
        "content-type=text/html|status=206|content-range=bytes 0-10/100",
    ] {
        let got = fetch(&world, "GET", &[accept, ("x-answer", answer)]).await;
        assert!(!got.field("content-encoding").contains(&"gzip") && got.body == page().as_bytes(), "{answer}");
        assert!(!got.field("content-encoding").contains(&"none"), "{answer}");
    }
    let head = fetch(&world, "HEAD", &[accept, ("x-answer", "content-type=text/html")]).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.field("content-length"), [page().len().to_string().as_str()]);
    assert!(head.field("content-encoding").is_empty() && head.body.is_empty());
}

#[tokio::test]
async fn an_app_can_do_without() {
    let mut world = World::start().await;
    let machine = with_options(Machine::of("shop"), HttpOptions { compress: Some(false), ..HttpOptions::default() });
    let _program = machine.run(pages()).await;
    world.know(&[&machine]).await;
    let answer = fetch(&world, "GET", &[("accept-encoding", "gzip"), ("x-answer", "content-type=text/html")]).await;
    assert!(answer.field("content-encoding").is_empty() && answer.field("vary").is_empty());
    assert_eq!(answer.text(), page());
}

#[tokio::test]
async fn a_compressed_event_is_readable_before_the_next_one_is_sent() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let (events, receiver) = mpsc::channel::<Result<&str, Infallible>>(1);
    let receiver = Arc::new(Mutex::new(Some(receiver)));
    let program = Router::new().fallback(move || async move {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        let body = Body::from_stream(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    });
    let _program = machine.run(program).await;
    world.know(&[&machine]).await;
    let mut sender = connect_h2(world.http()).await;
    let request = Request::get("http://shop.dunlin.localhost/").version(Version::HTTP_2);
    let request = request.header("accept-encoding", "br").body(Empty::<Bytes>::new()).unwrap();
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "br");
    let (mut body, mut got, mut said) = (response.into_body(), Vec::new(), String::new());
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(Ok(event)).await.unwrap();
        said.push_str(event);
        while decoded(Some("br"), &got) != said.as_bytes() {
            got.extend(within(body.frame()).await.expect("it goes on").unwrap().into_data().unwrap());
        }
    }
    drop(events);
    while let Some(frame) = within(body.frame()).await {
        got.extend(frame.unwrap().into_data().unwrap());
    }
    assert_eq!(decoded(Some("br"), &got), said.as_bytes());
}

fn edits(edits: &[(&str, HeaderEdit)]) -> HttpOptions {
    let headers: BTreeMap<String, HeaderEdit> =
        edits.iter().map(|(name, edit)| ((*name).to_owned(), edit.clone())).collect();
    let response = Some(ResponseOptions { headers, ..ResponseOptions::default() });
    HttpOptions { response, ..HttpOptions::default() }
}

#[tokio::test]
async fn an_app_edits_the_fields_of_its_answers_without_a_change_of_its_code() {
    let mut world = World::start().await;
    let set = |values: &[&str]| HeaderEdit::Set(values.iter().map(|value| (*value).to_owned()).collect());
    let options = edits(&[
        ("X-One", set(&["yes, it is"])),
        ("X-Many", set(&["a", "b"])),
        ("X-Powered-By", HeaderEdit::Remove),
        ("fly-request-id", HeaderEdit::Remove),
        ("Server", set(&["mine"])),
        ("Content-Length", HeaderEdit::Remove),
        ("Transfer-Encoding", set(&["chunked"])),
    ]);
    let machine = with_options(Machine::of("shop"), options);
    let _program = machine.run(pages()).await;
    world.know(&[&machine]).await;
    let answer = fetch(&world, "GET", &[("x-answer", "x-powered-by=PHP|x-one=no|x-many=z|status=404")]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.field("x-one"), ["yes, it is"]);
    assert_eq!(answer.field("x-many"), ["a", "b"]);
    assert_eq!(answer.field("server"), ["mine"]);
    assert!(answer.field("x-powered-by").is_empty() && answer.field("fly-request-id").is_empty());
    assert_eq!(answer.field("content-length"), [page().len().to_string().as_str()], "framing is not to be edited");
    assert_eq!(answer.text(), page());
}

#[tokio::test]
async fn pristine_answers_carry_what_the_app_said_and_nothing_else() {
    let mut world = World::start().await;
    let response = Some(ResponseOptions { pristine: true, ..ResponseOptions::default() });
    let machine = with_options(Machine::of("shop"), HttpOptions { response, ..HttpOptions::default() });
    let _program = machine.run(pages()).await;
    world.know(&[&machine]).await;
    let answer = fetch(&world, "GET", &[("x-answer", "server=mine|fly-cache-status=hit")]).await;
    assert_eq!((answer.field("server"), answer.field("fly-cache-status")), (vec!["mine"], vec!["hit"]));
    assert!(answer.field("via").is_empty() && answer.field("fly-request-id").is_empty());
    let answer = fetch(&world, "GET", &[]).await;
    assert!(answer.field("server").is_empty());
    let refused = world.get("nobody", "/").await;
    assert_eq!(refused.header("server"), "Dunlin", "our own answers are signed");
}
