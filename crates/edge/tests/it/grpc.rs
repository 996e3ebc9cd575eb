//! gRPC, judged by its own library at both ends.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    support::*,
    worker::{Authority, Far, host_of},
};

const PEER: &str = include_str!("grpc_peer.py");

fn peer(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PEER]).args(arguments).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A machine's program whose connections end after some time; nothing where the library is not there.
async fn program(machine: &Machine, age_ms: &str) -> Option<Child> {
    let mut child = peer(&["serve", &machine.address().to_string(), age_ms]).spawn().ok()?;
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).await.unwrap();
    if said == "serving\n" {
        return Some(child);
    }
    let output = child.wait_with_output().await.unwrap();
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("No module named 'grpc'"), "{why}");
    None
}

/// Calls machines whose connections last, and those whose connections are soon over.
async fn calls_go_well(world: &World) {
    for (calls, app, steps) in [("kinds", "lasting", 9), ("goodbyes", "brief", 1)] {
        let (authority, address) = (world.edge.authority_path(), world.https().to_string());
        let called = peer(&[calls, authority.to_str().unwrap(), &address, &host(app)]).output();
        let output = within(called).await.unwrap();
        let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{why}\n{:?}", world.logs.lines());
        assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), steps, "{said}");
    }
}

/// A machine whose connections last and one whose connections are soon over, and their programs.
async fn machines() -> Option<[(Machine, Child); 2]> {
    let (lasting, brief) = (Machine::of("lasting").h2_backend(), Machine::of("brief").h2_backend());
    let (one, other) = (program(&lasting, "3600000").await?, program(&brief, "200").await?);
    Some([(lasting, one), (brief, other)])
}

#[tokio::test]
async fn calls_of_every_kind_reach_a_machine() {
    let mut world = World::start().await;
    let Some([(lasting, _one), (brief, _other)]) = machines().await else {
        println!("skipped: calls_of_every_kind_reach_a_machine: python3 with grpcio is not there");
        return;
    };
    world.know(&[&lasting, &brief]).await;
    calls_go_well(&world).await;
}

#[tokio::test]
async fn calls_of_every_kind_reach_a_machine_of_another_host() {
    let authority = Authority::new();
    let ((mut host, worker), mut far) = (host_of(&authority, "one").await, Far::start(&authority).await);
    let Some([(lasting, _one), (brief, _other)]) = machines().await else {
        println!("skipped: calls_of_every_kind_reach_a_machine_of_another_host: python3 with grpcio is not there");
        return;
    };
    host.know(&[&lasting, &brief]).await;
    far.know(&[(&lasting, &worker), (&brief, &worker)]).await;
    calls_go_well(&far.world).await;
}
