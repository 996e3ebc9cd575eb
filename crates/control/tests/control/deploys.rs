//! Deployments as a client sees them.

use crate::support::{Client, PATIENCE, Running, World};
use model::machine::MachineState;
use serde_json::{Value, json};

const WEB: &str = "[http_service]\ninternal_port = 8080\n";
const CHECKED: &str = "[http_service]\ninternal_port = 8080\n[[http_service.checks]]\npath = \"/\"\n\
                       [deploy]\nwait_timeout = \"1s\"\n";
const WORKER: &str = "kill_signal = \"SIGTERM\"\n";
const VOLUME: &str = "[http_service]\ninternal_port = 8080\n[mounts]\nsource = \"data\"\ndestination = \"/data\"\n";
const GROUPS: &str = "[processes]\nweb = \"serve\"\nworker = \"work\"\n\
                      [http_service]\ninternal_port = 8080\nprocesses = [\"web\"]\n";

async fn app() -> (World, Running, Client) {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    (world, running, client)
}

fn metadata<'m>(machine: &'m Value, key: &str) -> &'m str {
    machine["config"]["metadata"][key].as_str().unwrap_or_default()
}

#[tokio::test]
async fn the_first_deployment_makes_one_machine_and_tells_the_address() {
    let (world, _running, client) = app().await;
    let deployment = client.deployed("web", WEB, "good:v1").await;
    assert_eq!(deployment["status"], "complete", "{deployment}");
    assert_eq!(deployment["release"], 1);
    assert_eq!(deployment["url"], "http://web.dunlin.localhost:8080/");
    let machines = client.machines("web").await;
    assert_eq!(machines.len(), 1);
    assert_eq!(machines[0]["state"], "started");
    assert_eq!(machines[0]["cordoned"], false);
    assert_eq!(metadata(&machines[0], "fly_platform_version"), "v2");
    assert_eq!(metadata(&machines[0], "fly_process_group"), "app");
    assert_eq!(metadata(&machines[0], "fly_release_version"), "1");
    let releases = client.get("/v1/apps/web/releases").await.ok();
    assert_eq!(releases[0]["status"], "complete");
    assert_eq!(releases[0]["current"], true);
    assert_eq!(client.get("/v1/apps/web").await.ok()["status"], "deployed");
    let told = world.logs.0.lock().unwrap().iter().any(|record| record.message == "deployment of v1: the release runs");
    assert!(told, "the app's log tells of its deployments");
}

#[tokio::test]
async fn a_later_deployment_replaces_each_machine_start_first() {
    let (world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    let scaled = client.post("/v1/apps/web/scale", json!({"counts": {"app": 3}})).await.ok();
    client.ended("web", scaled["id"].as_str().unwrap()).await;
    let before = client.machine_ids("web").await;
    assert_eq!(before.len(), 3);
    world.host.serving.watch(world.host.ready());
    let deployment = client.deployed("web", WEB, "good:v2").await;
    assert_eq!(deployment["status"], "complete", "{deployment}");
    let after = client.machine_ids("web").await;
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    assert_eq!(world.host.serving.least(), 3, "at every moment three machines served");
    assert_eq!(world.host.drained.lock().unwrap().len(), 3, "each old machine was drained");
}

#[tokio::test]
async fn a_plan_shows_what_would_happen_and_changes_nothing() {
    let (world, _running, client) = app().await;
    let plan = client.post("/v1/apps/web/plan", json!({"config": VOLUME, "image": "good:v1"})).await.ok();
    assert_eq!(plan["steps"][0]["action"], "create");
    assert!(world.host.machines().is_empty());
    client.deployed("web", VOLUME, "good:v1").await;
    let plan = client.post("/v1/apps/web/plan", json!({"config": VOLUME, "image": "good:v2"})).await.ok();
    assert_eq!(plan["steps"][0]["action"], "update");
    let warning = plan["warnings"][0].as_str().unwrap();
    assert!(warning.contains("volume data can be used by one machine at a time"), "{warning}");
}

#[tokio::test]
async fn a_machine_with_a_volume_keeps_its_identity() {
    let (_world, _running, client) = app().await;
    client.deployed("web", VOLUME, "good:v1").await;
    let before = client.machine_ids("web").await;
    let deployment = client.deployed("web", VOLUME, "good:v2").await;
    assert_eq!(deployment["status"], "complete", "{deployment}");
    let after = client.machines("web").await;
    assert_eq!(after[0]["id"], before[0].as_str());
    assert_eq!(after[0]["config"]["image"], "good:v2");
    let refused = client.post("/v1/apps/web/scale", json!({"counts": {"app": 2}})).await.refused(422);
    assert!(refused.contains("one machine at a time"), "{refused}");
}

/// Deploys what works, then what does not; returns the failed deployment after checking that nothing is changed.
async fn failed(config: &str, image: &str) -> Value {
    let (world, _running, client) = app().await;
    client.deployed("web", config, "good:v1").await;
    let before = client.machines("web").await;
    world.host.serving.watch(world.host.ready());
    let deployment = client.deployed("web", config, image).await;
    assert_eq!(deployment["status"], "failed", "{deployment}");
    let after = client.machines("web").await;
    assert_eq!(after.len(), 1);
    for key in ["id", "version", "state", "cordoned"] {
        assert_eq!(after[0][key], before[0][key], "{key}");
    }
    let releases = client.get("/v1/apps/web/releases").await.ok();
    assert_eq!(releases[0]["status"], "failed");
    assert_eq!(releases[0]["reason"], deployment["failure"]["summary"]);
    assert_eq!(releases[1]["current"], true);
    if !config.contains("mounts") {
        assert_eq!(world.host.serving.least(), 1, "the old machine served all the while");
    }
    deployment["failure"].clone()
}

#[tokio::test]
async fn a_program_that_ends_is_undone_with_its_exit_code() {
    for config in [WEB, CHECKED, WORKER, VOLUME] {
        let failure = failed(config, "crash:v2").await;
        assert_eq!(failure["exit_code"], 3, "{failure}");
        assert!(failure["summary"].as_str().unwrap().contains("exit code 3"), "{failure}");
        assert!(failure["hint"].as_str().unwrap().contains("last lines"), "{failure}");
    }
}

#[tokio::test]
async fn a_program_killed_for_want_of_memory_is_told_to_get_more() {
    let failure = failed(WEB, "oom:v2").await;
    assert_eq!(failure["oom_killed"], true);
    assert!(failure["hint"].as_str().unwrap().contains("memory = \"512mb\""), "{failure}");
}

#[tokio::test]
async fn a_machine_that_does_not_start_is_undone_with_the_reason() {
    let failure = failed(WEB, "broken:v2").await;
    assert!(failure["summary"].as_str().unwrap().contains("the kernel does not boot"), "{failure}");
}

#[tokio::test]
async fn a_program_on_the_loopback_address_is_told_where_to_listen() {
    let failure = failed(WEB, "local:v2").await;
    assert_eq!(failure["listening"], json!(["tcp 127.0.0.1:8080"]));
    assert!(failure["hint"].as_str().unwrap().contains("bind 0.0.0.0:8080"), "{failure}");
}

#[tokio::test]
async fn a_program_on_another_port_is_told_which() {
    let failure = failed(&format!("{WEB}[deploy]\nwait_timeout = \"1s\"\n"), "deaf:v2").await;
    assert!(failure["hint"].as_str().unwrap().contains("set internal_port = 8081"), "{failure}");
}

#[tokio::test]
async fn checks_that_never_pass_are_undone_with_what_they_say() {
    let failure = failed(CHECKED, "sick:v2").await;
    let summary = failure["summary"].as_str().unwrap();
    assert!(summary.contains("servicecheck-00-http-8080") && summary.contains("connection refused"), "{failure}");
}

#[tokio::test]
async fn the_last_lines_of_a_failed_program_are_told() {
    let (world, _running, client) = app().await;
    // The fake host writes no lines of programs; these are written for whatever machine comes.
    let mut view = api::internal::Node::observe(&*world.host);
    let logs = world.logs.clone();
    tokio::spawn(async move {
        let view = view.wait_for(|view| !view.machines.is_empty()).await.unwrap().clone();
        let id = view.machines.keys().next().unwrap().clone();
        let record = json!({"timestamp_ns": 1, "app": "web", "machine": id, "region": "local", "source": "stderr",
                            "message": "DATABASE_URL is not set"});
        logs.0.lock().unwrap().push(serde_json::from_value(record).unwrap());
    });
    let deployment = client.deployed("web", CHECKED, "sick:v1").await;
    assert_eq!(deployment["failure"]["log_tail"], json!(["DATABASE_URL is not set"]), "{deployment}");
}

#[tokio::test]
async fn strategy_immediate_does_not_wait_for_health() {
    let (_world, _running, client) = app().await;
    let request = json!({"config": CHECKED, "image": "sick:v1", "strategy": "immediate"});
    let id = client.post("/v1/apps/web/deployments", request).await.ok()["id"].as_str().unwrap().to_owned();
    assert_eq!(client.ended("web", &id).await["status"], "complete");
}

#[tokio::test]
async fn rollback_brings_image_configuration_and_secrets_back() {
    let (world, _running, client) = app().await;
    client.post("/v1/apps/web/secrets", json!({"values": {"KEY": "old"}})).await.ok();
    client.deployed("web", "[env]\nMODE = \"one\"\n", "good:v1").await;
    client.post("/v1/apps/web/secrets", json!({"values": {"KEY": "new"}})).await.ok();
    client.deployed("web", "[env]\nMODE = \"two\"\n", "good:v2").await;
    let deployment = client.post("/v1/apps/web/rollback", json!({})).await.ok();
    let deployment = client.ended("web", deployment["id"].as_str().unwrap()).await;
    assert_eq!(deployment["status"], "complete", "{deployment}");
    assert_eq!(deployment["release"], 3);
    let machine = &client.machines("web").await[0];
    assert_eq!(machine["config"]["env"]["MODE"], "one");
    assert_eq!(machine["image_ref"]["tag"], "v1");
    let release = &client.get("/v1/apps/web/releases").await.ok()[0];
    assert_eq!(release["secrets_version"], 1);
    assert_eq!(release["description"], "rollback to v1");
    let machine = world.host.machines().into_values().next().unwrap();
    let key = kit::seal::SealingKey::load_or_create(&world.path().join("sealing.key")).unwrap();
    let plain = key.open("secrets/web", &machine.spec.secrets.sealed).unwrap();
    assert_eq!(plain, br#"{"KEY":"old"}"#);
}

#[tokio::test]
async fn a_release_that_never_ran_is_not_rolled_back_to() {
    let (_world, _running, client) = app().await;
    client.post("/v1/apps/web/rollback", json!({})).await.refused(409);
    client.deployed("web", WEB, "good:v1").await;
    client.deployed("web", WEB, "crash:v2").await;
    let refused = client.post("/v1/apps/web/rollback", json!({"version": 2})).await.refused(409);
    assert!(refused.contains("failed"), "{refused}");
    client.post("/v1/apps/web/rollback", json!({"version": 9})).await.refused(404);
}

#[tokio::test]
async fn secrets_reach_machines_with_their_own_deployment() {
    let (_world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    let list = client.post("/v1/apps/web/secrets", json!({"values": {"A": "1"}})).await.ok();
    assert_eq!((&list["version"], &list["deployed_version"]), (&json!(1), &json!(0)));
    let deployment = client.post("/v1/apps/web/secrets/deploy", json!(null)).await.ok();
    client.ended("web", deployment["id"].as_str().unwrap()).await;
    let list = client.get("/v1/apps/web/secrets").await.ok();
    assert_eq!((&list["version"], &list["deployed_version"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn scaling_makes_and_takes_machines_of_the_current_release() {
    let (world, _running, client) = app().await;
    client.post("/v1/apps/web/scale", json!({"counts": {"app": 2}})).await.refused(409);
    client.deployed("web", WEB, "good:v1").await;
    let first = client.machine_ids("web").await;
    let scale = async |count: u32| {
        let deployment = client.post("/v1/apps/web/scale", json!({"counts": {"app": count}})).await.ok();
        let deployment = client.ended("web", deployment["id"].as_str().unwrap()).await;
        assert_eq!(deployment["status"], "complete", "{deployment}");
    };
    scale(3).await;
    assert_eq!(world.host.ready(), 3);
    scale(1).await;
    assert_eq!(client.machine_ids("web").await, first, "the oldest stays");
    scale(0).await;
    assert!(client.machines("web").await.is_empty());
    client.deployed("web", WEB, "good:v2").await;
    assert!(client.machines("web").await.is_empty(), "none were wanted, so none are made");
    let releases = client.get("/v1/apps/web/releases").await.ok();
    assert_eq!(releases.as_array().unwrap().len(), 2, "scaling makes no release");
    let refused = client.post("/v1/apps/web/scale", json!({"counts": {"nope": 1}})).await.refused(422);
    assert!(refused.contains("no process group nope"), "{refused}");
}

#[tokio::test]
async fn a_failed_scale_leaves_the_current_release_as_it_is() {
    let (_world, _running, client) = app().await;
    client.deployed("web", WEB, "flaky:v1").await;
    let before = client.machine_ids("web").await;
    let scaled = client.post("/v1/apps/web/scale", json!({"counts": {"app": 2}})).await.ok();
    let scaled = client.ended("web", scaled["id"].as_str().unwrap()).await;
    assert_eq!(scaled["status"], "failed", "the second machine of this image crashes: {scaled}");
    assert_eq!(client.machine_ids("web").await, before);
    let release = &client.get("/v1/apps/web/releases").await.ok()[0];
    assert_eq!((&release["status"], &release["current"]), (&json!("complete"), &json!(true)));
}

#[tokio::test]
async fn a_group_that_is_gone_from_the_configuration_loses_its_machines() {
    let (_world, _running, client) = app().await;
    let deployment = client.deployed("web", GROUPS, "good:v1").await;
    assert_eq!(deployment["status"], "complete", "{deployment}");
    assert_eq!(client.machines("web").await.len(), 2);
    let one = "[processes]\nweb = \"serve\"\n[http_service]\ninternal_port = 8080\nprocesses = [\"web\"]\n";
    client.deployed("web", one, "good:v2").await;
    let machines = client.machines("web").await;
    assert_eq!(machines.len(), 1);
    assert_eq!(metadata(&machines[0], "fly_process_group"), "web");
}

#[tokio::test]
async fn machines_that_no_deployment_made_are_left_alone() {
    let (_world, _running, client) = app().await;
    let own = client.post("/v1/apps/web/machines", json!({"config": {"image": "good:own"}})).await.ok();
    client.deployed("web", WEB, "good:v1").await;
    client.deployed("web", WEB, "good:v2").await;
    let ids = client.machine_ids("web").await;
    assert_eq!(ids.len(), 2);
    assert!(ids.contains(&own["id"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn the_same_key_tells_of_the_same_deployment() {
    let (_world, _running, client) = app().await;
    let request = json!({"config": WEB, "image": "good:v1", "idempotency_key": "build-7"});
    let first = client.post("/v1/apps/web/deployments", request.clone()).await.ok();
    let second = client.post("/v1/apps/web/deployments", request).await.ok();
    assert_eq!(first["id"], second["id"]);
    client.ended("web", first["id"].as_str().unwrap()).await;
    assert_eq!(client.get("/v1/apps/web/releases").await.ok().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn deployments_of_an_app_come_one_after_another() {
    let (_world, _running, client) = app().await;
    let mut ids = Vec::new();
    for version in 1..=4 {
        ids.push(client.deploy("web", WEB, &format!("good:v{version}")).await);
    }
    for id in &ids {
        assert_eq!(client.ended("web", id).await["status"], "complete");
    }
    let machines = client.machines("web").await;
    assert_eq!(machines.len(), 1);
    assert_eq!(machines[0]["image_ref"]["tag"], "v4");
}

#[tokio::test]
async fn a_deployment_waits_for_a_lease_and_holds_its_own() {
    let (world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    let id = client.machine_ids("web").await.remove(0);
    let lease = client.post(&format!("/v1/apps/web/machines/{id}/lease?ttl=3600"), json!({})).await.ok();
    let deployment = client.deploy("web", WEB, "good:v2").await;
    let waiting = async {
        loop {
            let told = client.get(&format!("/v1/apps/web/deployments/{deployment}")).await.ok();
            let logged =
                world.logs.0.lock().unwrap().iter().any(|record| record.message.contains("waits for the lease"));
            if logged {
                break assert_eq!(told["status"], "pending");
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let holder = client.with_nonce(lease["data"]["nonce"].as_str().unwrap());
    holder.delete(&format!("/v1/apps/web/machines/{id}/lease")).await.ok();
    assert_eq!(client.ended("web", &deployment).await["status"], "complete");

    // While it works, nobody else changes what it works on.
    world.host.freeze_at(1, crate::support::Side::Before);
    let id = client.machine_ids("web").await.remove(0);
    client.deploy("web", WEB, "good:v3").await;
    tokio::time::timeout(PATIENCE, world.host.frozen.notified()).await.unwrap();
    let refused = client.post(&format!("/v1/apps/web/machines/{id}/stop"), json!({})).await.refused(409);
    assert!(refused.contains("lease currently held by deployment"), "{refused}");
}

#[tokio::test]
async fn mistakes_are_told_before_anything_is_stored() {
    let (_world, _running, client) = app().await;
    let deploy = async |config: &str, image: &str| {
        client.post("/v1/apps/web/deployments", json!({"config": config, "image": image})).await
    };
    let refused = deploy("[http_service]\ninternal_prt = 1\n[nonsense]\n", "good").await.refused(422);
    assert!(refused.contains("internal_prt") && refused.contains("nonsense"), "{refused}");
    let refused = deploy("app = \"other\"\n", "good").await.refused(422);
    assert!(refused.contains("for app other"), "{refused}");
    let refused = deploy("", "").await.refused(422);
    assert!(refused.contains("no image is named"), "{refused}");
    let refused = deploy("", "missing:v1").await.refused(422);
    assert!(refused.contains("was not found"), "{refused}");
    let refused = deploy("", "Not An Image").await.refused(422);
    assert!(refused.contains("image"), "{refused}");
    assert_eq!(client.get("/v1/apps/web/releases").await.ok(), json!([]));
}

#[tokio::test]
async fn the_configuration_of_a_release_can_be_read_back() {
    let (_world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    client.deployed("web", WORKER, "good:v2").await;
    assert_eq!(client.get("/v1/apps/web/config").await.ok(), json!({"version": 2, "config": WORKER}));
    assert_eq!(client.get("/v1/apps/web/config?version=1").await.ok()["config"], WEB);
    client.get("/v1/apps/web/config?version=7").await.refused(404);
}

#[tokio::test]
async fn destroying_an_app_takes_everything_with_it() {
    let (world, _running, client) = app().await;
    client.post("/v1/apps/web/secrets", json!({"values": {"A": "1"}})).await.ok();
    client.deployed("web", VOLUME, "good:v1").await;
    client.delete("/v1/apps/web").await.ok();
    client.get("/v1/apps/web").await.refused(404);
    assert!(world.host.machines().is_empty());
    assert!(world.logs.0.lock().unwrap().is_empty());
    assert_eq!(world.images.forgotten.lock().unwrap().len(), 1);
    assert_eq!(world.host.volumes_destroyed.lock().unwrap().len(), 1);
    client.create_app("web").await;
    assert_eq!(client.get("/v1/apps/web/secrets").await.ok()["secrets"], json!([]));
}

#[tokio::test]
async fn destroying_an_app_ends_its_deployment() {
    let (world, _running, client) = app().await;
    world.host.freeze_at(1, crate::support::Side::After);
    client.deploy("web", WEB, "good:v1").await;
    tokio::time::timeout(PATIENCE, world.host.frozen.notified()).await.unwrap();
    world.host.thaw();
    client.delete("/v1/apps/web").await.ok();
    client.get("/v1/apps/web").await.refused(404);
    assert!(world.host.machines().is_empty());
}

#[tokio::test]
async fn an_events_stream_goes_on_from_where_it_was_left() {
    let (_world, _running, client) = app().await;
    let id = client.deploy("web", WEB, "good:v1").await;
    client.ended("web", &id).await;
    let path = format!("/v1/apps/web/deployments/{id}/events");
    let all = client.get(&path).await;
    assert_eq!(all.headers["content-type"], "application/x-ndjson");
    let lines: Vec<Value> = all.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = lines.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(lines.last().unwrap()["status"], "complete");
    let rest = client.get(&format!("{path}?after=2")).await;
    assert_eq!(rest.text.lines().count(), lines.len() - 2);
}

#[tokio::test]
async fn logs_come_one_object_a_line() {
    let (_world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    for query in ["limit=3", "follow=true&limit=3", "since=10m"] {
        let logs = client.get(&format!("/v1/apps/web/logs?{query}")).await;
        assert!(logs.status.is_success(), "{}", logs.text);
        assert!(logs.text.lines().all(|line| line.contains("\"message\"")), "{}", logs.text);
        assert!(!logs.text.is_empty());
    }
    client.get("/v1/apps/web/logs?since=yesterday").await.refused(400);
}

#[tokio::test]
async fn a_stopped_machine_runs_again_after_a_deployment() {
    let (world, _running, client) = app().await;
    client.deployed("web", WEB, "good:v1").await;
    let id = client.machine_ids("web").await.remove(0);
    client.post(&format!("/v1/apps/web/machines/{id}/stop"), json!({})).await.ok();
    client.deployed("web", WEB, "good:v2").await;
    let machines = world.host.machines();
    assert_eq!(machines.len(), 1);
    assert!(machines.values().all(|observed| observed.state == MachineState::Started));
}

#[tokio::test]
async fn only_so_many_deployments_wait() {
    let (world, _running, client) = app().await;
    world.host.freeze_at(1, crate::support::Side::Before);
    for version in 0..8 {
        client.deploy("web", WEB, &format!("good:v{version}")).await;
    }
    let request = json!({"config": WEB, "image": "good:v9"});
    let refused = client.post("/v1/apps/web/deployments", request).await.refused(429);
    assert!(refused.contains("8 deployments"), "{refused}");
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_the_next_start_goes_on() {
    let (world, running, client) = app().await;
    world.host.freeze_at(1, crate::support::Side::Before);
    let id = client.deploy("web", WEB, "good:v1").await;
    tokio::time::timeout(PATIENCE, world.host.frozen.notified()).await.unwrap();
    let watching = {
        let (client, path) = (client.clone(), format!("/v1/apps/web/deployments/{id}/events"));
        tokio::spawn(async move { client.get(&path).await })
    };
    running.control.shutdown().await;
    tokio::time::timeout(PATIENCE, watching).await.unwrap().unwrap();
    world.host.thaw();
    let next = world.start().await;
    let client = next.client(client.token());
    assert_eq!(client.ended("web", &id).await["status"], "complete");
}

#[tokio::test]
async fn an_absurd_time_limit_is_a_long_one() {
    let (_world, _running, client) = app().await;
    let config = format!("{WEB}[deploy]\nwait_timeout = \"5000000000000h\"\n");
    assert_eq!(client.deployed("web", &config, "good:v1").await["status"], "complete");
}
