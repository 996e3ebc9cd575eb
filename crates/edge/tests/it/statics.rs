//! Files that a machine serves beside its program.

use axum::{Router, http::StatusCode, routing::get};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use model::machine::{STATICS_PORT, Static};

use crate::support::*;

fn serving(prefix: &str) -> Machine {
    let mut machine = Machine::of("shop");
    let files = Static { guest_path: "/public".into(), url_prefix: prefix.into(), ..Static::default() };
    machine.0.spec.config.statics.push(files);
    machine
}

/// The machine's file server, which has one file.
async fn file_server(machine: &Machine) -> Program {
    let mut address = machine.address();
    address.set_port(STATICS_PORT);
    let files = Router::new().route("/assets/site.css", get(|| async { "a {}" }));
    Program::start(address, files).await
}

fn asks(method: &str, path: &str) -> Request<Empty<Bytes>> {
    Request::builder().method(method).uri(path).header("host", host("shop")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_file_that_is_there_is_served_and_all_else_is_the_programs() {
    let mut world = World::start().await;
    let machine = serving("/assets/");
    let program = machine.run(says("the program")).await;
    let files = file_server(&machine).await;
    world.know(&[&machine]).await;
    for (method, path, answer) in [
        ("GET", "/assets/site.css", "a {}"),
        ("GET", "/assets/site.css?v=2", "a {}"),
        ("HEAD", "/assets/site.css", ""),
        ("GET", "/assets/none.css", "the program"),
        ("GET", "/assetsx/site.css", "the program"),
        ("GET", "/", "the program"),
        ("POST", "/assets/site.css", "the program"),
    ] {
        let got = world.send(asks(method, path)).await;
        assert_eq!((got.status, got.body), (StatusCode::OK, answer.into()), "{method} {path}");
    }
    assert_eq!(files.accepted(), 4, "the file server is asked for what may be a file, and for nothing else");
    let before = program.accepted();
    files.kill().await;
    let got = world.send(asks("GET", "/assets/site.css")).await;
    assert_eq!(got.body, "the program", "without a file server the program answers");
    assert!(before > 0);
}
