//! From a configuration file to the machines it asks for.

use config::{AppConfig, ConvertError, MaxUnavailable, Strategy};
use model::{GoDuration, machine::CpuKind};
use serde_json::json;

fn parsed(text: &str) -> AppConfig {
    AppConfig::parse(text).unwrap_or_else(|found| panic!("{found}"))
}

fn machine(text: &str, group: &str) -> serde_json::Value {
    serde_json::to_value(parsed(text).machine_config(group, "registry/app@sha256:00").unwrap()).unwrap()
}

#[test]
fn the_smallest_file_makes_one_machine() {
    let machine = machine("app = \"a\"", "app");
    assert_eq!(machine["image"], "registry/app@sha256:00");
    assert_eq!(machine["guest"], json!({"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}));
    assert_eq!(machine["env"], json!({"FLY_PROCESS_GROUP": "app"}));
    assert_eq!(machine["metadata"], json!({"fly_platform_version": "v2", "fly_process_group": "app"}));
    assert_eq!(machine["services"], json!([]));
}

#[test]
fn a_usual_web_app_becomes_a_machine_with_a_service_on_80_and_443() {
    let text = r#"
app = "my-app"
primary_region = "ams"
kill_signal = "SIGTERM"
kill_timeout = 30

[env]
PORT = 8080
DEBUG = false
RATIO = 0.5
NAME = "x"

[http_service]
internal_port = 8080
force_https = true
auto_start_machines = true
min_machines_running = 1
[http_service.concurrency]
type = "requests"
soft_limit = 200
hard_limit = 250
[[http_service.checks]]
path = "/healthz"
interval = "10s"
timeout = 2000000000
grace_period = "500ms"
method = "get"
[http_service.checks.headers]
X-Probe = "yes"

[[vm]]
size = "performance-2x"
memory = "6gb"

[mounts]
source = "data"
destination = "/data"
initial_size = "10gb"

[[restart]]
policy = "never"
retries = 3
"#;
    assert_eq!(
        machine(text, "app"),
        json!({
            "image": "registry/app@sha256:00",
            "env": {"DEBUG": "false", "FLY_PROCESS_GROUP": "app", "NAME": "x", "PORT": "8080", "PRIMARY_REGION": "ams", "RATIO": "0.5"},
            "init": {"tty": false},
            "guest": {"cpu_kind": "performance", "cpus": 2, "memory_mb": 6144},
            "metadata": {"fly_platform_version": "v2", "fly_process_group": "app"},
            "services": [{
                "protocol": "tcp",
                "internal_port": 8080,
                "autostop": false,
                "autostart": true,
                "min_machines_running": 1,
                "ports": [
                    {"port": 80, "handlers": ["http"], "force_https": true},
                    {"port": 443, "handlers": ["tls", "http"], "force_https": false},
                ],
                "concurrency": {"type": "requests", "soft_limit": 200, "hard_limit": 250},
                "checks": [{
                    "type": "http", "path": "/healthz", "method": "GET",
                    "interval": "10s", "timeout": "2s", "grace_period": "500ms",
                    "headers": [{"name": "X-Probe", "values": ["yes"]}],
                }],
            }],
            "checks": {},
            "files": [],
            "mounts": [{"name": "data", "path": "/data", "size_gb": 10}],
            "restart": {"policy": "no", "max_retries": 3},
            "stop_config": {"signal": "SIGTERM", "timeout": "30s"},
            "auto_destroy": false,
        })
    );
}

#[test]
fn parts_go_to_the_groups_they_name_and_else_to_the_default_group() {
    let text = r#"
[processes]
web = "serve --port 8080 'two words'"
worker = "work"
[http_service]
internal_port = 8080
processes = ["web"]
[[services]]
internal_port = 25
processes = ["worker"]
concurrency = "20,25"
[[services.ports]]
port = 2525
handlers = ["http", "tls"]
[[services.tcp_checks]]
interval = 15000
[[mounts]]
source = "spool"
destination = "/spool"
processes = ["worker"]
[checks.alive]
type = "tcp"
[[files]]
guest_path = "/etc/a"
raw_value = "QQ=="
mode = 0o600
[[vm]]
memory = 512
[[vm]]
memory = "1gb"
cpus = 2
processes = ["worker"]
[[restart]]
policy = "always"
processes = ["worker"]
"#;
    let config = parsed(text);
    assert_eq!(config.groups(), ["web", "worker"]);
    assert_eq!(config.default_group(), "web");

    let web = config.machine_config("web", "i").unwrap();
    assert_eq!(web.init.cmd.as_deref().unwrap(), ["serve", "--port", "8080", "two words"]);
    assert_eq!((web.services.len(), web.services[0].internal_port), (1, 8080));
    assert_eq!(web.checks["alive"].port, Some(8080));
    assert_eq!((web.files.len(), web.files[0].mode), (1, Some(0o600)));
    assert_eq!((web.guest.memory_mb, web.guest.cpus), (512, 1));
    assert!(web.mounts.is_empty());

    let worker = serde_json::to_value(config.machine_config("worker", "i").unwrap()).unwrap();
    assert_eq!(worker["init"]["cmd"], json!(["work"]));
    assert_eq!(
        worker["services"][0]["ports"],
        json!([{"port": 2525, "handlers": ["tls", "http"], "force_https": false}])
    );
    assert_eq!(worker["services"][0]["concurrency"], json!({"type": "requests", "soft_limit": 20, "hard_limit": 25}));
    assert_eq!(worker["services"][0]["checks"], json!([{"type": "tcp", "interval": "15s", "headers": []}]));
    assert_eq!(worker["guest"], json!({"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}));
    assert_eq!(worker["restart"]["policy"], "always");
    assert_eq!((&worker["checks"], &worker["files"]), (&json!({}), &json!([])));

    let unknown = config.machine_config("cron", "i").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no process group `cron`; the configuration has web, worker");
}

#[test]
fn the_default_group_is_app_if_there_is_one() {
    assert_eq!(parsed("[processes]\nalpha = \"a\"\napp = \"\"").default_group(), "app");
    let config = parsed("[processes]\napp = \"\"");
    assert_eq!(config.machine_config("app", "i").unwrap().init.cmd, None, "an empty command is the image's own");
}

#[test]
fn older_spellings_still_work() {
    let text = r#"
[[processes]]
name = "app"
command = "run"
[[checks]]
name = "alive"
type = "http"
port = 80
[[env]]
A = "1"
[[env]]
B = 2
[compute]
size = "shared-cpu-2x"
[experimental]
entrypoint = "sh -c"
cmd = ["a", "b"]
auto_rollback = true
"#;
    let config = parsed(text);
    assert!(config.warnings().is_empty(), "{}", config.warnings());
    let machine = config.machine_config("app", "i").unwrap();
    assert_eq!(machine.init.entrypoint.as_deref().unwrap(), ["sh", "-c"]);
    assert_eq!(machine.init.cmd.as_deref().unwrap(), ["run"], "a group's command goes before the general one");
    assert_eq!((machine.env["A"].as_str(), machine.env["B"].as_str()), ("1", "2"));
    assert_eq!((machine.guest.cpus, machine.guest.memory_mb), (2, 512));
    assert!(machine.checks.contains_key("alive"));
}

#[test]
fn the_rollout_has_its_usual_settings_unless_the_file_says_otherwise() {
    let usual = parsed("").deploy;
    assert_eq!(usual.strategy, Strategy::Rolling);
    assert_eq!(usual.wait_timeout, GoDuration::from_secs(300));
    assert_eq!([1, 3, 9, 10].map(|total| usual.max_unavailable.of(total)), [1, 1, 2, 3]);
    let other = parsed("[deploy]\nstrategy = \"immediate\"\nmax_unavailable = 4\nwait_timeout = \"1m\"").deploy;
    assert_eq!((other.strategy, other.max_unavailable), (Strategy::Immediate, MaxUnavailable::Count(4)));
    assert_eq!(other.wait_timeout, GoDuration::from_secs(60));
}

#[test]
fn every_size_preset_is_known() {
    for (name, kind, cpus, memory_mb) in config::PRESETS {
        let guest = parsed(&format!("[[vm]]\nsize = {name:?}")).machine_config("app", "i").unwrap().guest;
        assert_eq!((guest.cpu_kind, guest.cpus, guest.memory_mb), (kind, cpus, memory_mb), "{name}");
    }
    let guest = parsed("vm = { cpu_kind = \"performance\", cpus = 4 }").machine_config("app", "i").unwrap().guest;
    assert_eq!((guest.cpu_kind, guest.memory_mb), (CpuKind::Performance, 8192));
}

#[test]
fn a_file_beside_the_configuration_must_be_put_in_first() {
    let config = parsed("[[files]]\nguest_path = \"/a\"\nlocal_path = \"a\"");
    let error = config.machine_config("app", "i").unwrap_err();
    assert!(matches!(error, ConvertError::LocalFile { .. }), "{error}");
}

#[test]
fn the_definition_is_the_file_as_json() {
    let config = parsed("app = \"a\"\nkill_timeout = 0x10\n[[vm]]\ncpus = 2\n[deploy]\nmax_unavailable = 0.5");
    let expected = json!({"app": "a", "kill_timeout": 16, "vm": [{"cpus": 2}], "deploy": {"max_unavailable": 0.5}});
    assert_eq!(config.definition(), &expected);
}

#[test]
fn a_new_apps_file_is_free_of_problems_and_says_what_was_asked() {
    let text = config::render_new(&config::NewApp {
        app: "my-app".parse().unwrap(),
        region: "local".parse().unwrap(),
        internal_port: 3000,
        dockerfile: Some("deploy/Dockerfile \"x\"".to_owned()),
        image: None,
        volume: Some("/data".to_owned()),
    });
    let config = parsed(&text);
    assert!(config.warnings().is_empty(), "{}", config.warnings());
    assert_eq!(config.app.as_ref().unwrap().as_str(), "my-app");
    assert_eq!(config.build.dockerfile.as_deref(), Some("deploy/Dockerfile \"x\""));
    let machine = config.machine_config("app", "i").unwrap();
    assert_eq!(machine.services[0].internal_port, 3000);
    assert_eq!(machine.mounts[0].path, "/data");
    // What is commented out must be right as well, since people will uncomment it.
    let uncommented = text.replace("# [", "[").replace("# path", "path").replace("# interval", "interval");
    let uncommented = uncommented.replace("# timeout", "timeout").replace("# grace", "grace").replace("# LOG", "LOG");
    let config = parsed(&uncommented);
    assert_eq!(config.http_service.as_ref().unwrap().value.checks.len(), 1);
    assert_eq!(config.env["LOG_LEVEL"], "info");
}
