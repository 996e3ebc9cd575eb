//! A control plane that is killed in the middle of a deployment, at every call to its host, before and after the call's
//! effect. The next one, on the same database, brings the deployment to an end: complete, or undone without a trace.

use crate::support::{Client, PATIENCE, Side, World};
use serde_json::{Value, json};

const WEB: &str = "[http_service]\ninternal_port = 8080\n";
const VOLUME: &str = "[http_service]\ninternal_port = 8080\n[mounts]\nsource = \"data\"\ndestination = \"/data\"\n";

/// A host's machines in a form that can be compared: id, version, running, cordoned.
fn fingerprint(world: &World) -> Vec<(String, String, bool, bool)> {
    let machines = world.host.machines();
    let one = |observed: &std::sync::Arc<model::machine::Observed>| {
        let spec = &observed.spec;
        (spec.id.to_string(), spec.version.to_string(), observed.state.may_run(), observed.cordoned)
    };
    machines.values().map(one).collect()
}

/// Whatever happened: nothing is leased, nothing is under way, and database and host agree on which machines exist.
async fn assert_healed(world: &World, client: &Client, context: &str) {
    let machines = client.machines("web").await;
    let mut ids: Vec<_> = machines.iter().map(|machine| machine["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let hosted: Vec<_> = world.host.machines().keys().map(ToString::to_string).collect();
    assert_eq!(ids, hosted, "{context}");
    for machine in &machines {
        assert_eq!(machine["state"], "started", "{context}: {machine}");
        assert_eq!(machine["cordoned"], false, "{context}: {machine}");
        let id = machine["id"].as_str().unwrap();
        client.get(&format!("/v1/apps/web/machines/{id}/lease")).await.refused(404);
    }
}

/// Deploys `before`, then begins `request` at `path` and kills the control plane at call number `call`. Returns the
/// deployment as it ended after a restart, or nothing if there was no such call.
async fn killed_at(call: usize, side: Side, config: &str, count: u32, path: &str, request: &Value) -> Option<Killed> {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    client.deployed("web", config, "good:v1").await;
    if count > 1 {
        let scaled = client.post("/v1/apps/web/scale", json!({"counts": {"app": count}})).await.ok();
        client.ended("web", scaled["id"].as_str().unwrap()).await;
    }
    let before = fingerprint(&world);
    world.host.serving.watch(world.host.ready());
    world.host.freeze_at(call, side);
    let id = client.post(path, request.clone()).await.ok()["id"].as_str().unwrap().to_owned();
    let froze = tokio::select! {
        () = world.host.frozen.notified() => true,
        _ = client.ended("web", &id) => false,
        () = tokio::time::sleep(PATIENCE) => panic!("neither frozen nor ended at call {call}"),
    };
    running.kill().await;
    world.host.thaw();
    let next = world.start().await;
    let client = Client::new(next.control.router(), client.token());
    let deployment = tokio::time::timeout(PATIENCE, client.ended("web", &id)).await.expect("it ends after a restart");
    assert_healed(&world, &client, &format!("killed {side:?} call {call}")).await;
    let killed = Killed { before, after: fingerprint(&world), least: world.host.serving.least(), deployment };
    froze.then_some(killed)
}

struct Killed {
    before: Vec<(String, String, bool, bool)>,
    after: Vec<(String, String, bool, bool)>,
    /// The fewest machines that served at a time.
    least: usize,
    deployment: Value,
}

/// Kills at every call on both sides until there is no further call, and hands each outcome to `check`. Returns how
/// many calls there were.
async fn kill_everywhere(
    config: &str,
    count: u32,
    path: &str,
    request: Value,
    check: impl Fn(&Killed, usize, Side),
) -> usize {
    for call in 1.. {
        for side in [Side::Before, Side::After] {
            match killed_at(call, side, config, count, path, &request).await {
                Some(killed) => check(&killed, call, side),
                None => return call - 1,
            }
        }
    }
    unreachable!("calls do not go on for ever")
}

const DEPLOYMENTS: &str = "/v1/apps/web/deployments";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deployment_completes_wherever_it_was_killed() {
    let request = json!({"config": WEB, "image": "good:v2"});
    let calls = kill_everywhere(WEB, 2, DEPLOYMENTS, request, |killed, call, side| {
        assert_eq!(killed.deployment["status"], "complete", "{side:?} {call}: {}", killed.deployment);
        assert_eq!(killed.after.len(), 2, "{side:?} {call}");
        assert!(killed.after.iter().all(|machine| !killed.before.contains(machine)), "{side:?} {call}");
        assert_eq!(killed.least, 2, "{side:?} {call}: two machines served at every moment");
    });
    // For each of two machines: create, admit, cordon, drain, stop; and in the end destroy.
    assert!(calls.await >= 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_deployment_is_undone_wherever_it_was_killed() {
    // The first machine is replaced before the second fails, so that there is much to undo.
    let request = json!({"config": WEB, "image": "flaky:v2"});
    let calls = kill_everywhere(WEB, 2, DEPLOYMENTS, request, |killed, call, side| {
        assert_eq!(killed.deployment["status"], "failed", "{side:?} {call}: {}", killed.deployment);
        assert_eq!(killed.after, killed.before, "{side:?} {call}");
        assert_eq!(killed.least, 2, "{side:?} {call}: two machines served at every moment");
    });
    assert!(calls.await >= 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_in_place_completes_or_is_undone_wherever_it_was_killed() {
    for (image, status) in [("good:v2", "complete"), ("crash:v2", "failed")] {
        let request = json!({"config": VOLUME, "image": image});
        let calls = kill_everywhere(VOLUME, 1, DEPLOYMENTS, request, |killed, call, side| {
            assert_eq!(killed.deployment["status"], status, "{side:?} {call}: {}", killed.deployment);
            assert_eq!(killed.after[0].0, killed.before[0].0, "it is the same machine");
            assert_eq!(killed.after == killed.before, status == "failed", "{side:?} {call}");
        });
        assert!(calls.await >= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_completes_wherever_it_was_killed() {
    for (from, to) in [(1, 3), (3, 1)] {
        let request = json!({"counts": {"app": to}});
        let calls = kill_everywhere(WEB, from, "/v1/apps/web/scale", request, |killed, call, side| {
            assert_eq!(killed.deployment["status"], "complete", "{side:?} {call}: {}", killed.deployment);
            assert_eq!(killed.after.len(), to, "{side:?} {call}");
        });
        assert!(calls.await >= 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_destroyed_wherever_that_was_interrupted() {
    for call in 1.. {
        for side in [Side::Before, Side::After] {
            let world = World::new();
            let (running, client) = world.start_first().await;
            client.create_app("web").await;
            client.deployed("web", VOLUME, "good:v1").await;
            world.host.freeze_at(call, side);
            let froze = tokio::select! {
                () = world.host.frozen.notified() => true,
                answer = client.delete("/v1/apps/web") => { answer.ok(); false }
            };
            running.kill().await;
            world.host.thaw();
            let next = world.start().await;
            let client = Client::new(next.control.router(), client.token());
            let gone = async {
                while client.get("/v1/apps/web").await.status.is_success() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(PATIENCE, gone).await.expect("the app is gone after a restart");
            assert!(world.host.machines().is_empty());
            assert!(!world.host.volumes_destroyed.lock().unwrap().is_empty());
            if !froze {
                assert!(call > 3, "stop, destroy and the volumes are at least three calls");
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_machine_that_the_host_never_heard_of_is_made_after_a_restart() {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    world.host.freeze_at(1, Side::Before);
    let create = {
        let client = client.clone();
        tokio::spawn(async move { client.post("/v1/apps/web/machines", json!({"config": {"image": "good"}})).await })
    };
    tokio::time::timeout(PATIENCE, world.host.frozen.notified()).await.unwrap();
    create.abort();
    running.kill().await;
    world.host.thaw();
    let next = world.start().await;
    let client = Client::new(next.control.router(), client.token());
    let id = client.machine_ids("web").await.remove(0);
    client.get(&format!("/v1/apps/web/machines/{id}/wait?state=started")).await.ok();
    assert_eq!(world.host.machines().len(), 1);
}

#[tokio::test]
async fn a_machine_that_nobody_asked_for_is_left_alone() {
    let world = World::new();
    let (running, client) = world.start_first().await;
    client.create_app("web").await;
    client.post("/v1/apps/web/machines", json!({"config": {"image": "good"}})).await.ok();
    let mut spec = world.host.machines().into_values().next().unwrap().spec.clone();
    spec.id = "00000000000001".parse().unwrap();
    running.kill().await;
    world.host.plant(spec);
    let next = world.start().await;
    let client = next.client(client.token());
    client.deployed("web", WEB, "good:v1").await;
    assert_eq!(world.host.machines().len(), 3);
    assert_eq!(client.machines("web").await.len(), 2);
}
