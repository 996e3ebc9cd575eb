//! Machines by request, in the Machines API's shape.

use std::collections::BTreeSet;

use crate::support::{Client, PATIENCE, Running, World};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const MACHINES: &str = "/v1/apps/web/machines";

async fn app() -> (World, Running, Client) {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    (world, running, client)
}

async fn create(client: &Client, extra: Value) -> Value {
    let mut request = json!({"config": {"image": "good:v1"}});
    request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    client.post(MACHINES, request).await.ok()
}

fn path(machine: &Value, rest: &str) -> String {
    format!("{MACHINES}/{}{rest}", machine["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_machine_is_made_shown_listed_and_destroyed() {
    let (world, _running, client) = app().await;
    let machine =
        create(&client, json!({"name": "first", "config": {"image": "good:v1", "metadata": {"role": "db"}}})).await;
    assert_eq!(machine["name"], "first");
    assert_eq!(machine["region"], "local");
    assert_eq!(machine["instance_id"], machine["version"]);
    assert_eq!(machine["id"].as_str().unwrap().len(), 14);
    let shown = client.get(&path(&machine, "")).await.ok();
    assert_eq!(shown["state"], "started");
    assert_eq!(shown["events"][0]["type"], "start", "newest first");
    let other = create(&client, json!({"skip_launch": true, "skip_service_registration": true})).await;
    assert_eq!(other["state"], "created");
    assert_eq!(other["cordoned"], true);

    let ids = async |query: &str| {
        let list = client.get(&format!("{MACHINES}?{query}")).await.ok();
        list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (first, second) = (machine["id"].as_str().unwrap().to_owned(), other["id"].as_str().unwrap().to_owned());
    assert_eq!(ids("").await, BTreeSet::from([first.clone(), second.clone()]));
    assert_eq!(ids("state=created").await, BTreeSet::from([second.clone()]));
    assert_eq!(ids("metadata.role=db").await, BTreeSet::from([first.clone()]));
    assert!(ids("region=ams").await.is_empty());

    let refused = client.delete(&path(&machine, "")).await.refused(412);
    assert!(refused.contains("stop it first"), "{refused}");
    client.delete(&path(&machine, "?force=true")).await.ok();
    client.delete(&path(&machine, "?force=true")).await.ok();
    assert_eq!(ids("").await, BTreeSet::from([second.clone()]));
    assert_eq!(ids("include_deleted=true").await, BTreeSet::from([first, second]));
    assert_eq!(client.get(&path(&machine, "")).await.ok()["state"], "destroyed");
    assert_eq!(world.host.machines().len(), 1);
}

#[tokio::test]
async fn an_update_makes_a_new_version_and_refuses_a_stale_one() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    let update = json!({"config": {"image": "good:v2"}, "current_version": machine["version"]});
    let updated = client.post(&path(&machine, ""), update.clone()).await.ok();
    assert_ne!(updated["version"], machine["version"]);
    assert_eq!(updated["state"], "started");
    let refused = client.post(&path(&machine, ""), update).await.refused(409);
    assert!(refused.contains("by now"), "{refused}");
    let versions = client.get(&path(&machine, "/versions")).await.ok();
    let images: Vec<_> = versions.as_array().unwrap().iter().map(|one| one["user_config"]["image"].clone()).collect();
    assert_eq!(images, ["good:v2", "good:v1"]);
    let refused = client.post(&path(&machine, ""), json!({"config": {"image": "a"}, "name": "x"})).await.refused(422);
    assert!(refused.contains("cannot be changed"), "{refused}");
}

#[tokio::test]
async fn what_the_host_refuses_was_never_there() {
    let (world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    world.host.lose(&machine["id"].as_str().unwrap().parse().unwrap());
    client.post(&path(&machine, ""), json!({"config": {"image": "good:v2"}})).await.refused(404);
    assert_eq!(client.get(&path(&machine, "")).await.ok()["version"], machine["version"]);
}

#[tokio::test]
async fn start_stop_restart_signal_and_cordon() {
    let (world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    let state = async || client.get(&path(&machine, "")).await.ok()["state"].clone();
    client.post(&path(&machine, "/stop"), json!({"signal": "SIGTERM", "timeout": "5s"})).await.ok();
    assert_eq!(state().await, "stopped");
    let started = client.post(&path(&machine, "/start"), json!(null)).await.ok();
    assert_eq!(started["previous_state"], "stopped");
    client.post(&path(&machine, "/restart?timeout=1s&force_stop=true"), json!(null)).await.ok();
    assert_eq!(state().await, "started");
    client.post(&path(&machine, "/signal"), json!({"signal": 1})).await.ok();
    let events = client.get(&path(&machine, "/events?limit=1")).await.ok();
    assert_eq!(events[0]["type"], "signal SIGHUP");
    client.post(&path(&machine, "/signal"), json!({"signal": "NOPE"})).await.refused(422);
    client.post(&path(&machine, "/cordon"), json!(null)).await.ok();
    assert_eq!(world.host.ready(), 0);
    client.post(&path(&machine, "/uncordon"), json!(null)).await.ok();
    assert_eq!(world.host.ready(), 1);
    client.post(&path(&machine, "/suspend"), json!(null)).await.ok();
    assert_eq!(state().await, "suspended");
    client.get(&path(&machine, "/wait?state=suspended")).await.ok();
    client.post(&path(&machine, "/start"), json!(null)).await.ok();
    assert_eq!(state().await, "started");
    client.post(&path(&machine, "/stop"), json!({"timeout": "10m"})).await.refused(422);
}

#[tokio::test]
async fn waiting_ends_with_the_state_or_says_why_not() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    let wait = async |query: &str| client.get(&path(&machine, &format!("/wait?{query}"))).await;
    assert_eq!(wait("").await.ok()["state"], "started");
    assert_eq!(wait("state=stopped&state=started").await.ok()["ok"], true);
    assert_eq!(wait("state=settled").await.ok()["version"], machine["version"]);
    let refused = wait("state=stopped&timeout=1").await.refused(408);
    assert!(refused.contains("is started, not stopped"), "{refused}");
    wait("state=started&version=01ARZ3NDEKTSV4RRFFQ69G5FAV&timeout=1").await.refused(408);
    wait("state=nonsense").await.refused(400);

    let waiting = {
        let (client, path) = (client.clone(), path(&machine, "/wait?state=stopped,destroyed"));
        tokio::spawn(async move { client.get(&path).await })
    };
    client.post(&path(&machine, "/stop"), json!(null)).await.ok();
    let state = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap().ok()["state"].clone();
    assert_eq!(state, "stopped");
    client.delete(&path(&machine, "")).await.ok();
    assert_eq!(wait("state=destroyed").await.ok()["state"], "destroyed");
    let refused = wait("state=started").await.refused(400);
    assert!(refused.contains("machine failed to reach desired state"), "{refused}");
    client.get(&format!("{MACHINES}/00000000000000/wait")).await.refused(404);

    let broken = create(&client, json!({"config": {"image": "broken"}})).await;
    let refused = client.get(&path(&broken, "/wait?state=started")).await.refused(400);
    assert!(refused.contains("the kernel does not boot"), "{refused}");
}

#[tokio::test]
async fn a_lease_keeps_everyone_else_away() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    client.get(&path(&machine, "/lease")).await.refused(404);
    let lease = client.post(&path(&machine, "/lease?ttl=60"), json!({"description": "mine"})).await;
    assert_eq!(lease.status, 201);
    let lease = lease.ok();
    assert_eq!(lease["status"], "success");
    let nonce = lease["data"]["nonce"].as_str().unwrap();
    assert!(client.get(&path(&machine, "/lease")).await.ok()["data"]["nonce"].is_null(), "only its holder knows it");

    let stranger = client.with_nonce("guess");
    for client in [&client, &stranger] {
        for call in ["stop", "start", "restart", "cordon", "uncordon"] {
            let refused = client.post(&path(&machine, &format!("/{call}")), json!(null)).await.refused(409);
            assert!(refused.contains("lease currently held by admin"), "{call}: {refused}");
        }
        client.post(&path(&machine, ""), json!({"config": {"image": "good:v2"}})).await.refused(409);
        client.post(&path(&machine, "/signal"), json!({"signal": 1})).await.refused(409);
        client.post(&path(&machine, "/metadata/a"), json!({"value": "b"})).await.refused(409);
        client.delete(&path(&machine, "?force=true")).await.refused(409);
        client.post(&path(&machine, "/lease"), json!({})).await.refused(409);
        client.delete(&path(&machine, "/lease")).await.refused(409);
    }
    let holder = client.with_nonce(nonce);
    let again = holder.post(&path(&machine, "/lease?ttl=120"), json!({})).await.ok();
    assert_eq!(again["data"]["nonce"], nonce, "a lease that is extended keeps its nonce");
    assert!(again["data"]["expires_at"].as_i64() > lease["data"]["expires_at"].as_i64());
    holder.post(&path(&machine, "/stop"), json!(null)).await.ok();
    holder.delete(&path(&machine, "/lease")).await.ok();
    client.post(&path(&machine, "/start"), json!(null)).await.ok();
    let refused = holder.post(&path(&machine, "/lease"), json!({})).await.refused(404);
    assert!(refused.contains("lease not found"), "{refused}");
}

#[tokio::test]
async fn a_machine_may_be_born_leased() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({"lease_ttl": 60})).await;
    client.post(&path(&machine, "/stop"), json!(null)).await.refused(409);
    client.with_nonce(machine["nonce"].as_str().unwrap()).post(&path(&machine, "/stop"), json!(null)).await.ok();
}

#[tokio::test]
async fn labels_change_without_a_new_version() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    assert_eq!(client.post(&path(&machine, "/metadata/tier"), json!({"value": "gold"})).await.status, 204);
    assert_eq!(client.get(&path(&machine, "/metadata")).await.ok(), json!({"tier": "gold"}));
    let shown = client.get(&path(&machine, "")).await.ok();
    assert_eq!(shown["config"]["metadata"]["tier"], "gold");
    assert_eq!(shown["version"], machine["version"]);
    assert_eq!(client.delete(&path(&machine, "/metadata/tier")).await.status, 204);
    assert_eq!(client.get(&path(&machine, "/metadata")).await.ok(), json!({}));
}

#[tokio::test]
async fn a_command_runs_to_its_end() {
    let (_world, _running, client) = app().await;
    let machine = create(&client, json!({})).await;
    let exec = async |body: Value| client.post(&path(&machine, "/exec"), body).await;
    let said = exec(json!({"cmd": "say 'two words'", "stdin": "hello"})).await.ok();
    assert_eq!(said, json!({"exit_code": 7, "exit_signal": 0, "stdout": "hello", "stderr": "say two words"}));
    let said = exec(json!({"command": ["say", "it"]})).await.ok();
    assert_eq!(said["stderr"], "say it");
    exec(json!({"cmd": "say 'it"})).await.refused(422);
    exec(json!({})).await.refused(422);
    let processes = client.get(&path(&machine, "/ps")).await.ok();
    assert_eq!(processes[0]["pid"], 2);
    client.post(&path(&machine, "/stop"), json!(null)).await.ok();
    exec(json!({"cmd": "say"})).await.refused(412);
}

#[tokio::test]
async fn a_command_streams_over_a_web_socket() {
    let (_world, running, client) = app().await;
    let machine = create(&client, json!({})).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = running.control.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let url = format!("ws://{address}{}", path(&machine, "/exec/stream"));
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {}", client.token()).parse().unwrap());
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    // More than fits into all the queues on the way, so that both ways must flow at the same time.
    let chunk = vec![b'x'; 64 << 10];
    let chunks = 200;
    let (mut up, mut down) = socket.split();
    let run = json!({"type": "run", "command": ["cat"], "tty": null});
    let talk = async {
        up.send(Message::text(run.to_string())).await.unwrap();
        for _ in 0..chunks {
            up.send(Message::binary(chunk.clone())).await.unwrap();
        }
        up.send(Message::text(json!({"type": "eof"}).to_string())).await.unwrap();
    };
    let listen = async {
        let (mut bytes, mut words) = (0, Vec::new());
        while let Some(Ok(message)) = down.next().await {
            match message {
                Message::Binary(said) if said[0] == 1 => bytes += said.len() - 1,
                Message::Binary(said) => words.push(String::from_utf8_lossy(&said).into_owned()),
                Message::Text(text) => words.push(text.to_string()),
                _ => {}
            }
        }
        (bytes, words)
    };
    let both = async { tokio::join!(talk, listen).1 };
    let (bytes, words) = tokio::time::timeout(PATIENCE, both).await.unwrap();
    assert_eq!(bytes, chunks * chunk.len());
    assert_eq!(words, ["\u{2}cat", r#"{"type":"exit","code":7,"signal":0}"#]);
}

#[tokio::test]
async fn a_machine_that_nobody_can_make_is_refused_in_full() {
    let (world, _running, client) = app().await;
    let make = async |body: Value| client.post(MACHINES, body).await;
    let config = json!({"image": "a", "guest": {"cpus": 3}, "env": {"FLY_X": "1"}});
    let refused = make(json!({"config": config})).await.refused(422);
    assert!(refused.contains("config.guest") && refused.contains("config.env"), "{refused}");
    let answer = make(json!({"config": {"image": "a", "schedule": "daily"}})).await;
    assert_eq!(answer.body["status"], "unsupported");
    assert!(answer.refused(422).contains("schedule"));
    make(json!({"config": {"image": "a"}, "region": "ams"})).await.refused(422);
    make(json!({"config": {"image": "missing"}})).await.refused(422);
    make(json!({"config": {"image": "a"}, "min_secrets_version": 1})).await.refused(409);
    assert!(world.host.machines().is_empty());
}

#[tokio::test]
async fn a_machine_that_destroyed_itself_is_not_made_again() {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    let machine = create(&client, json!({"config": {"image": "good", "auto_destroy": true}})).await;
    world.host.lose(&machine["id"].as_str().unwrap().parse().unwrap());
    running.kill().await;
    let next = world.start().await;
    let client = next.client(client.token());
    let gone = client.get(&path(&machine, "/wait?state=destroyed&timeout=60")).await.ok();
    assert_eq!(gone["state"], "destroyed");
    assert!(world.host.machines().is_empty());
}
