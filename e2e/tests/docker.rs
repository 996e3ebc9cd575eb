//! The real Docker engine and client, and skopeo, against the platform's registry.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use e2e::{Options, Platform, eventually, has, image, obstacle, platform::finish, skip, target};

/// A Docker engine of the scenario's own.
struct Engine {
    child: Child,
    directory: tempfile::TempDir,
}

impl Engine {
    fn start() -> Self {
        let directory = tempfile::tempdir_in(target()).expect("a directory can be made");
        let at = |name: &str| directory.path().join(name);
        let log = fs::File::create(at("dockerd.log")).expect("a log can be written");
        let mut dockerd = Command::new("dockerd");
        dockerd.args(["--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs", "--host"]);
        dockerd.arg(format!("unix://{}", at("docker.sock").display()));
        dockerd.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        dockerd.stdout(Stdio::null()).stderr(log);
        let child = dockerd.spawn().expect("dockerd starts");
        let engine = Self { child, directory };
        eventually("the Docker engine answers", || engine.docker(&["version"]).code == 0);
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }

    fn docker(&self, arguments: &[&str]) -> e2e::Outcome {
        let mut docker = Command::new("docker");
        docker.args(arguments).env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", self.directory.path());
        finish(docker.env("DOCKER_BUILDKIT", "0"))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.docker(arguments);
        assert_eq!(outcome.code, 0, "docker {arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = finish(Command::new("kill").arg(self.child.id().to_string()));
        let _ = self.child.wait();
    }
}

/// A project as a user has it: a binary and a Dockerfile.
fn project(parent: &Path) -> PathBuf {
    let directory = parent.join("greeter");
    fs::create_dir_all(&directory).expect("a directory can be made");
    let binary = target().join(format!("{}-unknown-linux-gnu/release/hello", std::env::consts::ARCH));
    fs::copy(binary, directory.join("hello")).expect("the example is built");
    let dockerfile = "FROM scratch\nCOPY hello /hello\nEXPOSE 8080\nENTRYPOINT [\"/hello\"]\n";
    fs::write(directory.join("Dockerfile"), dockerfile).expect("a file can be written");
    directory
}

#[test]
fn docker_builds_pushes_and_dunlin_deploys() {
    if let Some(obstacle) = obstacle(&["hello"]) {
        return skip("docker", &obstacle);
    }
    if !has("dockerd") {
        return skip("docker", "the Docker engine is not installed (docker.io)");
    }
    let engine = Engine::start();
    let platform = Platform::start(Options::default());
    let directory = project(platform.scratch());

    // launch, then deploy: the engine builds, the registry takes it.
    let mut launch = platform.command(["launch"]);
    let outcome = finish(launch.current_dir(&directory));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let config = fs::read_to_string(directory.join("fly.toml")).expect("launch writes fly.toml");
    assert!(config.contains("app = \"greeter\"") && config.contains("internal_port = 8080"), "{config}");
    let mut deploy = platform.command(["deploy"]);
    let outcome = finish(deploy.current_dir(&directory).env("DOCKER_HOST", engine.host()));
    assert_eq!(outcome.code, 0, "{}{}\n{}", outcome.stdout, outcome.stderr, platform.log());
    assert!(platform.get("greeter", "/").is_some_and(|page| page.starts_with("Hello")));

    // docker push straight to the registry, then a deployment by name.
    let registry = platform.registry();
    let name = format!("{registry}/greeter:by-hand");
    engine.ok(&["login", &registry, "--username", "x", "--password", platform.token()]);
    engine.ok(&["build", "--quiet", "--tag", &name, &directory.to_string_lossy()]);
    engine.ok(&["push", &name]);
    engine.ok(&["rmi", &name]);
    engine.ok(&["pull", &name]);
    let config = directory.join("fly.toml");
    platform.ok(["deploy", "--config", &config.to_string_lossy(), "--image", &name]);
    assert!(platform.get("greeter", "/").is_some());
}

#[test]
fn skopeo_copies_in_and_out() {
    if let Some(obstacle) = obstacle(&["nginx"]) {
        return skip("skopeo", &obstacle);
    }
    if !has("skopeo") {
        return skip("skopeo", "skopeo is not installed");
    }
    let platform = Platform::start(Options::default());
    platform.ok(["apps", "create", "mirror"]);
    let remote = format!("docker://{}/mirror:v1", platform.registry());
    let credentials = format!("x:{}", platform.token());
    let copy = |from: &str, to: &str, side: &str| {
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "copy",
            "--quiet",
            &format!("--{side}-tls-verify=false"),
            &format!("--{side}-creds"),
            &credentials,
            from,
            to,
        ]);
        let outcome = finish(&mut skopeo);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    };
    copy(&format!("oci:{}", image("nginx").display()), &remote, "dest");
    let back = platform.scratch().join("back");
    copy(&remote, &format!("oci:{}", back.display()), "src");
    let index = |layout: &Path| -> serde_json::Value {
        let text = fs::read_to_string(layout.join("index.json")).expect("a layout has an index");
        serde_json::from_str(&text).expect("it is JSON")
    };
    assert_eq!(index(&back)["manifests"][0]["digest"], index(&image("nginx"))["manifests"][0]["digest"]);
}
