//! Datagrams.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use model::machine::{CheckState, Port, Protocol, Service};
use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};

use crate::support::*;

const PORT: u16 = 5353;

/// A machine that takes datagrams.
pub fn taking(app: &str) -> Machine {
    let mut machine = Machine::of(app);
    let ports = vec![Port { port: Some(PORT), ..Port::default() }];
    let udp = Service { protocol: Protocol::Udp, internal_port: PORT, ports, ..Service::default() };
    machine.0.spec.config.services.push(udp);
    machine
}

/// A program that answers each datagram with its machine's name and the datagram. Dropping it kills it.
pub struct Echo(JoinHandle<()>);

impl Echo {
    pub async fn start(machine: &Machine) -> Self {
        let socket = UdpSocket::bind((machine.0.addresses.host_local, PORT)).await.unwrap();
        let name = machine.id().to_string();
        Self(tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
                let _ = socket.send_to(&answer, from).await;
            }
        }))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub async fn client(world: &World) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect((world.ip, PORT)).await.unwrap();
    socket
}

/// Asks until there is an answer, as who speaks over UDP has to.
pub async fn ask(client: &UdpSocket, text: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 1 << 16];
    within(async {
        loop {
            let _ = client.send(text).await;
            if let Ok(Ok(length)) = timeout(Duration::from_millis(200), client.recv(&mut buffer)).await {
                return buffer[..length].to_vec();
            }
        }
    })
    .await
}

/// Each of these comes back, though none is sent again.
pub async fn are_answered(client: &UdpSocket, texts: &[&[u8]]) {
    let mut buffer = vec![0; 1 << 16];
    for text in texts {
        let length = within(client.recv(&mut buffer)).await.unwrap();
        assert!(buffer[..length].ends_with(text), "{:?} for {text:?}", &buffer[..length]);
    }
}

pub async fn machine_of(client: &UdpSocket) -> String {
    let answer = String::from_utf8(ask(client, b"who").await).unwrap();
    answer.split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn datagrams_of_any_length_pass_both_ways() {
    let mut world = World::start().await;
    let machine = taking("dns");
    let _echo = Echo::start(&machine).await;
    world.know(&[&machine]).await;
    assert_eq!(world.edge.app_udp_ports(), [PORT]);
    let routes = api::internal::EdgeView::routes(&*world.edge);
    let shown = routes.apps[0].ports.iter().find(|port| port.port == PORT).unwrap();
    assert_eq!((shown.handling.as_str(), shown.machines[0].takes_traffic), ("udp", true));
    let client = client(&world).await;
    for length in [0, 1, 1200, 9000, 60_000] {
        let text = vec![b'x'; length];
        let answer = ask(&client, &text).await;
        assert!(answer.ends_with(&text) && answer.len() == length + machine.id().as_str().len() + 1);
    }
    // Many at once come in batches.
    for number in 0..200_u32 {
        client.send(&number.to_be_bytes()).await.unwrap();
    }
    let mut seen = 0;
    while timeout(Duration::from_millis(500), client.recv(&mut [0; 100])).await.is_ok() {
        seen += 1;
    }
    assert!(seen > 32, "{seen} of 200");
    world.know(&[&Machine::of("dns")]).await;
    world.remove(&machine);
    world.know(&[]).await;
    until("the port is closed", || world.edge.app_udp_ports().is_empty()).await;
}

#[tokio::test]
async fn a_client_stays_with_its_machine_and_only_the_flows_of_one_that_goes_move() {
    let mut world = World::start().await;
    let machines: Vec<Machine> = (0..3).map(|_| taking("game")).collect();
    let mut echoes = Vec::new();
    for machine in &machines {
        echoes.push(Echo::start(machine).await);
    }
    world.know(&machines.iter().collect::<Vec<_>>()).await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(client(&world).await);
    }
    let mut before = Vec::new();
    for client in &clients {
        before.push(machine_of(client).await);
        assert_eq!(machine_of(client).await, *before.last().unwrap());
    }
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    before.iter().for_each(|machine| *counts.entry(machine).or_default() += 1);
    assert!(counts.len() > 1, "{counts:?}");

    // A machine whose checks fail is none; its program would still answer.
    let gone = machines.iter().find(|machine| machine.id().as_str() == before[0]).unwrap();
    world.know(&[&gone.clone().check(CheckState::Critical, 1)]).await;
    for (client, before) in clients.iter().zip(&before) {
        let now = machine_of(client).await;
        assert_eq!(now != *before, before == gone.id().as_str());
    }
}

#[tokio::test]
async fn nobody_but_the_machine_gets_through_to_a_client() {
    let mut world = World::start().await;
    let machine = taking("dns");
    let program = UdpSocket::bind((machine.0.addresses.host_local, PORT)).await.unwrap();
    world.know(&[&machine]).await;
    let (one, other) = (client(&world).await, client(&world).await);
    one.send(b"one").await.unwrap();
    let (_, flow) = within(program.recv_from(&mut [0; 10])).await.unwrap();
    other.send(b"other").await.unwrap();
    let (_, others) = within(program.recv_from(&mut [0; 10])).await.unwrap();
    assert_ne!(flow, others);
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"a lie", flow).await.unwrap();
    program.send_to(b"for one", flow).await.unwrap();
    program.send_to(b"for the other", others).await.unwrap();
    let mut buffer = [0; 100];
    for (client, text) in [(&one, &b"for one"[..]), (&other, b"for the other")] {
        let length = within(client.recv(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..length], text);
    }
}

#[tokio::test]
async fn one_source_gets_only_so_many_flows_and_silent_ones_make_room() {
    let mut world = World::with(|options| {
        options.bounds.flows_per_source = 2;
        options.bounds.flow_one_way = Duration::from_millis(100);
        options.bounds.flow_both_ways = Duration::from_secs(5);
    })
    .await;
    let machine = taking("dns");
    let _echo = Echo::start(&machine).await;
    world.know(&[&machine]).await;
    let clients = [client(&world).await, client(&world).await];
    for client in &clients {
        machine_of(client).await;
        machine_of(client).await;
    }
    let third = client(&world).await;
    third.send(b"me too").await.unwrap();
    assert!(timeout(Duration::from_millis(300), third.recv(&mut [0; 10])).await.is_err());
    machine_of(&third).await;
}

#[tokio::test]
async fn the_app_is_told_of_datagrams_that_nobody_takes() {
    let mut world = World::start().await;
    let machine = taking("dns");
    world.know(&[&machine]).await;
    let client = client(&world).await;
    let sent = Arc::new(client);
    let (sending, logs) = (sent.clone(), world.logs.clone());
    let keeps_on = tokio::spawn(async move {
        loop {
            let _ = sending.send(b"anybody?").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    until("nothing listens there", || logs.has("PC01")).await;
    world.know(&[&machine.clone().check(CheckState::Critical, 1)]).await;
    until("no machine is ready", || logs.has("PR01")).await;
    keeps_on.abort();
}

#[tokio::test]
async fn a_udp_port_that_is_taken_is_told_and_opened_later() {
    let mut world = World::start().await;
    let taken = UdpSocket::bind(SocketAddr::from((world.ip, PORT))).await.unwrap();
    let machine = taking("dns");
    let _echo = Echo::start(&machine).await;
    world.know(&[&machine]).await;
    until("it is told", || world.logs.has("PL03")).await;
    drop(taken);
    world.know(&[&machine]).await;
    until("it is open", || world.edge.app_udp_ports() == [PORT]).await;
    assert_eq!(machine_of(&client(&world).await).await, machine.id().as_str());
}
