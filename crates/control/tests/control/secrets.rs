//! Secrets: they go in, reach machines, and are never seen again.

use crate::support::World;
use serde_json::json;

const SECRET: &str = "correct-horse-battery-staple";

#[tokio::test]
async fn a_value_is_never_shown_and_never_on_disk_in_plain() {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    let set = client.post("/v1/apps/web/secrets", json!({"values": {"DATABASE_URL": SECRET}})).await;
    let list = client.get("/v1/apps/web/secrets?show_secrets=true").await;
    let one = client.get("/v1/apps/web/secrets/DATABASE_URL").await;
    client.deployed("web", "", "good:v1").await;
    let machines = client.get("/v1/apps/web/machines").await;
    let releases = client.get("/v1/apps/web/releases").await;
    for answer in [set, list, one, machines, releases] {
        assert!(answer.status.is_success() && !answer.text.contains(SECRET), "{}", answer.text);
    }
    let machine = world.host.machines().into_values().next().unwrap();
    let key = kit::seal::SealingKey::load_or_create(&world.path().join("sealing.key")).unwrap();
    let plain = key.open("secrets/web", &machine.spec.secrets.sealed).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&plain).unwrap(), json!({"DATABASE_URL": SECRET}));
    running.kill().await;
    let database = world.database();
    let mut windows = database.windows(SECRET.len());
    assert!(!windows.any(|window| window == SECRET.as_bytes()), "the database holds the secret in plain");
    assert!(!hex::encode(&database).contains(&hex::encode(SECRET)));
}

#[tokio::test]
async fn versions_grow_with_changes_only_and_all_or_none() {
    let world = World::new();
    let (_running, client) = world.start_first().await;
    client.create_app("web").await;
    let path = "/v1/apps/web/secrets";
    let set = async |values: serde_json::Value| client.post(path, json!({ "values": values })).await;
    let first = set(json!({"A": "1", "B": "2"})).await.ok();
    assert_eq!(first["version"], 1);
    let same = set(json!({"A": "1", "C": null})).await.ok();
    assert_eq!(same, first, "what changes nothing makes no version");
    let second = set(json!({"A": "other", "B": null})).await.ok();
    assert_eq!(second["version"], 2);
    let names: Vec<_> = second["secrets"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["A"]);
    assert_ne!(second["secrets"][0]["digest"], first["secrets"][0]["digest"]);
    assert_eq!(second["secrets"][0]["created_at"], first["secrets"][0]["created_at"]);

    let refused = set(json!({"GOOD": "1", "1BAD": "2", "FLY_X": "3"})).await.refused(422);
    assert!(refused.contains("1BAD") && refused.contains("FLY_X"), "{refused}");
    assert_eq!(client.get(path).await.ok(), second, "none of them was set");
    set(json!({"BIG": "x".repeat(70_000)})).await.refused(422);

    client.post(&format!("{path}/D"), json!({"value": "4"})).await.ok();
    let last = client.delete(&format!("{path}/A")).await.ok();
    assert_eq!(last["version"], 4);
    assert_eq!(last["secrets"][0]["name"], "D");
}
