//! What a crash loses: nothing.

use std::{path::Path, process::Command, time::Duration};

use e2e::{Options, Platform, eventually, image, obstacle, platform::finish, skip};
use serde_json::Value;

const CONFIG: &str =
    "[http_service]\ninternal_port = 8080\n[[http_service.checks]]\npath = \"/healthz\"\ninterval = \"5s\"\n";

/// How often an event of a kind is told of the only machine of an app.
fn events(platform: &Platform, app: &str, kind: &str) -> usize {
    let machines = platform.machines(app);
    let events = machines[0]["events"].as_array().cloned().unwrap_or_default();
    events.iter().filter(|event| event["type"] == kind).count()
}

/// The process of a machine's virtual machine monitor.
fn monitor_of(platform: &Platform, machine: &str) -> Option<u32> {
    let monitors = platform.monitors();
    let own = |directory: &Path| directory.components().any(|part| part.as_os_str() == machine);
    monitors.into_iter().find(|(_, directory)| own(directory)).map(|(pid, _)| pid)
}

fn only_machine(platform: &Platform, app: &str) -> String {
    let machines = platform.machines(app);
    assert_eq!(machines.len(), 1, "{machines:?}");
    machines[0]["id"].as_str().expect("a machine has an id").to_owned()
}

#[test]
fn killing_the_platform_loses_nothing() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("killing the platform", &obstacle);
    }
    let mut platform = Platform::start(Options::default());
    platform.deploy("hello", CONFIG, &image("hello"));
    let machine = only_machine(&platform, "hello");
    let vmm = monitor_of(&platform, &machine).expect("the machine's VMM runs");

    platform.kill();
    assert_eq!(monitor_of(&platform, &machine), Some(vmm), "the VMM died with the platform");
    platform.launch();
    eventually("the app answers again", || platform.get("hello", "/healthz").is_some());
    assert_eq!(only_machine(&platform, "hello"), machine);
    assert_eq!(monitor_of(&platform, &machine), Some(vmm), "the machine was not adopted");
    assert_eq!(events(&platform, "hello", "start"), 1, "it was started again");

    // Now both die: the platform starts the machine again.
    platform.kill();
    finish(Command::new("kill").args(["-9", &vmm.to_string()]));
    platform.launch();
    eventually("the app answers after its VMM died", || platform.get("hello", "/healthz").is_some());
    assert_ne!(monitor_of(&platform, &machine), Some(vmm));

    // An orderly end leaves the machine running, too.
    let vmm = monitor_of(&platform, &machine);
    assert_eq!(platform.terminate(), 0);
    assert_eq!(monitor_of(&platform, &machine), vmm);
    platform.launch();
    eventually("the app answers after an orderly restart", || platform.get("hello", "/healthz").is_some());
}

#[test]
fn a_deployment_goes_on_after_a_crash_wherever_it_was() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("a crash during a deployment", &obstacle);
    }
    let mut platform = Platform::start(Options::default());
    platform.deploy("hello", CONFIG, &image("hello"));
    for (round, delay_ms) in [0, 700, 2_000, 4_000].into_iter().enumerate() {
        let config = format!("[env]\nROUND = \"{round}\"\n{CONFIG}");
        let mut arguments = platform.deploy_arguments("hello", &config, &image("hello"));
        arguments.push("--detach".into());
        platform.ok(arguments);
        // Where the deployment stands by then differs from run to run; the outcome must not.
        std::thread::sleep(Duration::from_millis(delay_ms));
        platform.kill();
        platform.launch();
        eventually("the deployment ends", || {
            let deployments = platform.json(["deployments", "list", "--json", "-a", "hello"]);
            matches!(deployments[0]["status"].as_str(), Some("complete" | "failed"))
        });
        assert_consistent(&platform);
        assert!(platform.get("hello", "/healthz").is_some(), "round {round}: the app does not answer");
    }
}

/// Exactly one machine, of the current release, and no virtual machine besides.
fn assert_consistent(platform: &Platform) {
    let releases = platform.json(["releases", "--json", "-a", "hello"]);
    let releases = releases.as_array().cloned().unwrap_or_default();
    let current: Vec<&Value> = releases.iter().filter(|release| release["current"] == true).collect();
    assert_eq!(current.len(), 1, "{releases:?}");
    let machines = platform.machines("hello");
    assert_eq!(machines.len(), 1, "{machines:#?}");
    let version = &machines[0]["config"]["metadata"]["fly_release_version"];
    assert_eq!(version.as_str(), Some(current[0]["version"].to_string().as_str()), "{machines:#?}");
    assert_eq!(platform.monitors().len(), 1, "{:?}", platform.monitors());
}
