//! Real packets in network namespaces of the test's own: guests are namespaces at the far end of links that are set up
//! as taps are.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use model::{Addresses, MachineId, NetworkId, address::NAME_SERVER};
use nix::sched::{CloneFlags, setns};

use super::*;

/// How long a connection may take that must not come about. One that is let through takes microseconds.
const PATIENCE: Duration = Duration::from_millis(700);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PRIVATE_OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// Runs the rest of a test in a process of its own with its own network, if it is not there already. `false` where the
/// test is over: it has been run there, or cannot be run here.
fn in_own_network(test: &str) -> bool {
    if std::env::var_os("DUNLIN_TEST_OWN_NETWORK").is_some() {
        // Names of namespaces are files; those of this test are its own too.
        std::fs::create_dir_all("/run/netns").unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("none"), "/run/netns", Some("tmpfs"), flags, None::<&str>).unwrap();
        return true;
    }
    let possible = Command::new("unshare").args(["-n", "-m", "true"]).stderr(Stdio::null()).status();
    let tools = ["nft", "ip"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    if !possible.is_ok_and(|status| status.success()) || !tools {
        eprintln!("skipped: {test}: needs root, unshare, nft and ip");
        return false;
    }
    let here = format!("/proc/{}/exe", std::process::id());
    let name = format!("net::tests::{test}");
    let run = Command::new("unshare")
        .args(["-n", "-m"])
        .arg(here)
        .args(["--exact", &name, "--nocapture"])
        .env("DUNLIN_TEST_OWN_NETWORK", "1")
        .output();
    let run = run.unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
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

fn connects(namespace: &str, to: SocketAddr) -> io::Result<()> {
    inside(namespace, move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])
    })
}

/// A service that answers each connection with one byte, and tells who asked.
fn serve(namespace: Option<&str>, at: SocketAddr) -> std::sync::mpsc::Receiver<IpAddr> {
    let listener = match namespace {
        Some(namespace) => inside(namespace, move || TcpListener::bind(at).unwrap()),
        None => TcpListener::bind(at).unwrap(),
    };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.read_exact(&mut [0]).and_then(|()| stream.write_all(b"!"));
            let _ = tell.send(peer.ip());
        }
    });
    told
}

struct Guest {
    namespace: String,
    net: GuestNet,
}

impl Guest {
    /// A guest on a link that has the name of its tap.
    async fn new(network: &Network, slot: u32, of: NetworkId) -> Self {
        let machine = MachineId::from_random([slot as u8; 7]);
        let addresses = Addresses { private: of.machine_address(&machine), host_local: network.pool().address(slot) };
        let net = GuestNet { tap: network.tap_name(slot), addresses, owner_uid: 0 };
        let (namespace, tap) = (format!("g{slot}"), &net.tap);
        ip(&format!("netns add {namespace}"));
        ip(&format!("link add {tap} type veth peer name eth0 netns {namespace}"));
        network.configure(&net).await.unwrap();
        network.admit(net.clone()).await.unwrap();
        let (v4, v6) = (addresses.host_local, addresses.private);
        for line in [
            "link set lo up".to_owned(),
            format!("link set eth0 mtu {MTU} up"),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            format!("route add {GATEWAY_V4} dev eth0 scope link"),
            format!("route add default via {GATEWAY_V4} dev eth0 src {v4}"),
            format!("-6 route add default via {GATEWAY_V6} dev eth0 src {v6}"),
        ] {
            ip(&format!("-n {namespace} {line}"));
        }
        Self { namespace, net }
    }

    fn reaches(&self, to: impl Into<IpAddr>, port: u16) -> io::Result<()> {
        connects(&self.namespace, SocketAddr::new(to.into(), port))
    }

    fn v6(&self) -> Ipv6Addr {
        self.net.addresses.private
    }

    fn v4(&self) -> Ipv4Addr {
        self.net.addresses.host_local
    }
}

/// The world beyond the host: one address of the internet and one that should be private.
fn make_outside() {
    ip("link set lo up");
    ip("netns add outside");
    ip("link add up0 type veth peer name eth0 netns outside");
    ip(&format!("addr add {HOST_OUTSIDE}/24 dev up0"));
    ip("link set up0 up");
    for line in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add {OUTSIDE}/24 dev eth0"),
        format!("addr add {PRIVATE_OUTSIDE}/32 dev lo"),
        format!("route add 10.201.0.0/16 via {HOST_OUTSIDE}"),
    ] {
        ip(&format!("-n outside {line}"));
    }
    ip(&format!("route add {PRIVATE_OUTSIDE} via {OUTSIDE}"));
    ip(&format!("route add default via {OUTSIDE}"));
}

async fn network(directory: &tempfile::TempDir) -> Network {
    let network = Network::new("t", "10.201.0.0/16".parse().unwrap(), directory.path().join("settings.json"));
    network.open([], false).await.unwrap();
    network
}

#[tokio::test]
async fn guests_reach_what_they_may_and_nothing_else() {
    if !in_own_network("guests_reach_what_they_may_and_nothing_else") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_outside();
    let network = network(&directory).await;
    let one = Guest::new(&network, 1, NetworkId(7)).await;
    let two = Guest::new(&network, 2, NetworkId(7)).await;
    let other = Guest::new(&network, 3, NetworkId(8)).await;
    let everywhere = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    for guest in [&one, &two, &other] {
        serve(Some(&guest.namespace), everywhere(80));
    }
    let outside = serve(Some("outside"), everywhere(80));
    serve(None, everywhere(8080));
    serve(None, SocketAddr::new(NAME_SERVER.into(), 53));

    one.reaches(two.v6(), 80).expect("one network");
    two.reaches(one.v6(), 80).expect("one network, the other way");
    one.reaches(other.v6(), 80).expect_err("another network");
    one.reaches(two.v4(), 80).expect_err("no IPv4 between guests");

    one.reaches(NAME_SERVER, 53).expect("the name server");
    for address in [IpAddr::from(GATEWAY_V4), HOST_OUTSIDE.into(), NAME_SERVER.into()] {
        one.reaches(address, 8080).expect_err("no service of the host");
    }

    one.reaches(OUTSIDE, 80).expect("the internet");
    assert_eq!(outside.recv().unwrap(), IpAddr::from(HOST_OUTSIDE.to_ipv6_mapped()), "under the host's address");
    one.reaches(PRIVATE_OUTSIDE, 80).expect_err("private ranges");
    one.reaches(Ipv4Addr::new(169, 254, 169, 254), 80).expect_err("metadata services");
    connects("outside", SocketAddr::new(one.v4().into(), 80)).expect_err("from outside");

    for address in [IpAddr::from(one.v4()), one.v6().into()] {
        TcpStream::connect_timeout(&SocketAddr::new(address, 80), PATIENCE).expect("the host reaches its guests");
    }
}

#[tokio::test]
async fn a_packet_with_a_false_source_goes_nowhere() {
    if !in_own_network("a_packet_with_a_false_source_goes_nowhere") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_outside();
    let network = network(&directory).await;
    let one = Guest::new(&network, 1, NetworkId(7)).await;
    let two = Guest::new(&network, 2, NetworkId(7)).await;
    let stranger = NetworkId(7).machine_address(&MachineId::from_random([9; 7]));
    ip(&format!("-n {} addr add {stranger}/128 dev eth0 nodad", one.namespace));
    ip(&format!("-n {} addr add 10.201.0.2/32 dev eth0", one.namespace));

    let victims = inside(&two.namespace, || UdpSocket::bind("[::]:9").unwrap());
    let outside = inside("outside", || UdpSocket::bind("0.0.0.0:9").unwrap());
    for socket in [&victims, &outside] {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    // The false packet goes first, so the first to arrive tells whether it was dropped.
    for (source, target, receiver) in [
        ([IpAddr::from(stranger), one.v6().into()], IpAddr::from(two.v6()), &victims),
        ([IpAddr::from([10, 201, 0, 2]), one.v4().into()], OUTSIDE.into(), &outside),
    ] {
        inside(&one.namespace, move || {
            for (source, text) in source.into_iter().zip([b"false", b"true!"]) {
                let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
                socket.send_to(text, SocketAddr::new(target, 9)).unwrap();
            }
        });
        let mut text = [0; 5];
        receiver.recv_from(&mut text).unwrap();
        assert_eq!(&text, b"true!");
    }
}

/// A UDP socket with somebody else's address, towards a guest.
fn transparent(from: SocketAddr, to: SocketAddr) -> UdpSocket {
    use nix::sys::socket::{setsockopt, sockopt};
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::empty(),
        None,
    );
    let socket = socket.unwrap();
    setsockopt(&socket, sockopt::IpTransparent, &true).unwrap();
    let SocketAddr::V4(from) = from else { unreachable!("IPv4 only") };
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &nix::sys::socket::SockaddrIn::from(from))
        .unwrap();
    let socket = UdpSocket::from(socket);
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[tokio::test]
async fn a_guest_sees_the_client_of_a_datagram_and_its_answer_comes_back_to_the_host() {
    if !in_own_network("a_guest_sees_the_client_of_a_datagram_and_its_answer_comes_back_to_the_host") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    make_outside();
    let network = network(&directory).await;
    if !network.keeps_sources() {
        return eprintln!("skipped: a_guest_sees_the_client_of_a_datagram: the kernel has no nft_socket");
    }
    let one = Guest::new(&network, 1, NetworkId(7)).await;
    let guest_address = SocketAddr::new(one.v4().into(), 53);
    let guest = inside(&one.namespace, move || UdpSocket::bind(guest_address).unwrap());
    let client = SocketAddr::new(OUTSIDE.into(), 40_000);
    let outside = inside("outside", move || UdpSocket::bind(client).unwrap());
    let host = transparent(client, guest_address);
    host.send(b"question").unwrap();
    let mut buffer = [0; 20];
    let (_, from) = guest.recv_from(&mut buffer).unwrap();
    assert_eq!(from, client);
    guest.send_to(b"answer", from).unwrap();
    assert_eq!(host.recv(&mut buffer).unwrap(), 6);
    // It came back to the host, and did not go past it to the client; without such a socket it still would.
    drop(host);
    outside.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    guest.send_to(b"unasked!", from).unwrap();
    assert_eq!(outside.recv(&mut buffer).unwrap(), 8);

    network.close().await.unwrap();
    let rules = Command::new("ip").args(["rule", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("fwmark"), "the rule is taken back");
}

#[tokio::test]
async fn what_is_made_is_found_and_removed_again() {
    if !in_own_network("what_is_made_is_found_and_removed_again") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    ip("link set lo up");
    // A new namespace begins with the host's setting.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let network = network(&directory).await;
    let guest = |slot| GuestNet {
        tap: network.tap_name(slot),
        addresses: Addresses {
            private: NetworkId(7).machine_address(&MachineId::from_random([slot as u8; 7])),
            host_local: network.pool().address(slot),
        },
        owner_uid: 900_001,
    };
    let forwarding = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned();
    assert_eq!(forwarding(), "1");
    for slot in [1, 1, 2] {
        network.plug(&guest(slot)).await.unwrap();
        network.admit(guest(slot)).await.unwrap();
    }
    assert_eq!(network.taps().await.unwrap().len(), 2);

    let again = Network::new("t", network.pool(), directory.path().join("settings.json"));
    again.open([guest(1)], false).await.unwrap();
    assert_eq!(again.taps().await.unwrap().into_iter().collect::<Vec<_>>(), [guest(1).tap], "the orphan is gone");

    again.expel(&guest(1).tap).await.unwrap();
    again.unplug(&guest(1).tap).await.unwrap();
    again.unplug(&guest(1).tap).await.unwrap();
    again.close().await.unwrap();
    assert!(again.taps().await.unwrap().is_empty());
    assert_eq!(forwarding(), "0", "as it was found");
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    assert!(tables.stdout.is_empty(), "{}", String::from_utf8_lossy(&tables.stdout));
    assert!(UdpSocket::bind(SocketAddr::new(NAME_SERVER.into(), 0)).is_err());
}

#[tokio::test]
async fn guests_reach_the_internet_beside_docker() {
    if !in_own_network("guests_reach_the_internet_beside_docker") {
        return;
    }
    // What Docker does to a host that did not forward before.
    for line in ["-N DOCKER-USER", "-A FORWARD -j DOCKER-USER", "-P FORWARD DROP"] {
        let done = Command::new("iptables").args(line.split(' ')).output();
        if !done.is_ok_and(|done| done.status.success()) {
            return eprintln!("skipped: guests_reach_the_internet_beside_docker: needs iptables");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    make_outside();
    let network = network(&directory).await;
    let one = Guest::new(&network, 1, NetworkId(7)).await;
    serve(Some("outside"), SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 80));
    one.reaches(OUTSIDE, 80).expect("the internet");
    connects("outside", SocketAddr::new(one.v4().into(), 80)).expect_err("from outside");
    network.close().await.unwrap();
    let rules = Command::new("iptables").args(["-S", "DOCKER-USER"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&rules.stdout).contains("dlt-"), "the rules are taken back");
}
