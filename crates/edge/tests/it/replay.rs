//! Requests that apps send elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use axum::{Router, body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use model::machine::MachineState;
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::support::*;

/// A program that sends every request elsewhere, by this order.
pub fn replays(order: impl Into<String>) -> Router {
    answers_with(&[("fly-replay", &order.into())])
}

/// A program that answers everything with these fields, and a body that nobody shall see.
pub fn answers_with(fields: &[(&str, &str)]) -> Router {
    let fields: Vec<(String, String)> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Router::new().fallback(move || {
        let answer =
            fields.iter().fold(Response::builder().status(500), |answer, (name, value)| answer.header(name, value));
        let answer = answer.body(Body::from("nobody shall see this")).unwrap();
        async move { answer }
    })
}

/// A program that orders by a document.
fn orders(document: serde_json::Value) -> Router {
    Router::new().fallback(move || {
        let answer = Response::builder().header("content-type", "application/vnd.fly.replay+json; charset=utf-8");
        let answer = answer.body(Body::from(document.to_string())).unwrap();
        async move { answer }
    })
}

fn get(path: &str) -> Request<http_body_util::Full<Bytes>> {
    Request::get(path).header("host", host("front")).header("cookie", "secret=1").body(full("")).unwrap()
}

/// An app `front` that orders, an app `back` that answers with what it got.
async fn front_and_back(front: Router) -> (World, [Machine; 2], [Program; 2]) {
    let mut world = World::start().await;
    let machines = [Machine::of("front").region("ams"), Machine::of("back").region("iad")];
    let programs = [machines[0].run(front).await, machines[1].run(mirror()).await];
    world.know(&[&machines[0], &machines[1]]).await;
    (world, machines, programs)
}

#[tokio::test]
async fn a_request_is_answered_by_the_app_that_it_was_sent_to() {
    let (world, machines, _programs) = front_and_back(replays("app=back;state=from here")).await;
    let answer = world.send(get("/a?b=c")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("target: /a?b=c") && answer.body.contains("cookie: secret=1"), "{}", answer.body);
    let source = format!("fly-replay-src: instance={};region=ams;t=", machines[0].id());
    assert!(answer.body.contains(&source) && answer.body.contains(";state=from here"), "{}", answer.body);
    assert!(answer.headers.get("fly-replay").is_none());
}

#[tokio::test]
async fn a_request_is_sent_to_a_region_to_a_machine_or_just_elsewhere() {
    let mut world = World::with(|options| options.region = "ams".parse().unwrap()).await;
    let (here, there) = (Machine::of("shop").region("ams"), Machine::of("shop").region("syd"));
    let order = Arc::new(std::sync::Mutex::new(String::new()));
    let ordered = order.clone();
    let program = Router::new().fallback(move || {
        let order = ordered.lock().unwrap().clone();
        async move { [("fly-replay", order)] }
    });
    let _programs = (here.run(program).await, there.run(says("there")).await);
    world.know(&[&here, &there]).await;
    for text in [
        "region=syd".to_owned(),
        "region=\"lhr,apac\"".to_owned(),
        format!("instance={}", there.id()),
        format!("prefer_instance={}", there.id()),
        "elsewhere=true".to_owned(),
    ] {
        *order.lock().unwrap() = text.clone();
        assert_eq!(world.get("shop", "/").await.body, "there", "{text}");
    }
    *order.lock().unwrap() = "region=lhr".into();
    assert_eq!(world.get("shop", "/").await.header("dunlin-error"), "PR01");
    world.know(&[&there.state(MachineState::Stopped)]).await;
    *order.lock().unwrap() = "elsewhere=true".into();
    assert_eq!(world.get("shop", "/").await.header("dunlin-error"), "PR01");
}

#[tokio::test]
async fn an_order_in_json_changes_the_request() {
    let order = serde_json::json!({
        "app": "back",
        "transform": {
            "path": "/inner?token=1",
            "delete_headers": ["cookie"],
            "set_headers": [{"name": "x-user", "value": "7"}],
        },
    });
    let (world, _machines, _programs) = front_and_back(orders(order)).await;
    let answer = world.send(get("/outer?x=1")).await;
    assert!(answer.body.contains("target: /inner?token=1") && answer.body.contains("x-user: 7"), "{}", answer.body);
    assert!(!answer.body.contains("secret"), "{}", answer.body);
}

#[tokio::test]
async fn apps_that_send_a_request_in_a_circle_are_told_after_ten_times() {
    let (world, _machines, programs) = front_and_back(replays("app=front")).await;
    let answer = world.send(get("/")).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PA02"));
    assert!(world.logs.has("PA02"));
    assert_eq!(programs[1].accepted(), 0);
}

#[tokio::test]
async fn an_order_that_cannot_be_understood_is_refused_and_told_to_the_app() {
    for (program, reason) in [
        (replays("ap=back"), "\"ap\""),
        (replays("app=back;app=back"), "twice"),
        (replays("state=x"), "where to"),
        (orders(serde_json::json!({"app": "back", "extra": 1})), "extra"),
        (answers_with(&[("content-type", "application/vnd.fly.replay+json")]), "cannot be read"),
        (
            answers_with(&[
                ("fly-replay", "app=back"),
                ("fly-replay-cache", "/other"),
                ("fly-replay-cache-ttl-secs", "60"),
            ]),
            "match",
        ),
    ] {
        let (world, _machines, programs) = front_and_back(program).await;
        let answer = world.send(get("/")).await;
        assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::BAD_GATEWAY, "PA03"));
        assert!(answer.body.contains(reason), "{}", answer.body);
        assert_eq!(programs[1].accepted(), 0);
        assert!(world.logs.has("PA03"));
    }
}

#[tokio::test]
async fn only_apps_of_the_same_organization_and_network_send_requests_to_each_other() {
    for (org, network, code) in
        [("personal", 1, ""), ("personal", 2, "PA05"), ("others", 1, "PA05"), ("others", 2, "PA05")]
    {
        let mut world = World::start().await;
        let (front, back) = (Machine::of("front"), Machine::of("back").belongs(org, network));
        let programs = (front.run(replays("app=back")).await, back.run(says("back")).await);
        world.know(&[&front, &back]).await;
        let answer = world.send(get("/")).await;
        assert_eq!(answer.header("dunlin-error"), code, "{org} {network}");
        assert_eq!(programs.1.accepted(), usize::from(code.is_empty()));
    }
    let (world, _machines, _programs) = front_and_back(replays("app=nobody")).await;
    assert_eq!(world.send(get("/")).await.header("dunlin-error"), "PA04");
}

#[tokio::test]
async fn an_app_that_takes_no_requests_on_the_port_gets_none() {
    let mut world = World::start().await;
    let (front, back) = (Machine::of("front"), Machine::of("back").service(|service| drop(service.ports.remove(0))));
    let _programs = (front.run(replays("app=back")).await, back.run(says("back")).await);
    world.know(&[&front, &back]).await;
    assert_eq!(world.send(get("/")).await.header("dunlin-error"), "PH03");
}

/// A program that reads a request's body and says how long it was and where it came from.
fn measures() -> Router {
    Router::new().fallback(|headers: HeaderMap, body: Body| async move {
        let length = body.collect().await.unwrap().to_bytes().len();
        format!("{length} {}", headers.contains_key("fly-replay-src"))
    })
}

/// A program that reads a request's body and then sends it to the app `back`. One that answered a long request without
/// reading it would reset its connection, and its answer with it.
fn reads_and_replays() -> Router {
    Router::new().fallback(|body: Body| async move {
        body.collect().await.unwrap();
        [("fly-replay", "app=back")]
    })
}

#[tokio::test]
async fn a_body_goes_along_up_to_a_bound_and_passes_once_beyond_it() {
    let mut world = World::start().await;
    let (front, back) = (Machine::of("front"), Machine::of("back"));
    let _programs = (front.run(reads_and_replays()).await, back.run(measures()).await);
    world.know(&[&front, &back]).await;
    let post = |app: &str, length: usize| {
        Request::post("/").header("host", host(app)).body(full(&"x".repeat(length))).unwrap()
    };
    for length in [0, 1, 100_000, 1 << 20] {
        assert_eq!(world.send(post("front", length)).await.body, format!("{length} true"));
    }
    assert_eq!(world.send(post("back", 3 << 20)).await.body, format!("{} false", 3 << 20), "it passes");
}

#[tokio::test]
async fn a_body_that_is_too_long_cannot_be_sent_on() {
    let mut world = World::with(|options| options.bounds.kept_bytes = 1000).await;
    let (front, back) = (Machine::of("front"), Machine::of("back"));
    let _programs = (front.run(reads_and_replays()).await, back.run(measures()).await);
    world.know(&[&front, &back]).await;
    let post =
        |length: usize| Request::post("/").header("host", host("front")).body(full(&"x".repeat(length))).unwrap();
    assert_eq!(world.send(post(1000)).await.body, "1000 true");
    assert_eq!(world.send(post(1001)).await.header("dunlin-error"), "PA01");
    assert!(world.logs.has("PA01"));
}

/// A machine of an app at which nothing listens.
async fn dead(world: &mut World, app: &str) -> Machine {
    let machine = Machine::of(app);
    world.know(&[&machine]).await;
    machine
}

/// A program that sends its request on until it comes back, and then says what it was told.
fn catches(order: &'static str) -> Router {
    Router::new().fallback(move |headers: HeaderMap, body: String| async move {
        match headers.get("fly-replay-failed") {
            Some(failed) => format!("{} {body}", failed.to_str().unwrap()).into_response(),
            None => [("fly-replay", order)].into_response(),
        }
    })
}

#[tokio::test]
async fn a_request_that_reaches_nobody_comes_back_to_who_sent_it_on() {
    for order in
        ["app=back;fallback=force_self", "app=back;fallback=prefer_self;timeout=1ms", "region=syd;fallback=force_self"]
    {
        let (mut world, machines, _programs) = front_and_back(catches(order)).await;
        world.remove(&machines[1]);
        dead(&mut world, "back").await;
        let other = Machine::of("front");
        let _other = other.run(says("not me")).await;
        let request =
            Request::put("/").header("host", host("front")).header("fly-force-instance-id", machines[0].id().as_str());
        world.know(&[&other]).await;
        let answer = world.send(request.body(full("body")).unwrap()).await;
        let source = format!("replay_source={};reason=", machines[0].id());
        assert!(answer.body.contains(&source) && answer.body.ends_with(" body"), "{order}: {}", answer.body);
        let reason = if order.contains("region") {
            "no_candidate"
        } else if order.contains("timeout") {
            "timeout"
        } else {
            "retries_exhausted"
        };
        assert!(answer.body.contains(&format!("reason={reason};elapsed_ms=")), "{order}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_request_that_came_back_is_not_sent_on_again() {
    let (mut world, machines, _programs) = front_and_back(replays("app=back;fallback=prefer_self")).await;
    world.remove(&machines[1]);
    dead(&mut world, "back").await;
    assert_eq!(world.send(get("/")).await.header("dunlin-error"), "PA03");
}

#[tokio::test]
async fn a_request_without_a_fallback_fails_with_the_time_it_was_given() {
    let (mut world, machines, _programs) = front_and_back(replays("app=back;timeout=50ms")).await;
    world.remove(&machines[1]);
    world.know(&[&Machine::of("back").state(MachineState::Starting)]).await;
    let answer = world.send(get("/")).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::GATEWAY_TIMEOUT, "PA06"));
}

/// A machine whose program reads the head and some of the body of its first request and crashes, then answers.
async fn crashes_once(machine: &Machine) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    let crashes = Arc::new(AtomicUsize::new(0));
    let counted = crashes.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 16]).await;
            counted.fetch_add(1, SeqCst);
        }
    });
    crashes
}

#[tokio::test]
async fn a_request_whose_effect_is_the_same_twice_is_sent_to_another_machine_with_its_body() {
    let mut world = World::start().await;
    let (bad, good) = (Machine::of("shop"), Machine::of("shop"));
    let crashes = crashes_once(&bad).await;
    let _program = good.run(measures()).await;
    world.know(&[&bad, &good]).await;
    while crashes.load(SeqCst) == 0 {
        let put = Request::put("/").header("host", host("shop")).body(full(&"x".repeat(50_000))).unwrap();
        assert_eq!(world.send(put).await.body, "50000 false");
    }
}

#[tokio::test]
async fn a_client_cannot_pretend_that_its_request_was_sent_on() {
    let mut world = World::start().await;
    let machine = Machine::of("front");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    for field in ["fly-replay-src", "fly-replay-failed", "fly-replay-cache-status"] {
        let forged = Request::get("/").header("host", host("front")).header(field, "evil").body(full(""));
        assert!(!world.send(forged.unwrap()).await.body.contains("evil"), "{field}");
    }
}
