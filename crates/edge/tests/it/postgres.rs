//! PostgreSQL through `pg_tls`: the real client, the real server.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
};

use model::machine::Handler;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{
    support::*,
    tls::{client, connect},
};

/// A server of its own, in a directory of its own. Dropping it kills it.
struct Server {
    _process: Child,
    _directory: TempDir,
}

/// Where Debian keeps the server's programs; `None`, said by name, if there are none.
fn programs(test: &str) -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
    if found.is_none() {
        println!("skipped: {test}: PostgreSQL is not installed (apt-get install postgresql)");
    }
    found
}

/// The server refuses to run as root: it gets the user of its package, or the one who runs the test.
async fn start(programs: &Path, address: SocketAddr) -> Server {
    let directory = tempfile::Builder::new().prefix("postgres").tempdir().unwrap();
    let user = nix::unistd::User::from_name("postgres").unwrap().filter(|_| nix::unistd::geteuid().is_root());
    let as_user = |program: &str| {
        let mut command = Command::new(programs.join(program));
        command.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        if let Some(user) = &user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    };
    if let Some(user) = &user {
        chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
    let data = directory.path().join("data");
    let made = as_user("initdb").args(["--auth=trust", "--username=dunlin", "--no-sync", "-D"]).arg(&data).status();
    assert!(made.await.unwrap().success());
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let sockets = directory.path().to_str().unwrap();
    let process = as_user("postgres").args(["-D"]).arg(&data).args(["-h", &ip, "-p", &port, "-k", sockets]).spawn();
    fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n").unwrap();
    within(async { while TcpStream::connect(address).await.is_err() {} }).await;
    Server { _process: process.unwrap(), _directory: directory }
}

/// psql towards the edge, by name. Names below `localhost` are not known to every resolver, so the address is given.
fn psql(world: &World, app: &str, more: &str, sql: &str) -> Command {
    let root = world.edge.authority_path();
    let target = format!(
        "host={} hostaddr={} port=5432 user=dunlin dbname=postgres sslrootcert={} connect_timeout=10 {more}",
        host(app),
        world.ip,
        root.display()
    );
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, &target]);
    psql.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    psql
}

#[tokio::test]
async fn psql_reaches_the_server_of_each_app_and_cancels_what_it_does() {
    let Some(programs) = programs("psql_reaches_the_server_of_each_app_and_cancels_what_it_does") else { return };
    let mut world = World::start().await;
    let apps = ["one", "two"].map(|app| Machine::of(app).port(5432, &[Handler::PgTls]));
    let _servers = (start(&programs, apps[0].address()).await, start(&programs, apps[1].address()).await);
    world.know(&[&apps[0], &apps[1]]).await;
    for (app, machine) in ["one", "two"].into_iter().zip(&apps) {
        let said =
            within(psql(&world, app, "sslmode=verify-full", "select inet_server_addr()").output()).await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert_eq!(out.trim(), machine.address().ip().to_string(), "{err}");
    }
    let plain = within(psql(&world, "one", "sslmode=disable", "select 1").output()).await.unwrap();
    let err = String::from_utf8_lossy(&plain.stderr);
    assert!(!plain.status.success() && err.contains("connect with sslmode=require"), "{err}");

    let sleeping =
        psql(&world, "two", "sslmode=require application_name=sleeper", "select pg_sleep(600)").spawn().unwrap();
    let asleep = "select count(*) from pg_stat_activity where application_name = 'sleeper' and state = 'active'";
    let begun = async {
        while String::from_utf8_lossy(&psql(&world, "two", "sslmode=require", asleep).output().await.unwrap().stdout)
            .trim()
            != "1"
        {}
    };
    within(begun).await;
    // psql sends the cancellation over a connection of its own, without TLS.
    let pid = nix::unistd::Pid::from_raw(sleeping.id().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = within(sleeping.wait_with_output()).await.unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert!(err.contains("canceling statement due to user request"), "{err}");
}

/// A program that tells what it gets and answers with a key.
async fn backend(machine: &Machine) -> TcpListener {
    TcpListener::bind(machine.address()).await.unwrap()
}

const STARTUP: &[u8] = b"\0\0\0\x11\0\x03\0\0user\0x\0\0\0";

#[tokio::test]
async fn a_client_may_begin_with_the_handshake_if_it_names_the_protocol() {
    let mut world = World::start().await;
    let machine = Machine::of("db").port(5432, &[Handler::PgTls]);
    let listener = backend(&machine).await;
    world.know(&[&machine]).await;
    let address = (world.ip, 5432).into();
    let mut stream = connect(client(&world, &["postgresql"]), address, &host("db")).await.unwrap();
    stream.write_all(STARTUP).await.unwrap();
    let (mut program, _) = within(listener.accept()).await.unwrap();
    let mut first = [0; STARTUP.len()];
    within(program.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, STARTUP);

    // In TLS 1.3 the client's side of the handshake is over before the edge refuses.
    let refused = async {
        let mut stream = connect(client(&world, &[]), address, &host("db")).await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    assert!(within(refused).await.is_err());
    until("the app is told", || world.logs.has("PT06")).await;
}

#[tokio::test]
async fn wishes_are_answered_in_any_order_and_a_cancellation_reaches_the_machine_of_its_session() {
    let mut world = World::start().await;
    let machines = [Machine::of("db"), Machine::of("db")].map(|machine| machine.port(5432, &[Handler::PgTls]));
    let listeners = [backend(&machines[0]).await, backend(&machines[1]).await];
    world.know(&[&machines[0], &machines[1]]).await;
    let mut greeted = TcpStream::connect((world.ip, 5432)).await.unwrap();
    let mut answer = [0];
    greeted.write_all(&[0, 0, 0, 8, 4, 210, 22, 48]).await.unwrap();
    within(greeted.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"N");
    greeted.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    within(greeted.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"S");
    let name = rustls::pki_types::ServerName::try_from(host("db")).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client(&world, &[])));
    let mut session = within(connector.connect(name, greeted)).await.unwrap();
    session.write_all(STARTUP).await.unwrap();
    let (mut program, which) = within(async {
        tokio::select! {
            accepted = listeners[0].accept() => (accepted.unwrap().0, 0),
            accepted = listeners[1].accept() => (accepted.unwrap().0, 1),
        }
    })
    .await;
    program.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\x12\x34SECRZ\0\0\0\x05I").await.unwrap();
    let mut said = [0; 28];
    within(session.read_exact(&mut said)).await.unwrap();

    let cancel = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\x12\x34SECR";
    let mut wrong = *cancel;
    wrong[15] = b'T';
    for (message, passes) in [(wrong, false), (*cancel, true)] {
        let mut asking = TcpStream::connect((world.ip, 5432)).await.unwrap();
        asking.write_all(&message).await.unwrap();
        if passes {
            let (mut told, _) = within(listeners[which].accept()).await.unwrap();
            let mut seen = [0; 16];
            within(told.read_exact(&mut seen)).await.unwrap();
            assert_eq!(&seen, cancel);
        }
        assert_eq!(within(asking.read(&mut [0])).await.unwrap(), 0);
    }
}
