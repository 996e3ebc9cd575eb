//! Ports whose bytes pass as they are.

use model::machine::{Handler, MachineState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::*;

/// A program that reads to the end, then sends everything back with a greeting: it answers only to a half-closed
/// connection.
async fn reads_all(machine: &Machine, greeting: &'static str) {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut sent = Vec::new();
                stream.read_to_end(&mut sent).await.unwrap();
                stream.write_all(greeting.as_bytes()).await.unwrap();
                stream.write_all(&sent).await.unwrap();
            });
        }
    });
}

async fn ask(address: (std::net::Ipv4Addr, u16), text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn bytes_pass_with_half_close_and_in_a_range_of_ports() {
    let mut world = World::start().await;
    let machine = Machine::of("db").port(7000, &[]).service(|service| {
        let range = model::machine::Port { start_port: Some(7001), end_port: Some(7003), ..Default::default() };
        service.ports.push(range);
    });
    reads_all(&machine, "got ").await;
    world.know(&[&machine]).await;
    assert_eq!(world.edge.app_ports(), [7000, 7001, 7002, 7003]);
    for port in 7000..=7003 {
        assert_eq!(ask((world.ip, port), "ping").await.unwrap(), "got ping");
    }
}

#[tokio::test]
async fn a_connection_waits_for_a_machine_too() {
    let mut world = World::start().await;
    let machine = Machine::of("db").port(7000, &[]);
    reads_all(&machine, "").await;
    world.know(&[&machine.clone().state(MachineState::Starting)]).await;
    let address = (world.ip, 7000);
    let waiting = tokio::spawn(async move { ask(address, "patient").await });
    world.know(&[&machine]).await;
    assert_eq!(within(waiting).await.unwrap().unwrap(), "patient");
}

#[tokio::test]
async fn a_connection_that_cannot_be_carried_is_closed_and_the_app_told() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("db").port(7000, &[])]).await;
    assert_eq!(ask((world.ip, 7000), "anybody?").await.unwrap_or_default(), "");
    until("the app's log says so", || world.logs.has("PC01")).await;
}

#[tokio::test]
async fn ports_follow_the_catalog_and_established_connections_stay() {
    let mut world = World::start().await;
    let machine = Machine::of("db");
    let open = machine.clone().port(7000, &[]);
    reads_all(&machine, "").await;
    world.know(&[&open]).await;
    let mut established = TcpStream::connect((world.ip, 7000)).await.unwrap();
    established.write_all(b"one ").await.unwrap();
    // The connection is established with the machine, not only with the edge's backlog.
    let routed = world.edge.clone();
    let drain = machine.id().clone();
    let generation = *routed.generation().borrow();
    let settled = async {
        use api::internal::Drain;
        while routed.drained(&drain, generation, std::time::Duration::from_millis(1)).await == 0 {}
    };
    within(settled).await;

    world.know(&[&machine]).await;
    assert!(world.edge.app_ports().is_empty());
    let (ip, mut closed) = (world.ip, false);
    while !closed {
        closed = TcpStream::connect((ip, 7000)).await.is_err();
    }
    established.write_all(b"two").await.unwrap();
    established.shutdown().await.unwrap();
    let mut answer = String::new();
    within(established.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "one two");

    world.know(&[&open]).await;
    until("the port is open again", || world.edge.app_ports() == [7000]).await;
    assert_eq!(ask((world.ip, 7000), "back").await.unwrap(), "back");
}

/// A connection through the edge, both of whose ends are in the test's hand.
async fn joined(world: &World, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect((world.ip, 7000)).await.unwrap();
    client.write_all(b"x").await.unwrap();
    let (mut machine, _) = within(listener.accept()).await.unwrap();
    within(machine.read_exact(&mut [0])).await.unwrap();
    (client, machine)
}

pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn a_reset_stays_a_reset_and_the_app_is_told_whose_it_was() {
    let mut world = World::start().await;
    let machine = Machine::of("db").port(7000, &[]);
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    world.know(&[&machine]).await;
    let reset_kind = |read: std::io::Result<usize>| read.unwrap_err().kind();

    let (mut client, program) = joined(&world, &listener).await;
    reset(program);
    assert_eq!(reset_kind(within(client.read(&mut [0])).await), std::io::ErrorKind::ConnectionReset);
    until("before it answered", || world.logs.has("PC03")).await;

    let (mut client, mut program) = joined(&world, &listener).await;
    program.write_all(b"y").await.unwrap();
    within(client.read_exact(&mut [0])).await.unwrap();
    reset(program);
    assert_eq!(reset_kind(within(client.read(&mut [0])).await), std::io::ErrorKind::ConnectionReset);
    until("in the middle", || world.logs.has("PC05")).await;

    let (client, mut program) = joined(&world, &listener).await;
    reset(client);
    assert_eq!(reset_kind(within(program.read(&mut [0])).await), std::io::ErrorKind::ConnectionReset);
    until("the client's own", || world.logs.has("PC04")).await;
}

#[tokio::test]
async fn either_side_may_end_its_direction_first() {
    let mut world = World::start().await;
    let machine = Machine::of("db").port(7000, &[]);
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    world.know(&[&machine]).await;
    let (mut client, mut program) = joined(&world, &listener).await;
    program.shutdown().await.unwrap();
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    within(program.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "still here");
}

#[tokio::test]
async fn a_silent_connection_ends_only_if_the_app_asks_for_it() {
    let mut world = World::start().await;
    let options = model::machine::HttpOptions { idle_timeout: Some(1), ..Default::default() };
    let machine = Machine::of("db").port(7000, &[]).each_port(|port| port.http_options = Some(options.clone()));
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    world.know(&[&machine]).await;
    let (mut client, mut program) = joined(&world, &listener).await;
    assert_eq!(within(client.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(within(program.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn ten_thousand_ports_are_opened_and_closed() {
    let mut world = World::start().await;
    let open = Machine::of("game").service(|service| {
        let range = model::machine::Port { start_port: Some(10_000), end_port: Some(19_999), ..Default::default() };
        service.ports.push(range);
    });
    // More files than a process is given without asking (1024, usually): the system's own bound is what counts.
    if nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().1 < 12_000 {
        println!("skipped: ten_thousand_ports_are_opened_and_closed: too few files may be opened here");
        return;
    }
    reads_all(&open, "").await;
    world.know(&[&open]).await;
    until("they are open", || world.edge.app_ports().len() == 10_000).await;
    for port in [10_000, 14_567, 19_999] {
        assert_eq!(ask((world.ip, port), "far").await.unwrap(), "far");
    }
    world.know(&[&Machine::of("other")]).await;
    world.remove(&open);
    world.know(&[]).await;
    assert!(world.edge.app_ports().is_empty());
}

#[tokio::test]
async fn http_is_offered_on_other_ports_too() {
    let mut world = World::start().await;
    let machine = Machine::of("shop").port(8081, &[Handler::Http]);
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let request = http::Request::get("/").header("host", "shop.dunlin.localhost:8081");
    let answer = within(send((world.ip, 8081).into(), request.body(full("")).unwrap())).await.unwrap();
    assert!(answer.body.contains("x-forwarded-port: 8081"), "{}", answer.body);
}

#[tokio::test]
async fn a_port_that_is_taken_or_reserved_is_told_to_the_app_and_takes_nothing_else_down() {
    let mut world = World::with(|options| {
        options.reserved_ports.insert(7001);
    })
    .await;
    let taken = TcpListener::bind((world.ip, 7000)).await.unwrap();
    let machine = Machine::of("db").port(7000, &[]).port(7001, &[]).port(7002, &[]);
    reads_all(&machine, "").await;
    world.know(&[&machine]).await;
    assert_eq!(world.edge.app_ports(), [7002]);
    let lines = world.logs.lines();
    for port in ["port 7000 cannot be opened", "port 7001 is reserved"] {
        assert!(lines.iter().any(|line| line.starts_with("[PL03]") && line.contains(port)), "{lines:?}");
    }
    drop(taken);
    world.know(&[&machine]).await;
    until("the port is open", || world.edge.app_ports().contains(&7000)).await;
    assert_eq!(ask((world.ip, 7000), "now").await.unwrap(), "now");
}

#[tokio::test]
async fn one_source_gets_only_so_many_connections() {
    let mut world = World::with(|options| {
        options.bounds.connections_per_source = 2;
        options.bounds.unlimited_sources = Vec::new();
    })
    .await;
    let machine = Machine::of("shop");
    let _program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let idle = [TcpStream::connect(world.http()).await.unwrap(), TcpStream::connect(world.http()).await.unwrap()];
    let mut third = TcpStream::connect(world.http()).await.unwrap();
    let mut nothing = Vec::new();
    let _ = within(third.read_to_end(&mut nothing)).await;
    assert!(nothing.is_empty());
    drop(idle);
    let request = || http::Request::get("/").header("host", host("shop")).body(full("")).unwrap();
    let again = async { while send(world.http(), request()).await.is_err() {} };
    within(again).await;
}
