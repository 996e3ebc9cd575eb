//! Under which address a machine sees the client of a datagram: real packets between network namespaces of the test's
//! own. The host brings answers back as `node::net` has it do.

use std::{
    fs::File,
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use model::machine::{Port, Protocol, Service};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
};

use crate::support::*;

const TEST: &str = "a_machine_sees_the_clients_own_address_where_the_host_brings_answers_back";
const PORT: u16 = 5353;

/// A host with a guest on one side and a client on the other.
const HOST: &[&str] = &[
    "ip link set lo up",
    "ip netns add guest",
    "ip link add tap0 type veth peer name eth0 netns guest",
    "ip addr add 169.254.1.1/32 dev tap0",
    "ip link set tap0 up",
    "ip route add 10.201.0.9/32 dev tap0 src 169.254.1.1",
    "ip -n guest addr add 10.201.0.9/32 dev eth0",
    "ip -n guest link set eth0 up",
    "ip -n guest route add 169.254.1.1 dev eth0",
    "ip -n guest route add default via 169.254.1.1",
    "ip netns add outside",
    "ip link add up0 type veth peer name eth0 netns outside",
    "ip addr add 203.0.113.1/24 dev up0",
    "ip link set up0 up",
    "ip -n outside addr add 203.0.113.2/24 dev eth0",
    "ip -n outside link set eth0 up",
];

const ANSWERS_COME_BACK: &[&str] = &[
    "nft add table inet sources",
    "nft add chain inet sources answers { type filter hook prerouting priority mangle ; policy accept ; }",
    "nft add rule inet sources answers iifname tap0 meta l4proto udp socket transparent 1 meta mark set 53",
    "ip route add local default dev lo table 53",
    "ip rule add fwmark 53 lookup 53",
];

fn run(line: &str) {
    let mut words = line.split(' ');
    let done = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Does something in another namespace.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Runs the rest of the test in a process of its own with its own network, if it is not there already.
fn in_own_network() -> bool {
    if std::env::var_os("DUNLIN_TEST_OWN_NETWORK").is_some() {
        std::fs::create_dir_all("/run/netns").unwrap();
        mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        return true;
    }
    let possible = Command::new("unshare").args(["-n", "-m", "true"]).stderr(Stdio::null()).status();
    let tools = ["nft", "ip"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !possible.is_ok_and(|status| status.success()) || !tools {
        println!("skipped: {TEST}: needs root, unshare, nft and ip");
        return false;
    }
    let here = format!("/proc/{}/exe", std::process::id());
    let name = format!("udp_sources::{TEST}");
    let mut again = Command::new("unshare");
    again.args(["-n", "-m"]).arg(here).args(["--exact", &name, "--nocapture"]);
    let again = again.env("DUNLIN_TEST_OWN_NETWORK", "1").output().unwrap();
    let said = String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// Asks from outside until there is an answer.
async fn ask(client: &UdpSocket) -> String {
    let client = client.try_clone().unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut buffer = [0; 100];
        loop {
            client.send(b"who am I?").unwrap();
            if let Ok(length) = client.recv(&mut buffer) {
                return String::from_utf8_lossy(&buffer[..length]).into_owned();
            }
        }
    });
    within(asked).await.unwrap()
}

#[tokio::test]
async fn a_machine_sees_the_clients_own_address_where_the_host_brings_answers_back() {
    if !in_own_network() {
        return;
    }
    HOST.iter().for_each(|line| run(line));
    let mut world = World::with(|options| {
        options.http = vec![([203, 0, 113, 1], 0).into()];
        options.https = vec![([203, 0, 113, 1], 0).into()];
    })
    .await;
    let mut machine = Machine::of("dns");
    machine.0.addresses.host_local = [10, 201, 0, 9].into();
    let ports = vec![Port { port: Some(PORT), ..Port::default() }];
    let udp = Service { protocol: Protocol::Udp, internal_port: PORT, ports, ..Service::default() };
    machine.0.spec.config.services.push(udp);
    let program = inside("guest", || UdpSocket::bind(SocketAddr::from(([10, 201, 0, 9], PORT))).unwrap());
    std::thread::spawn(move || {
        while let Ok((_, from)) = program.recv_from(&mut [0; 100]) {
            let _ = program.send_to(from.to_string().as_bytes(), from);
        }
    });
    world.know(&[&machine]).await;
    let client = || {
        inside("outside", || {
            let socket = UdpSocket::bind("203.0.113.2:0").unwrap();
            socket.connect(("203.0.113.1", PORT)).unwrap();
            socket
        })
    };
    let before = ask(&client()).await;
    assert!(before.starts_with("169.254.1.1:"), "{before}");

    ANSWERS_COME_BACK.iter().for_each(|line| run(line));
    world.edge.keep_sources("10.201.0.0/16".parse().unwrap());
    for _ in 0..3 {
        let client = client();
        assert_eq!(ask(&client).await, client.local_addr().unwrap().to_string());
        assert_eq!(ask(&client).await, client.local_addr().unwrap().to_string(), "the flow goes on");
    }
    // A client on this host has its address itself.
    let here = UdpSocket::bind("203.0.113.1:0").unwrap();
    here.connect(("203.0.113.1", PORT)).unwrap();
    assert!(ask(&here).await.starts_with("169.254.1.1:"));
}
