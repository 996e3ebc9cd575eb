//! Replays that are remembered.

use axum::{Router, body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use model::machine::{HttpOptions, MachineState, ReplayCache, SessionKind};

use crate::{replay::answers_with, support::*};

fn get(path: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("host", host("front"));
    fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(full("")).unwrap()
}

/// Whether what the target got says so of the cache.
fn is(answer: &Answer, status: &str) -> bool {
    answer.status == StatusCode::OK && answer.body.contains(&format!("fly-replay-cache-status: {status}"))
}

/// An app `front` that sends on what it gets, an app `back` that answers with what it got.
struct Two {
    world: World,
    machines: [Machine; 2],
    programs: [Program; 2],
}

impl Two {
    async fn start(front: Router, back: Router, options: HttpOptions) -> Self {
        let mut world = World::start().await;
        let with = |machine: Machine| machine.each_port(|port| port.http_options = Some(options.clone()));
        let machines = [with(Machine::of("front")), Machine::of("back")];
        let programs = [machines[0].run(front).await, machines[1].run(back).await];
        world.know(&[&machines[0], &machines[1]]).await;
        Self { world, machines, programs }
    }

    /// How often the app that orders was asked.
    fn asked(&self) -> usize {
        self.programs[0].accepted()
    }
}

fn remembers(pattern: &str, bypass: &str) -> Router {
    answers_with(&[
        ("fly-replay", "app=back"),
        ("fly-replay-cache", pattern),
        ("fly-replay-cache-ttl-secs", "60"),
        ("fly-replay-cache-allow-bypass", bypass),
    ])
}

#[tokio::test]
async fn later_requests_of_a_path_go_straight_to_where_the_first_was_sent() {
    let two = Two::start(remembers("/users/*", "no"), mirror(), HttpOptions::default()).await;
    assert!(is(&two.world.send(get("/users/1", &[])).await, "miss"));
    assert_eq!(two.asked(), 1);
    let hit = two.world.send(get("/users/2?x=1", &[("fly-replay-cache-control", "skip")])).await;
    assert!(is(&hit, "hit") && !hit.body.contains("fly-replay-src"), "{}", hit.body);
    assert_eq!(two.asked(), 1, "it was not asked again, and nobody may skip it");
    two.world.send(get("/other", &[])).await;
    assert_eq!(two.asked(), 2);
}

#[tokio::test]
async fn a_client_skips_the_cache_where_the_app_lets_it() {
    let two = Two::start(remembers("/", "yes"), mirror(), HttpOptions::default()).await;
    assert!(is(&two.world.send(get("/", &[])).await, "miss"));
    assert!(is(&two.world.send(get("/", &[("fly-replay-cache-control", "skip")])).await, "bypass"));
    assert_eq!(two.asked(), 2);
    assert!(is(&two.world.send(get("/", &[])).await, "hit"));
    assert_eq!(two.asked(), 2);
}

#[tokio::test]
async fn what_is_remembered_is_advice_and_a_target_that_is_gone_is_forgotten() {
    let order = std::sync::Arc::new(std::sync::Mutex::new("app=back"));
    let ordered = order.clone();
    let front = Router::new().fallback(move || {
        let fields =
            [("fly-replay", *ordered.lock().unwrap()), ("fly-replay-cache", "/"), ("fly-replay-cache-ttl-secs", "60")];
        async move { fields }
    });
    let mut two = Two::start(front, mirror(), HttpOptions::default()).await;
    let third = Machine::of("third");
    let _third = third.run(says("third")).await;
    assert!(is(&two.world.send(get("/", &[])).await, "miss"));
    let stopped = two.machines[1].clone().state(MachineState::Stopped);
    two.world.know(&[&third, &stopped]).await;
    *order.lock().unwrap() = "app=third";
    for _ in 0..2 {
        assert_eq!(two.world.send(get("/", &[])).await.body, "third");
    }
    assert_eq!(two.asked(), 2, "once at first, once when its target was gone");
}

#[tokio::test]
async fn a_target_sends_a_request_back_and_has_it_forgotten() {
    let back = Router::new().fallback(|headers: HeaderMap| async move {
        let hit = headers.get("fly-replay-cache-status").is_some_and(|status| status == "hit");
        let back = [("fly-replay", "app=front"), ("fly-replay-cache", "invalidate")];
        if hit { back.into_response() } else { "back".into_response() }
    });
    let two = Two::start(remembers("/", "no"), back, HttpOptions::default()).await;
    for asked in 1..4 {
        assert_eq!(two.world.send(get("/", &[])).await.body, "back");
        assert_eq!(two.asked(), asked, "each hit sends it back to be routed anew");
    }
}

fn session(kind: SessionKind, name: &str) -> HttpOptions {
    let rule = |prefix: &str, name: &str| ReplayCache {
        path_prefix: prefix.into(),
        ttl_seconds: 60,
        kind,
        name: name.into(),
        allow_bypass: true,
        ..ReplayCache::default()
    };
    HttpOptions { replay_cache: vec![rule("/", name), rule("/special/", "other")], ..HttpOptions::default() }
}

#[tokio::test]
async fn the_requests_of_a_session_go_where_its_first_was_sent() {
    let front = || answers_with(&[("fly-replay", "app=back")]);
    let two = Two::start(front(), mirror(), session(SessionKind::Cookie, "sid")).await;
    assert!(is(&two.world.send(get("/a", &[("cookie", "x=y; sid=one")])).await, "miss"));
    assert!(is(&two.world.send(get("/b", &[("cookie", "sid=one")])).await, "hit"));
    assert_eq!(two.asked(), 1);
    assert!(is(&two.world.send(get("/b", &[("cookie", "sid=two")])).await, "miss"), "another session");
    let without = two.world.send(get("/b", &[])).await;
    assert!(!without.body.contains("cache-status"), "no session: {}", without.body);
    two.world.send(get("/special/1", &[("cookie", "sid=one")])).await;
    assert_eq!(two.asked(), 4, "the longest prefix counts, and its cookie is another");
    assert!(is(
        &two.world.send(get("/b", &[("cookie", "sid=one"), ("fly-replay-cache-control", "skip")])).await,
        "bypass"
    ));
}

#[tokio::test]
async fn a_session_may_be_told_by_a_field_and_an_order_for_one_request_is_not_remembered() {
    let front = answers_with(&[("fly-replay", "app=back;state=mine")]);
    let two = Two::start(front, mirror(), session(SessionKind::Header, "x-session")).await;
    for asked in 1..3 {
        let answer = two.world.send(get("/", &[("x-session", "one")])).await;
        assert!(!answer.body.contains("cache-status"), "{}", answer.body);
        assert_eq!(two.asked(), asked);
    }
    let front = answers_with(&[("fly-replay", "app=back")]);
    let two = Two::start(front, mirror(), session(SessionKind::Header, "x-session")).await;
    two.world.send(get("/", &[("x-session", "one")])).await;
    assert!(is(&two.world.send(get("/", &[("x-session", "one")])).await, "hit"));
}

#[tokio::test]
async fn the_rule_to_remember_a_replay_by_is_not_the_clients_business() {
    let answer = Router::new().fallback(|| async {
        let answer = Response::builder().header("fly-replay-cache", "/").header("fly-replay-cache-ttl-secs", "60");
        answer.body(Body::from("plain")).unwrap()
    });
    let two = Two::start(answer, mirror(), HttpOptions::default()).await;
    let answer = two.world.send(get("/", &[])).await;
    assert!(answer.body == "plain" && answer.headers.keys().all(|name| !name.as_str().contains("replay")));
}
