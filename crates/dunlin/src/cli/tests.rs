//! The command line as people type it, and what it says when the platform says no.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::public::ErrorBody;
use axum::{
    Json, Router,
    extract::{
        Path, Query,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{delete, get, post},
};
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use super::*;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn people_type_it_like_this() {
    for line in [
        "dunlin launch --name my-app --no-create",
        "dunlin deploy --image oci:target/hello -a my-app --json",
        "dunlin deploy --config deploy/fly.toml --strategy immediate --build-arg A=1 --build-arg B --detach",
        "dunlin apps create ours --org first",
        "dunlin apps destroy my-app --yes",
        "dunlin certs add shop.example.com -a my-app",
        "dunlin certs import *.example.com --fullchain a.pem --private-key b.pem",
        "dunlin certs list --filter shop --json",
        "dunlin certs check shop.example.com",
        "dunlin certs remove shop.example.com --custom",
        "dunlin status -a my-app --json",
        "dunlin logs -f --since 10m --machine 91857209c66d28",
        "dunlin releases --json",
        "dunlin rollback v3",
        "dunlin machine stop 91857209c66d28 --signal SIGTERM --timeout 10s",
        "dunlin machine exec 91857209c66d28 -a shell -- sh -c ls -la",
        "dunlin m exec -t -- sh",
        "dunlin maintenance on -a my-app --message back-soon --retry-after 600",
        "dunlin maintenance off -a my-app",
        "dunlin maintenance status --json",
        "dunlin scale count web=2 worker=1",
        "dunlin secrets set A=1 B=- --stage",
        "dunlin secrets import --detach",
        "dunlin config validate",
        "dunlin auth login --url http://10.0.0.1:4280 --token t",
        "dunlin deployments watch 01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "dunlin tokens create --org first -x 720h",
        "dunlin tokens list --org first --json",
        "dunlin tokens revoke 0123456789abcdef 0011223344556677",
        "dunlin completion zsh",
        "dunlin --json version",
    ] {
        assert!(parsed(line).is_ok(), "{line}: {}", parsed(line).unwrap_err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "dunlin machine stop my-machine",
        "dunlin machine exec 91857209c66d28 ls",
        "dunlin deploy --strategy canary",
        "dunlin deploy --image a --dockerfile b",
        "dunlin launch --internal-port 0",
        "dunlin tokens revoke",
        "dunlin secrets set A=1 --stage --detach",
        "dunlin launhc",
    ] {
        assert_eq!(parsed(line).unwrap_err().exit_code(), i32::from(Exit::Usage.code()), "{line}");
    }
    assert!(parsed("dunlin launhc").unwrap_err().to_string().contains("launch"));
}

#[test]
fn the_help_tells_the_exit_statuses() {
    let help = Cli::command().render_long_help().to_string();
    for status in ["  6  a deployment failed and was undone", "124  a wait was in vain"] {
        assert!(help.contains(status), "{help}");
    }
}

/// Serves a router on a free port of this machine until the test ends.
async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn client(address: SocketAddr) -> client::Client {
    client::Client::new(&format!("http://{address}/"), Some("t0ken".to_owned())).unwrap()
}

fn context(url: &str, config: &std::path::Path) -> Context {
    let globals = Globals {
        url: Some(url.to_owned()),
        token: Some("t0ken".to_owned()),
        config: Some(config.to_owned()),
        quiet: true,
        ..Globals::default()
    };
    Context::new(globals, output::Output::new(false, true))
}

#[tokio::test]
async fn a_refusal_is_told_in_the_platforms_words_with_a_status_of_its_own() {
    let refuse = |Path(code): Path<u16>, Query(query): Query<Value>| async move {
        let word = query["app_role"].as_str().map(str::to_owned);
        let body = ErrorBody { error: format!("no: {code}"), hint: Some("do this".to_owned()), status: word };
        (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
    };
    let address = serve(
        Router::new()
            .route("/{code}", get(refuse))
            .route("/plain", get(|| async { (StatusCode::BAD_GATEWAY, "<html>") })),
    )
    .await;
    let client = client(address);
    for (path, exit) in [
        ("/401", Exit::Unauthorized),
        ("/403", Exit::Unauthorized),
        ("/404", Exit::NotFound),
        ("/409", Exit::Conflict),
        ("/408", Exit::Timeout),
        ("/422", Exit::Failure),
        ("/422?app_role=invalid_config", Exit::InvalidConfig),
        ("/422?app_role=name_taken", Exit::Conflict),
        ("/500", Exit::Failure),
        ("/502?app_role=registry", Exit::Failure),
    ] {
        let failure = client.get::<Value>(path, &[]).await.unwrap_err();
        assert_eq!(failure.exit, exit, "{path}");
        assert!(failure.message.starts_with("no: "), "{failure:?}");
        if path != "/401" {
            assert_eq!(failure.hint.as_deref(), Some("do this"), "{path}");
        }
    }
    assert!(client.get::<Value>("/401", &[]).await.unwrap_err().hint.unwrap().contains("dunlin auth login"));
    let strange = client.get::<Value>("/plain", &[]).await.unwrap_err();
    assert_eq!(strange.exit, Exit::Unreachable);
    assert!(strange.message.contains("502"), "{strange:?}");
}

#[tokio::test]
async fn a_platform_that_is_away_is_told_with_its_address_and_how_to_start_it() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let failure = client(free).platform().await.unwrap_err();
    assert_eq!(failure.exit, Exit::Unreachable);
    assert!(failure.message.contains(&format!("http://{free}")), "{failure:?}");
    assert!(failure.hint.unwrap().contains("dunlin serve"));
}

#[tokio::test]
async fn the_token_is_sent_and_an_answer_of_another_kind_is_told() {
    let router = Router::new().route(
        "/v1/apps",
        get(|headers: HeaderMap| async move { headers["authorization"].to_str().unwrap().to_owned() }),
    );
    let client = client(serve(router).await);
    let failure = client.apps(None).await.unwrap_err();
    assert!(failure.message.contains("cannot be read"), "{failure:?}");
    for bad in ["ftp://x", "x", "http://"] {
        assert_eq!(client::Client::new(bad, None).unwrap_err().exit, Exit::Usage, "{bad}");
    }
}

fn deployment(status: &str) -> Value {
    json!({
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "app": "web", "release": 2, "status": status,
        "plan": {"steps": [], "warnings": [], "image": "web@sha256:00"}, "created_at": 0, "url": "http://web.localhost",
    })
}

fn event(number: u64, status: &str) -> String {
    format!("{}\n", json!({"number": number, "timestamp": 0, "message": "a step", "status": status}))
}

#[tokio::test]
async fn a_deployment_is_watched_on_after_the_connection_was_lost() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let events = move |Query(query): Query<Value>| {
        let after: u64 = query["after"].as_str().unwrap().parse().unwrap();
        seen.lock().unwrap().push(after);
        // The first answer ends in the middle, as when the control plane is killed.
        std::future::ready(if after == 0 { event(1, "running") + &event(2, "running") } else { event(3, "complete") })
    };
    let state = Arc::clone(&asked);
    let show = move || {
        let status = if state.lock().unwrap().len() < 2 { "running" } else { "complete" };
        std::future::ready(Json(deployment(status)))
    };
    let base = "/v1/apps/web/deployments/01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let router = Router::new().route(&format!("{base}/events"), get(events)).route(base, get(show));
    let address = serve(router).await;
    let context = context(&format!("http://{address}"), std::path::Path::new("."));
    let begun = serde_json::from_value(deployment("running")).unwrap();
    watch::finish(&context, &client(address), begun).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), [0, 2], "nothing is asked for twice");
}

#[tokio::test]
async fn an_app_that_was_made_for_a_deployment_that_never_began_goes_again() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let log = Arc::clone(&log);
        move || log.lock().unwrap().push(what)
    };
    let (created, destroyed) = (note("created"), note("destroyed"));
    let app = json!({
        "id": "web", "name": "web", "network": "default", "status": "pending", "machine_count": 0, "volume_count": 0,
        "organization": {"name": "Personal", "slug": "personal"}, "hostname": "web.localhost",
    });
    let platform = json!({
        "version": "0.1.0", "region": "local", "domain": "localhost", "http_port": 80, "https_port": 443,
        "registry": "127.0.0.1:1", "isolation": "qemu", "organizations": ["personal"],
    });
    let missing = || async { (StatusCode::NOT_FOUND, Json(json!({"error": "app not found: web"}))) };
    let refused = || async { (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": "image nope was not found"}))) };
    let router = Router::new()
        .route("/v1/platform", get(move || std::future::ready(Json(platform.clone()))))
        .route(
            "/v1/apps",
            post(move || {
                std::future::ready({
                    created();
                    (StatusCode::CREATED, Json(app.clone()))
                })
            }),
        )
        .route("/v1/apps/web", get(missing).merge(delete(move || async move { destroyed() })))
        .route("/v1/apps/web/deployments", get(|| async { Json(json!([])) }))
        .route("/v1/apps/web/plan", post(refused));
    let address = serve(router).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fly.toml");
    std::fs::write(&path, "app = \"web\"\n[build]\nimage = \"nope\"\n").unwrap();
    let Command::Client(command) = parsed("dunlin deploy").unwrap().command else {
        panic!("deploy is a client command")
    };
    let failure = dispatch(&context(&format!("http://{address}"), &path), command).await.unwrap_err();
    assert_eq!(failure.message, "image nope was not found");
    assert_eq!(*log.lock().unwrap(), ["created", "destroyed"]);
}

#[tokio::test]
async fn launch_writes_a_file_that_is_valid_and_overwrites_none() {
    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().join("My Project");
    std::fs::create_dir(&project).unwrap();
    let context = context("http://127.0.0.1:1", &project);
    let launch = |line: &str| {
        let Command::Client(command) = parsed(line).unwrap().command else { panic!("launch is a client command") };
        dispatch(&context, command)
    };
    let nothing = launch("dunlin launch --no-create").await.unwrap_err();
    assert!(nothing.message.contains("there is no Dockerfile"), "{nothing:?}");
    assert!(nothing.hint.unwrap().contains("--image"));
    std::fs::write(project.join("Dockerfile"), "FROM a\nENV PORT=3000\nEXPOSE $PORT\nVOLUME /data\n").unwrap();
    launch("dunlin launch --no-create").await.unwrap();
    let text = std::fs::read_to_string(project.join("fly.toml")).unwrap();
    let written = ::config::AppConfig::parse(&text).unwrap();
    assert_eq!(written.app.unwrap().as_str(), "my-project");
    assert_eq!(written.http_service.unwrap().value.internal_port, 3000);
    assert_eq!(written.mounts[0].value.path, "/data");
    assert_eq!(launch("dunlin launch --no-create --name other").await.unwrap_err().exit, Exit::Conflict);
    launch("dunlin launch --no-create --name other --region ams --image nginx --internal-port 80 --force")
        .await
        .unwrap();
    let text = std::fs::read_to_string(project.join("fly.toml")).unwrap();
    let written = ::config::AppConfig::parse(&text).unwrap();
    assert_eq!((written.build.image.as_deref(), written.primary_region.unwrap().as_str()), (Some("nginx"), "ams"));
}

#[tokio::test]
async fn a_file_with_errors_is_told_by_line_before_anything_is_asked_of_the_platform() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fly.toml");
    std::fs::write(&path, "app = \"web\"\n[http_service]\ninternal_prot = 1\n").unwrap();
    for line in ["dunlin config validate", "dunlin deploy --image a", "dunlin config show --local"] {
        let Command::Client(command) = parsed(line).unwrap().command else { panic!("{line} is a client command") };
        let failure = dispatch(&context("http://127.0.0.1:1", &path), command).await.unwrap_err();
        assert_eq!(failure.exit, Exit::InvalidConfig, "{line}");
        assert!(failure.message.contains("fly.toml:3: error: `internal_prot` is not a key"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_command_in_a_machine_has_streams_and_gives_its_status() {
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    let run = move |mut socket: WebSocket| async move {
        let Some(Ok(Message::Text(first))) = socket.recv().await else { panic!("the first message is text") };
        heard.lock().unwrap().push_str(&first);
        socket.send(Message::Ping("x".into())).await.unwrap();
        socket.send(Message::Binary([&[2][..], b"to standard error\n"].concat().into())).await.unwrap();
        socket.send(Message::Text(json!({"type": "exit", "code": 7, "signal": 0}).to_string().into())).await.unwrap();
        // As the platform does: dropped with unread bytes, the connection would be reset.
        while let Some(Ok(_)) = socket.recv().await {}
    };
    let path = "/v1/apps/web/machines/91857209c66d28/exec/stream";
    let refuse = || async { (StatusCode::PRECONDITION_FAILED, Json(json!({"error": "machine is stopped"}))) };
    let router = Router::new()
        .route(path, get(|upgrade: WebSocketUpgrade| std::future::ready(upgrade.on_upgrade(run))))
        .route("/v1/apps/web/machines/00000000000000/exec/stream", get(refuse));
    let url = format!("http://{}", serve(router).await);
    let exec = |machine: &str| {
        let line = format!("dunlin machine exec {machine} -u me -- sh -c ls");
        let Command::Client(command) = parsed(&line).unwrap().command else { panic!("exec is a client command") };
        let globals = Globals { app: Some("web".to_owned()), url: Some(url.clone()), ..Globals::default() };
        async move { dispatch(&Context::new(globals, output::Output::new(false, true)), command).await }
    };
    assert_eq!(exec("91857209c66d28").await, Ok(Exit::Remote(7)));
    let first: Value = serde_json::from_str(&said.lock().unwrap()).unwrap();
    assert_eq!(first, json!({"type": "run", "command": ["sh", "-c", "ls"], "tty": null, "user": "me"}));
    assert_eq!(exec("00000000000000").await.unwrap_err().message, "machine is stopped");
}

#[test]
fn tables_are_aligned_and_move_no_cursor() {
    let shown = output::table(
        ["NAME", "STATE"],
        [["a".to_owned(), "x\u{1b}[2J".to_owned()], ["longer".to_owned(), String::new()]],
    );
    assert_eq!(shown, "NAME    STATE\na       x [2J\nlonger");
    assert_eq!(
        [0, 1_500, 60_000, 600_000, 10_000_000, 400_000_000].map(|now| output::ago(now, 0)),
        ["just now", "just now", "60s ago", "10m ago", "2h ago", "4d ago"]
    );
}
