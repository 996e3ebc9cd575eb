//! Host names that apps bring along.

use std::sync::atomic::Ordering::SeqCst;

use api::internal::{HostnameView, IssueError};
use serde_json::{Value, json};

use crate::support::{Client, PATIENCE, Running, World};

const NAME: &str = "shop.example.com";

/// A control plane with apps.
async fn start(world: &World, apps: &[&str]) -> (Running, Client) {
    let (running, client) = world.start_first().await;
    for app in apps {
        client.post("/v1/apps", json!({ "name": app, "org_slug": "personal" })).await.ok();
    }
    (running, client)
}

fn path(app: &str, rest: &str) -> String {
    format!("/v1/apps/{app}/certificates{rest}")
}

async fn add(client: &Client, app: &str, hostname: &str) -> Value {
    client.post(&path(app, "/acme"), json!({ "hostname": hostname })).await.ok()
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes to be so");
}

/// Waits until the edge is told something.
async fn told(running: &Running, is_so: impl FnMut(&std::sync::Arc<HostnameView>) -> bool) {
    let mut views = running.control.hostnames();
    tokio::time::timeout(PATIENCE, views.wait_for(is_so)).await.expect("the edge is told").unwrap();
}

fn owner(view: &HostnameView) -> Option<(String, usize)> {
    view.rows.get(&NAME.parse::<model::Hostname>().unwrap()).map(|row| (row.app.to_string(), row.certificates.len()))
}

#[tokio::test]
async fn a_name_is_served_once_dns_says_whose_it_is_and_its_certificate_is_ordered_and_renewed() {
    let world = World::new();
    *world.issuer.life.lock().unwrap() = Some(3000);
    let (running, client) = start(&world, &["shop"]).await;
    let added = add(&client, "shop", " Shop.Example.COM. ").await;
    assert_eq!((&added["hostname"], &added["status"]), (&json!(NAME), &json!("pending_ownership")));
    assert_eq!(added["dns_requirements"]["a"], json!(["203.0.113.7"]));
    assert_eq!(added["dns_requirements"]["ownership"]["app_value"], "app-shop");
    assert_eq!(owner(&running.control.hostnames().borrow()), None);
    world.issuer.says(NAME, |dns| dns.a = vec!["203.0.113.7".parse().unwrap()]);
    let checked = client.post(&path("shop", "/shop.example.com/check"), json!({})).await.ok();
    assert_eq!(checked["dns_records"]["a"], json!(["203.0.113.7"]));
    told(&running, |view| owner(view) == Some(("shop".into(), 1))).await;
    let shown = client.get(&path("shop", "/shop.example.com")).await.ok();
    assert_eq!((&shown["status"], &shown["configured"]), (&json!("active"), &json!(true)));
    assert_eq!(shown["certificates"][0]["source"], "acme");
    // The key is nowhere in the clear.
    let key = format!("key of {NAME}");
    let stored = world.database();
    assert!(!stored.windows(key.len()).any(|bytes| bytes == key.as_bytes()));
    let (orders, first) = (world.issuer.orders(), running.control.hostnames().borrow().clone());
    told(&running, |view| view.rows != first.rows && owner(view) == Some(("shop".into(), 1))).await;
    assert!(world.issuer.orders() > orders, "it is renewed before its end");
}

#[tokio::test]
async fn a_record_that_names_the_app_wins_over_an_address_that_all_share() {
    let world = World::new();
    let (running, client) = start(&world, &["thief", "shop"]).await;
    world.issuer.says(NAME, |dns| dns.a = vec!["203.0.113.7".parse().unwrap()]);
    add(&client, "thief", NAME).await;
    told(&running, |view| owner(view) == Some(("thief".into(), 1))).await;
    add(&client, "shop", NAME).await;
    let shop = client.post(&path("shop", "/shop.example.com/check"), json!({})).await.ok();
    assert_eq!(shop["status"], "pending_ownership", "both lead here; who came first has it");
    world.issuer.says(NAME, |dns| dns.ownership_txt = vec!["app-shop".into()]);
    client.post(&path("shop", "/shop.example.com/check"), json!({})).await.ok();
    told(&running, |view| owner(view) == Some(("shop".into(), 1))).await;
    assert_eq!(client.get(&path("thief", "/shop.example.com")).await.ok()["status"], "pending_ownership");
    // What DNS no longer says is not taken away.
    world.issuer.dns.lock().unwrap().clear();
    client.post(&path("shop", "/shop.example.com/check"), json!({})).await.ok();
    assert_eq!(owner(&running.control.hostnames().borrow()), Some(("shop".into(), 1)));
}

#[tokio::test]
async fn an_imported_certificate_is_preferred_and_each_kind_goes_by_itself() {
    let world = World::new();
    let (running, client) = start(&world, &["shop"]).await;
    world.issuer.says(NAME, |dns| dns.ownership_txt = vec!["org-personal".into()]);
    let import = |chain: &str, key: &str| json!({ "hostname": NAME, "fullchain": chain, "private_key": key });
    client.post(&path("shop", "/custom"), import("other.example.com", "key")).await.refused(422);
    client.post(&path("shop", "/custom"), import(NAME, "key of other")).await.refused(422);
    client.post(&path("shop", "/custom"), import(NAME, &format!("key of {NAME}"))).await.ok();
    told(&running, |view| owner(view) == Some(("shop".into(), 1))).await;
    add(&client, "shop", NAME).await;
    told(&running, |view| owner(view) == Some(("shop".into(), 2))).await;
    let shown = client.get(&path("shop", "/shop.example.com")).await.ok();
    let sources = |shown: &Value| {
        shown["certificates"].as_array().unwrap().iter().map(|it| it["source"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(sources(&shown), ["custom", "acme"]);
    let left = client.delete(&path("shop", "/shop.example.com/custom")).await.ok();
    assert_eq!(sources(&left), ["acme"]);
    let left = client.delete(&path("shop", "/shop.example.com/acme")).await.ok();
    assert_eq!((sources(&left), &left["acme_requested"]), (vec![], &json!(false)));
    client.delete(&path("shop", "/shop.example.com")).await.ok();
    told(&running, |view| view.rows.is_empty()).await;
    client.get(&path("shop", "/shop.example.com")).await.refused(404);
}

#[tokio::test]
async fn a_failed_order_is_told_with_its_remedy_and_an_issuer_that_limits_is_left_alone() {
    let world = World::new();
    let (_running, client) = start(&world, &["shop"]).await;
    world.issuer.says(NAME, |dns| dns.cname = vec!["shop.dunlin.localhost.".into()]);
    let later = Some(model::Timestamp(kit::clock::unix_ms() + 3_600_000));
    *world.issuer.refuses.lock().unwrap() = Some(IssueError::RateLimited { reason: "too many".into(), until: later });
    add(&client, "shop", NAME).await;
    let shown = async || client.get(&path("shop", "/shop.example.com")).await.ok();
    let told = async { while !shown().await["validation_errors"].is_array() {} };
    tokio::time::timeout(PATIENCE, told).await.expect("the failure is told");
    let shown = shown().await;
    assert_eq!(
        (&shown["status"], &shown["validation_errors"][0]["code"]),
        (&json!("pending_validation"), &json!("rate_limited"))
    );
    assert!(shown["rate_limited_until"].is_string());
    // Whoever is in a hurry has it looked at, but not ordered; what is looked at again has been decided about before.
    for _ in 0..2 {
        let looks = world.issuer.looks.load(SeqCst);
        client.post(&path("shop", "/shop.example.com/check"), json!({})).await.ok();
        add(&client, "shop", NAME).await;
        until(|| world.issuer.looks.load(SeqCst) >= looks + 2).await;
    }
    assert_eq!(world.issuer.orders(), 1);
}

fn is_ordered(shown: &Value) -> bool {
    shown["certificates"].as_array().is_some_and(|certificates| !certificates.is_empty())
}

/// Waits until a name's certificate is ordered, or it is told why not.
async fn ordered_or_told(client: &Client, app: &str, hostname: &str) -> Value {
    let asking = async {
        loop {
            let shown = client.get(&path(app, &format!("/{hostname}"))).await.ok();
            if is_ordered(&shown) || shown["validation_errors"].is_array() {
                return shown;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("it is ordered, or it is told why not")
}

#[tokio::test]
async fn a_name_that_is_removed_and_added_again_has_been_ordered_as_often() {
    let world = World::new();
    let (_running, client) = start(&world, &["shop"]).await;
    world.issuer.says(NAME, |dns| dns.ownership_txt = vec!["app-shop".into()]);
    let failed = IssueError::Validation { method: "http-01", reason: "it answers 404".into() };
    *world.issuer.refuses.lock().unwrap() = Some(failed);
    for (orders, code) in (1..=5).map(|orders| (orders, "validation_failed")).chain([(5, "rate_limited")]) {
        add(&client, "shop", NAME).await;
        let shown = ordered_or_told(&client, "shop", NAME).await;
        assert_eq!((&shown["validation_errors"][0]["code"], world.issuer.orders()), (&json!(code), orders));
        client.delete(&path("shop", "/shop.example.com")).await.ok();
    }
    // What no issuer saw does not count, and another name has orders of its own.
    *world.issuer.refuses.lock().unwrap() = Some(IssueError::Unavailable("no route".into()));
    world.issuer.says("other.example.com", |dns| dns.ownership_txt = vec!["app-shop".into()]);
    for _ in 0..6 {
        add(&client, "shop", "other.example.com").await;
        let shown = ordered_or_told(&client, "shop", "other.example.com").await;
        assert_eq!(shown["validation_errors"][0]["code"], "unavailable");
        client.delete(&path("shop", "/other.example.com")).await.ok();
    }
}

#[tokio::test]
async fn one_organization_does_not_use_up_what_the_issuer_takes_from_all() {
    let world = World::new();
    let (running, client) = start(&world, &["shop"]).await;
    client.post("/v1/orgs", json!({ "slug": "birds" })).await.ok();
    client.post("/v1/apps", json!({ "name": "nest", "org_slug": "birds" })).await.ok();
    let name = |number: u32| format!("n{number}.example.com");
    for number in 0..=101 {
        world.issuer.says(&name(number), |dns| dns.ownership_txt = vec!["app-shop".into(), "app-nest".into()]);
    }
    for number in 0..=100 {
        add(&client, "shop", &name(number)).await;
    }
    told(&running, |view| view.rows.values().filter(|row| !row.certificates.is_empty()).count() == 100).await;
    let mut limited = 0;
    for number in 0..=100 {
        let shown = ordered_or_told(&client, "shop", &name(number)).await;
        limited += u32::from(shown["validation_errors"][0]["code"] == "rate_limited");
    }
    assert_eq!((limited, world.issuer.orders()), (1, 100));
    add(&client, "nest", &name(101)).await;
    assert!(is_ordered(&ordered_or_told(&client, "nest", &name(101)).await));
}

#[tokio::test]
async fn an_address_proves_nothing_below_a_name_of_another_organization() {
    let world = World::new();
    let (running, client) = start(&world, &["shop"]).await;
    world.issuer.says("*.example.com", |dns| dns.ownership_txt = vec!["org-personal".into()]);
    add(&client, "shop", "*.example.com").await;
    told(&running, |view| view.rows.len() == 1).await;
    client.post("/v1/orgs", json!({ "slug": "birds" })).await.ok();
    for (app, org) in [("nest", "birds"), ("blog", "personal")] {
        client.post("/v1/apps", json!({ "name": app, "org_slug": org })).await.ok();
    }
    world.issuer.says(NAME, |dns| dns.a = vec!["203.0.113.7".parse().unwrap()]);
    add(&client, "nest", NAME).await;
    let nest = client.post(&path("nest", "/shop.example.com/check"), json!({})).await.ok();
    assert_eq!(nest["status"], "pending_ownership");
    add(&client, "blog", NAME).await;
    told(&running, |view| owner(view).is_some_and(|(app, _)| app == "blog")).await;
    world.issuer.says(NAME, |dns| dns.ownership_txt = vec!["app-nest".into()]);
    client.post(&path("nest", "/shop.example.com/check"), json!({})).await.ok();
    told(&running, |view| owner(view).is_some_and(|(app, _)| app == "nest")).await;
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_and_lists_come_in_pages() {
    let world = World::new();
    let (_running, client) = start(&world, &["shop"]).await;
    for bad in [
        "",
        "shop",
        "shop.dunlin.localhost",
        "*.dunlin.localhost",
        "dunlin.localhost",
        "a..b",
        "10.0.0.1",
        "a b.example.com",
    ] {
        client.post(&path("shop", "/acme"), json!({ "hostname": bad })).await.refused(422);
    }
    for name in ["*.example.com", "a.example.com", "b.example.com", "b.example.org"] {
        add(&client, "shop", name).await;
    }
    let list = |query: &str| {
        let at = path("shop", query);
        let client = &client;
        async move { client.get(&at).await.ok() }
    };
    let first = list("?limit=2&filter=example.com").await;
    assert_eq!((first["total_count"].clone(), first["certificates"].as_array().unwrap().len()), (json!(3), 2));
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    let rest = list(&format!("?limit=2&filter=example.com&cursor={cursor}")).await;
    assert_eq!(rest["certificates"][0]["hostname"], "b.example.com");
    assert!(rest["next_cursor"].is_null());
    assert_eq!(client.get(&path("shop", "/%2A.example.com")).await.ok()["hostname"], "*.example.com");
}
