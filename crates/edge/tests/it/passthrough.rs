//! Apps that end TLS themselves, on the port that all share.

use std::{fs, process::Stdio};

use model::machine::Handler;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::{
    support::*,
    tls::{client, connect},
};

/// An app that ends TLS itself, and takes port 443 as it is.
fn own_tls(app: &str) -> Machine {
    Machine::of(app).service(|service| service.ports.retain(|port| port.port != Some(443))).port(443, &[])
}

#[tokio::test]
async fn the_apps_own_certificate_is_seen_by_openssl_through_the_shared_port() {
    let mut world = World::start().await;
    let (own, shop) = (own_tls("own"), Machine::of("shop"));
    let _shop = shop.run(says("shop")).await;
    world.know(&[&own, &shop]).await;
    let (key, pem) = (world.directory.path().join("own.key"), world.directory.path().join("own.pem"));
    let made = rcgen::generate_simple_self_signed(vec![host("own")]).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(&pem, made.cert.pem()).unwrap();
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &own.address().to_string()])
        .args(["-cert".as_ref(), pem.as_os_str(), "-key".as_ref(), key.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(_server) = server else {
        println!("skipped: the_apps_own_certificate_is_seen_by_openssl: openssl cannot be run");
        return;
    };
    within(async { while TcpStream::connect(own.address()).await.is_err() {} }).await;
    for (file, name, verified) in [(&pem, "own", true), (&pem, "shop", false)] {
        let asked = Command::new("openssl")
            .args(["s_client", "-connect", &world.https().to_string(), "-servername", &host(name)])
            .args(["-verify_return_error".as_ref(), "-CAfile".as_ref(), file.as_os_str()])
            .stdin(Stdio::null())
            .output();
        let said = within(asked).await.unwrap();
        assert_eq!(said.status.success(), verified, "{name}: {}", String::from_utf8_lossy(&said.stderr));
    }
    // Everybody else's handshake is answered here as before.
    let stream = connect(client(&world, &["http/1.1"]), world.https(), &host("shop")).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

/// The bytes of a handshake's first message.
fn hello(world: &World, name: &str) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(client(world, &[]).into(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn the_first_message_arrives_unchanged_though_it_comes_in_pieces() {
    let mut world = World::start().await;
    let own = own_tls("own").port(8443, &[Handler::Tls]);
    let listener = TcpListener::bind(own.address()).await.unwrap();
    world.know(&[&own]).await;
    let hello = hello(&world, &host("own"));
    let mut stream = TcpStream::connect(world.https()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in hello.chunks(100) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(b"and more").await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut program, _) = within(listener.accept()).await.unwrap();
    let mut seen = Vec::new();
    within(program.read_to_end(&mut seen)).await.unwrap();
    assert!(seen == [hello.as_slice(), b"and more"].concat());
}

#[tokio::test]
async fn what_names_no_such_app_or_never_ends_does_not_reach_it() {
    let mut world = World::with(|options| options.bounds.handshake = std::time::Duration::from_millis(300)).await;
    let own = own_tls("own");
    let listener = TcpListener::bind(own.address()).await.unwrap();
    world.know(&[&own]).await;
    let whole = hello(&world, &host("own"));
    let endless = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x80, 0][..], &[0; 20_000]].concat();
    for beginning in
        [&hello(&world, "www.example.com"), &whole[..whole.len() - 1], &endless[..], b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(world.https()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let _ = within(stream.read_to_end(&mut Vec::new())).await;
    }
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(1), listener.accept()).await;
    assert!(accepted.is_err(), "it was let through");
}
