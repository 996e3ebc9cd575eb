//! Machine configurations that are refused, each with its reason.

use serde_json::{Value, json};

use super::*;

fn refused(change: Value) -> String {
    let mut config = json!({"image": "app:v1"});
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: MachineConfig = serde_json::from_value(config).unwrap();
    check(&config).expect_err("the configuration is refused").to_string()
}

fn accepted(change: Value) {
    let mut config = json!({"image": "app:v1"});
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: MachineConfig = serde_json::from_value(config).unwrap();
    check(&config).unwrap();
}

#[test]
fn each_mistake_is_named_by_its_key() {
    for (change, words) in [
        (json!({"image": ""}), "config.image"),
        (json!({"image": "UPPER"}), "config.image"),
        (json!({"env": {"FLY_APP_NAME": "x"}}), "FLY_APP_NAME belongs to the platform"),
        (json!({"env": {"A=B": "x"}}), "cannot be set"),
        (json!({"guest": {"cpus": 3, "memory_mb": 768}}), "3 CPUs are not offered"),
        (json!({"guest": {"cpus": 1, "memory_mb": 300}}), "300 MB"),
        (json!({"guest": {"cpus": 1, "memory_mb": 4096}}), "4096 MB"),
        (json!({"guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 1024}}), "1024 MB"),
        (json!({"mounts": [{"name": "data", "path": "/"}]}), "other than /"),
        (json!({"mounts": [{"name": "data", "path": "//"}]}), "other than /"),
        (json!({"mounts": [{"name": "data", "path": "/a/../.."}]}), "other than /"),
        (json!({"mounts": [{"name": "../x", "path": "/data"}]}), "not a volume's name"),
        (json!({"mounts": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}]}), "one volume at most"),
        (json!({"files": [{"guest_path": "etc/x", "raw_value": ""}]}), "absolute path"),
        (json!({"files": [{"guest_path": "/etc/x", "raw_value": "%"}]}), "base 64"),
        (json!({"files": [{"guest_path": "/etc/x"}]}), "either raw_value or secret_name"),
        (json!({"statics": [{"guest_path": "public", "url_prefix": "/a"}]}), "directory's absolute path"),
        (json!({"statics": [{"guest_path": "/a", "url_prefix": "a"}]}), "begins with /"),
        (
            json!({"statics": [{"guest_path": "/a", "url_prefix": "/a/"}, {"guest_path": "/b", "url_prefix": "/a/b"}]}),
            "overlaps",
        ),
        (json!({"stop_config": {"signal": "SIGWINCH"}}), "SIGWINCH"),
        (json!({"stop_config": {"timeout": "10m"}}), "300 s at most"),
        (json!({"services": [{"internal_port": 0}]}), "internal_port"),
        (json!({"services": [{"internal_port": 80, "ports": [{}]}]}), "services[0]: ports[0]"),
        (json!({"services": [{"internal_port": 80, "ports": [{"port": 80, "force_https": true}]}]}), "force_https"),
        (
            json!({"services": [{"internal_port": 80, "ports": [{"port": 80, "handlers": ["http", "tls"]}]}]}),
            "tls before",
        ),
        (json!({"services": [{"internal_port": 80, "checks": [{"path": "x"}]}]}), "path begins with /"),
        (json!({"checks": {"up": {"type": "tcp"}}}), "config.checks.up: port is missing"),
    ] {
        let message = refused(change.clone());
        assert!(message.contains(words), "{change}: {message}");
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let message = refused(json!({"env": {"FLY_X": ""}, "guest": {"cpus": 3}, "services": [{"internal_port": 0}]}));
    for words in ["config.env", "config.guest", "config.services[0]"] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn keys_without_effect_are_refused_by_name() {
    let message = refused(json!({"schedule": "daily", "guest": {"gpu_kind": "a10"}}));
    assert_eq!(message, "not supported yet: schedule, guest.gpu_kind");
}

#[test]
fn an_ordinary_web_app_is_accepted() {
    accepted(json!({
        "env": {"PORT": "8080", "FLY_PROCESS_GROUP": "app"},
        "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512},
        "mounts": [{"name": "data", "path": "/data", "size_gb": 1}],
        "files": [{"guest_path": "/etc/motd", "raw_value": "aGk=", "mode": 420}],
        "stop_config": {"signal": "SIGTERM", "timeout": "30s"},
        "services": [{"internal_port": 8080, "autostop": true, "ports": [
            {"port": 80, "handlers": ["http"], "force_https": true},
            {"port": 443, "handlers": ["tls", "http"]},
            {"start_port": 9000, "end_port": 9010}],
            "checks": [{"type": "http", "path": "/up", "interval": "2s", "timeout": "1s"}]}],
    }));
}
