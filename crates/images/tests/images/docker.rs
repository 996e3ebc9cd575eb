//! The real Docker engine: signing in, pushing, pulling.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use api::internal::{ImageResolver, PullCredentials};

use crate::support::*;

/// An engine of the test's own, beside any other on the host.
struct Engine {
    daemon: Child,
    directory: PathBuf,
}

impl Engine {
    /// Starts an engine that keeps everything in `directory`; says why not where it cannot run.
    fn start(directory: &Path) -> Result<Self, String> {
        let log = File::create(directory.join("dockerd.log")).unwrap();
        std::fs::write(directory.join("daemon.json"), "{}").unwrap();
        let at = |name: &str| directory.join(name).display().to_string();
        let daemon = Command::new("dockerd")
            .args([
                "--host",
                &format!("unix://{}", at("socket")),
                "--data-root",
                &at("data"),
                "--exec-root",
                &at("exec"),
            ])
            .args(["--pidfile", &at("pid"), "--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--storage-driver=vfs", "--config-file", &at("daemon.json")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("dockerd does not start: {error}"))?;
        let mut engine = Self { daemon, directory: directory.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !engine.docker(&["version"]).map_err(|error| format!("docker: {error}"))?.status.success() {
            let ended = engine.daemon.try_wait().unwrap().is_some();
            if ended || Instant::now() > deadline {
                let log = std::fs::read_to_string(directory.join("dockerd.log")).unwrap_or_default();
                return Err(format!("dockerd does not come up here: {}", log.lines().last().unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    fn docker(&self, arguments: &[&str]) -> std::io::Result<Output> {
        Command::new("docker")
            .env("DOCKER_HOST", format!("unix://{}", self.directory.join("socket").display()))
            .env("DOCKER_CONFIG", self.directory.join("client"))
            .args(arguments)
            .output()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments).unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments).unwrap();
        assert!(!output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        let _ = self.daemon.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_signs_in_pushes_and_pulls() {
    let directory = tempfile::tempdir().unwrap();
    let engine = match Engine::start(directory.path()) {
        Ok(engine) => engine,
        Err(reason) => {
            eprintln!("skipped: docker_signs_in_pushes_and_pulls: {reason}");
            return;
        }
    };
    let platform = Platform::start().await;
    tokio::task::block_in_place(|| use_docker(&engine, &platform, directory.path()));

    let name = format!("{}/team/app:v1", platform.host);
    let found = platform.images.resolve(&org("acme"), &name, PullCredentials::Anonymous).await.unwrap();
    assert_eq!(found.config.cmd, ["/file"]);
    assert_eq!(platform.client().head("team/copy/manifests/v1").await, 200);
}

fn use_docker(engine: &Engine, platform: &Platform, directory: &Path) {
    let archive = directory.join("layer.tar");
    std::fs::write(&archive, TestImage::new("from docker").layer).unwrap();
    let name = |rest: &str| format!("{}/team/{rest}", platform.host);
    engine.run(&["import", "--change", "CMD [\"/file\"]", archive.to_str().unwrap(), &name("app:v1")]);

    let stranger = engine.refused(&["push", &name("app:v1")]);
    assert!(stranger.contains("sign in with `docker login`"), "{stranger}");
    engine.refused(&["login", "--username", "me", "--password", "wrong", &platform.host]);
    engine.run(&["login", "--username", "me", "--password", "all", &platform.host]);
    engine.run(&["push", &name("app:v1")]);
    // The same again: nothing is sent. In another repository: the layers are mounted.
    let again = engine.run(&["push", &name("app:v1")]);
    assert!(again.contains("Layer already exists"), "{again}");
    engine.run(&["tag", &name("app:v1"), &name("copy:v1")]);
    let mounted = engine.run(&["push", &name("copy:v1")]);
    assert!(mounted.contains("Mounted from team/app"), "{mounted}");

    let id = engine.run(&["image", "inspect", "--format", "{{.Id}}", &name("app:v1")]);
    engine.run(&["rmi", "--force", &name("app:v1"), &name("copy:v1")]);
    engine.run(&["pull", &name("app:v1")]);
    assert_eq!(engine.run(&["image", "inspect", "--format", "{{.Id}}", &name("app:v1")]), id);
    let missing = engine.refused(&["pull", &name("app:v2")]);
    assert!(missing.contains("v2"), "{missing}");
    engine.run(&["logout", &platform.host]);
    engine.refused(&["pull", &name("app:v1")]);
}
