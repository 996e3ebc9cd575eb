//! What goes wrong gets one clear message with what to do next, a documented exit status, and leaves nothing half made.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    Options, Outcome, Platform, image, obstacle,
    platform::{dunlin, finish},
    skip,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Asserts how a command failed: its status, and what it said.
fn assert_failed(outcome: &Outcome, code: i32, said: &[&str]) {
    assert_eq!(outcome.code, code, "{outcome:#?}");
    for text in said {
        assert!(outcome.stderr.contains(text), "{text:?} is missing: {}", outcome.stderr);
    }
}

#[test]
fn without_a_platform_the_client_says_how_to_start_one() {
    let mut command = Command::new(dunlin());
    command.args(["apps", "list"]).env("DUNLIN_API_URL", "http://127.0.0.1:9").env("DUNLIN_API_TOKEN", "x");
    assert_failed(&finish(&mut command), 7, &["http://127.0.0.1:9", "dunlin serve"]);
}

#[test]
fn mistakes_of_users_are_named() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("mistakes of users", &obstacle);
    }
    let platform = Platform::start(Options::default());
    let mut wrong = platform.command(["apps", "list"]);
    wrong.env("DUNLIN_API_TOKEN", "not-a-token");
    assert_failed(&finish(&mut wrong), 4, &["token", "dunlin auth login"]);
    assert_failed(&platform.run(["status", "-a", "nowhere"]), 3, &["nowhere"]);
    assert_failed(&platform.run(["apps", "create", "Not_A_Name"]), 2, &["lower-case"]);

    five_mistakes(&platform);
    no_dockerfile(&platform);
    foreign_image(&platform);
    dying_app(&platform);
    deaf_app(&platform);
    taken_port(&platform);
}

fn five_mistakes(platform: &Platform) {
    let path = platform.scratch().join("five.toml");
    let text = "app = \"Five\"\n[http_service]\ninternal_port = 99999\nforce_htps = true\n[[vm]]\nmemory = \"lots\"\n[deploy]\nstrategy = \"yolo\"\n";
    fs::write(&path, text).expect("a file can be written");
    let outcome = platform.run(["config", "validate", "--config", &path.to_string_lossy()]);
    let lines = [1, 3, 4, 6, 8].map(|line| format!("five.toml:{line}"));
    assert_failed(&outcome, 8, &lines.each_ref().map(String::as_str));
}

fn no_dockerfile(platform: &Platform) {
    let directory = platform.scratch().join("empty");
    fs::create_dir_all(&directory).expect("a directory can be made");
    fs::write(directory.join("fly.toml"), "app = \"empty\"\n").expect("a file can be written");
    let outcome = finish(platform.command(["deploy"]).current_dir(&directory));
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("Dockerfile") && outcome.stderr.contains("--image"), "{outcome:?}");
    assert_failed(&platform.run(["status", "-a", "empty"]), 3, &["empty"]);
}

fn foreign_image(platform: &Platform) {
    let layout = platform.scratch().join("foreign");
    copy_with_config(&image("hello"), &layout, |config| config["architecture"] = "s390x".into());
    let outcome = platform.run(platform.deploy_arguments("foreign", "", &layout));
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("s390x") && outcome.stderr.contains("linux/amd64"), "{outcome:?}");
}

fn dying_app(platform: &Platform) {
    let config = "[env]\nFAIL = \"3\"\n[http_service]\ninternal_port = 8080\n[restart]\npolicy = \"never\"\n";
    let outcome = platform.run(platform.deploy_arguments("dying", config, &image("hello")));
    assert_failed(&outcome, 6, &["exit", "3", "hello is told to fail"]);
    assert!(platform.machines("dying").is_empty(), "a failed first deployment left machines");
}

fn deaf_app(platform: &Platform) {
    let config = "[deploy]\nwait_timeout = \"20s\"\n[http_service]\ninternal_port = 9999\n";
    let outcome = platform.run(platform.deploy_arguments("deaf", config, &image("hello")));
    assert_failed(&outcome, 6, &["9999", "8080"]);
    assert!(platform.machines("deaf").is_empty(), "a failed first deployment left machines");
}

fn taken_port(platform: &Platform) {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let data = platform.scratch().join("second");
    let serve = |data: &Path, port: &str| {
        let mut command = Command::new(dunlin());
        command.args(["serve", "--http-port", port, "--https-port", "0", "--api-listen", "127.0.0.1:0", "--data-dir"]);
        finish(command.arg(data))
    };
    assert_failed(&serve(&data, &port), 1, &[&port, "--http-port"]);
    assert_failed(&serve(&platform.data(), "0"), 1, &["already", &platform.data().to_string_lossy()]);
}

/// Copies an image layout and changes its configuration; digests are made anew.
fn copy_with_config(from: &Path, to: &Path, change: impl FnOnce(&mut Value)) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the layout cannot be copied");
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).expect("it exists")).expect("it is JSON") };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        to.join("blobs/sha256").join(digest.expect("a descriptor has a digest"))
    };
    let store = |value: &Value, media_type: &Value| {
        let bytes = serde_json::to_vec(value).expect("it is JSON");
        let digest = hex::encode(Sha256::digest(&bytes));
        fs::write(to.join("blobs/sha256").join(&digest), &bytes).expect("a file can be written");
        serde_json::json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let mut index = read(to.join("index.json"));
    let mut manifest = read(blob(&index["manifests"][0]));
    let mut config = read(blob(&manifest["config"]));
    change(&mut config);
    manifest["config"] = store(&config, &manifest["config"]["mediaType"]);
    index["manifests"][0] = store(&manifest, &index["manifests"][0]["mediaType"]);
    fs::write(to.join("index.json"), index.to_string()).expect("a file can be written");
}
