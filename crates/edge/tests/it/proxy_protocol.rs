//! The PROXY protocol, to machines and from trusted peers; with HAProxy as the other side.

use std::{fs, net::SocketAddr, process::Stdio};

use edge::proxy_protocol::{Beginning, Header, Route, read, write};
use model::machine::{Handler, ProxyProtoOptions, ProxyProtoVersion};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};

use crate::{
    support::*,
    tls::{client, connect},
};

fn telling(app: &str, version: ProxyProtoVersion) -> Machine {
    let machine = Machine::of(app).port(2525, &[Handler::ProxyProto]).port(2526, &[Handler::ProxyProto, Handler::Tls]);
    machine.each_port(|port| {
        port.proxy_proto_options = Some(ProxyProtoOptions { version, ..ProxyProtoOptions::default() });
    })
}

/// The header that a program gets first, and what follows it.
async fn received(listener: &TcpListener) -> (Header, Vec<u8>) {
    let (mut program, _) = within(listener.accept()).await.unwrap();
    let mut all = Vec::new();
    within(program.read_to_end(&mut all)).await.unwrap();
    let Ok(Beginning::Header(header, length)) = read(&all) else { panic!("{all:?}") };
    (header, all[length..].to_vec())
}

#[tokio::test]
async fn a_machine_is_told_both_ends_as_the_client_sees_them() {
    let mut world = World::start().await;
    for (app, version) in [("one", ProxyProtoVersion::V1), ("two", ProxyProtoVersion::V2)] {
        let machine = telling(app, version);
        let listener = TcpListener::bind(machine.address()).await.unwrap();
        world.know(&[&machine]).await;

        let mut plain = TcpStream::connect((world.ip, 2525)).await.unwrap();
        plain.write_all(b"hello").await.unwrap();
        plain.shutdown().await.unwrap();
        let route = Some(Route { source: plain.local_addr().unwrap(), destination: (world.ip, 2525).into() });
        assert_eq!(received(&listener).await, (Header { route, authority: None }, b"hello".to_vec()));

        let mut secured = connect(client(&world, &[]), (world.ip, 2526).into(), &host(app)).await.unwrap();
        secured.write_all(b"inside").await.unwrap();
        secured.shutdown().await.unwrap();
        let route =
            Some(Route { source: secured.get_ref().0.local_addr().unwrap(), destination: (world.ip, 2526).into() });
        let authority = (version == ProxyProtoVersion::V2).then(|| host(app));
        assert_eq!(received(&listener).await, (Header { route, authority }, b"inside".to_vec()));
        world.remove(&machine);
        world.know(&[]).await;
    }
}

/// Sends bytes and reads the whole answer.
async fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: shop.dunlin.localhost\r\nconnection: close\r\n\r\n";

fn from_afar(version: ProxyProtoVersion) -> Vec<u8> {
    let route = Route { source: "203.0.113.9:4711".parse().unwrap(), destination: "198.51.100.1:80".parse().unwrap() };
    write(&Header { route: Some(route), authority: None }, version)
}

#[tokio::test]
async fn a_trusted_peer_says_who_the_client_is_and_nobody_else_does() {
    for (trusted, with, without) in [
        (&["127.0.0.0/8"][..], Some("203.0.113.9"), None),
        (&["127.0.0.0/8=optional"], Some("203.0.113.9"), Some("127.0.0.1")),
        (&["192.0.2.0/24"], None, Some("127.0.0.1")),
        (&[], None, Some("127.0.0.1")),
    ] {
        let trusted = trusted.iter().map(|it| it.parse().unwrap()).collect();
        let mut world = World::with(|options| options.trusted_proxies = trusted).await;
        let machine = Machine::of("shop");
        let _program = machine.run(mirror()).await;
        world.know(&[&machine]).await;
        let client = |answer: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix("fly-client-ip: "));
            line.map(str::to_owned)
        };
        for version in [ProxyProtoVersion::V1, ProxyProtoVersion::V2] {
            let told = ask(world.http(), &[&from_afar(version), REQUEST].concat()).await;
            assert_eq!(client(&told).as_deref(), with, "{told}");
        }
        assert_eq!(client(&ask(world.http(), REQUEST).await).as_deref(), without);
    }
}

#[tokio::test]
async fn a_damaged_header_closes_the_connection_and_one_that_never_ends_too() {
    let mut world = World::with(|options| {
        options.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        options.bounds.handshake = std::time::Duration::from_millis(200);
    })
    .await;
    let machine = Machine::of("shop");
    let program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let mut damaged = from_afar(ProxyProtoVersion::V2);
    damaged[17] ^= 1;
    let too_long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
    for bytes in [&damaged[..], &too_long, b"PROXY TCP4 203.0.113.9", b""] {
        assert_eq!(ask(world.http(), &[bytes, REQUEST].concat()).await, "", "{bytes:?}");
        assert_eq!(ask(world.http(), bytes).await, "", "{bytes:?}");
    }
    assert_eq!(program.accepted(), 0);
}

/// HAProxy with this configuration; `None`, said by name, if it is not there.
async fn haproxy(test: &str, world: &World, port: SocketAddr, sections: &str) -> Option<Child> {
    let file = world.directory.path().join(format!("haproxy-{}.cfg", port.port()));
    let common = "defaults\n timeout connect 10s\n timeout client 10s\n timeout server 10s\n";
    fs::write(&file, format!("{common}{sections}")).unwrap();
    let spawned =
        Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).kill_on_drop(true).spawn();
    let Ok(child) = spawned else {
        println!("skipped: {test}: haproxy cannot be run");
        return None;
    };
    within(async { while TcpStream::connect(port).await.is_err() {} }).await;
    Some(child)
}

#[tokio::test]
async fn haproxy_in_front_tells_us_and_haproxy_behind_understands_us() {
    let test = "haproxy_in_front_tells_us_and_haproxy_behind_understands_us";
    let mut world = World::with(|options| options.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let shop = Machine::of("shop");
    let _program = shop.run(mirror()).await;
    let (one, two) = (telling("one", ProxyProtoVersion::V1), telling("two", ProxyProtoVersion::V2));
    world.know(&[&shop, &one]).await;

    let front: SocketAddr = (fresh_ip(), 8000).into();
    for send in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,authority,unique-id"] {
        let sections = format!(
            "frontend f\n mode tcp\n bind {front}\n unique-id-format %ci\n default_backend b\n\
             backend b\n mode tcp\n server edge {} source 127.0.0.1 {send}\n",
            world.http()
        );
        let Some(mut child) = haproxy(test, &world, front, &sections).await else { return };
        let answer = ask(front, REQUEST).await;
        assert!(answer.contains("fly-client-ip: 127.0.0.1"), "{send}: {answer}");
        // It came from another address than the one we were connected from: from what HAProxy says.
        let stream = tokio::net::TcpSocket::new_v4().unwrap();
        stream.bind((world.ip, 0).into()).unwrap();
        let mut stream = stream.connect(front).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains(&format!("fly-client-ip: {}", world.ip)), "{send}: {answer}");
        child.kill().await.unwrap();
    }

    for machine in [one, two] {
        let behind = machine.address();
        let sections = format!(
            "frontend f\n mode http\n bind {behind} accept-proxy\n \
             http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n"
        );
        let Some(mut child) = haproxy(test, &world, behind, &sections).await else { return };
        world.know(&[&machine]).await;
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((world.ip, 0).into()).unwrap();
        let mut stream = socket.connect((world.ip, 2525).into()).await.unwrap();
        let local = stream.local_addr().unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.ends_with(&format!("{} {} {} 2525", local.ip(), local.port(), world.ip)), "{answer}");
        child.kill().await.unwrap();
        world.remove(&machine);
        world.know(&[]).await;
    }
}
