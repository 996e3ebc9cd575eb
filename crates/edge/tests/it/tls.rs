//! TLS, by the local certificate authority.

use std::{fs, sync::Arc};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::machine::{Handler, TlsOptions};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::*;

/// A client that trusts the edge's authority, and nobody else.
pub fn client(world: &World, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.edge.authority_path()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

pub async fn connect(
    config: ClientConfig,
    address: std::net::SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    shake_hands(config, TcpStream::connect(address).await?, name).await
}

pub async fn shake_hands(config: ClientConfig, stream: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

pub async fn fetch(stream: TlsStream<TcpStream>, host: &str) -> Answer {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", host).body(Empty::<Bytes>::new()).unwrap();
    Answer::read(within(sender.send_request(request)).await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn an_app_is_reached_over_tls_in_both_versions_of_http() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let stream = connect(client(&world, &["http/1.1"]), world.https(), &host("shop")).await.unwrap();
    let answer = fetch(stream, &host("shop")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("x-forwarded-proto: https") && answer.body.contains("x-forwarded-ssl: on"));

    let stream = connect(client(&world, &["h2", "http/1.1"]), world.https(), &host("shop")).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://shop.dunlin.localhost/").body(Empty::<Bytes>::new()).unwrap();
    let answer = Answer::read(within(sender.send_request(request)).await.unwrap()).await.unwrap();
    assert!(answer.body.contains("via: 2 dunlin"), "{}", answer.body);
}

#[tokio::test]
async fn a_name_that_nobody_has_still_gets_a_page_but_a_foreign_one_gets_no_handshake() {
    let world = World::start().await;
    let stream = connect(client(&world, &[]), world.https(), &host("nobody")).await.unwrap();
    assert_eq!(fetch(stream, &host("nobody")).await.header("dunlin-error"), "PH01");
    assert!(connect(client(&world, &[]), world.https(), "www.example.com").await.is_err());
}

#[tokio::test]
async fn a_connection_secured_for_one_app_carries_nothing_for_another() {
    let mut world = World::start().await;
    let machines = [Machine::of("one"), Machine::of("two")];
    let _programs = (machines[0].run(says("one")).await, machines[1].run(says("two")).await);
    world.know(&[&machines[0], &machines[1]]).await;
    let stream = connect(client(&world, &[]), world.https(), &host("one")).await.unwrap();
    let answer = fetch(stream, &host("two")).await;
    assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::MISDIRECTED_REQUEST, "PH05"));
}

#[tokio::test]
async fn the_authority_is_good_for_the_platforms_domain_only_and_outlives_the_edge() {
    let world = World::start().await;
    let keys = world.directory.path().join("keys");
    assert_eq!(world.edge.authority_path(), keys.join("ca.pem"));
    let before = fs::read(keys.join("ca.pem")).unwrap();
    let again = World::with(|options| options.keys = keys.clone()).await;
    assert_eq!(fs::read(again.edge.authority_path()).unwrap(), before);
    let elsewhere = World::with(|options| {
        options.keys = keys.clone();
        options.domain = "other.localhost".into();
    })
    .await;
    assert_ne!(fs::read(elsewhere.edge.authority_path()).unwrap(), before);
}

/// A program that sends bytes back.
async fn echo(machine: &Machine) {
    let listener = TcpListener::bind(machine.address()).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
}

#[tokio::test]
async fn a_port_with_tls_alone_passes_the_bytes_inside() {
    let mut world = World::start().await;
    let options = TlsOptions { alpn: vec!["mqtt".into()], versions: vec!["TLSv1.2".into()], ..TlsOptions::default() };
    let machine = Machine::of("broker").port(8883, &[Handler::Tls]).each_port(|port| {
        if port.port == Some(8883) {
            port.tls_options = Some(options.clone());
        }
    });
    echo(&machine).await;
    world.know(&[&machine]).await;
    let address = (world.ip, 8883).into();
    let mut stream = connect(client(&world, &["mqtt"]), address, &host("broker")).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"mqtt"[..]));
    stream.write_all(b"bytes").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    within(stream.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"bytes");
    assert!(connect(client(&world, &["mqtt"]), address, &host("other")).await.is_err());
}

#[tokio::test]
async fn the_app_is_told_of_handshakes_that_came_to_nothing() {
    let mut world = World::with(|options| options.bounds.handshake = std::time::Duration::from_millis(500)).await;
    let strict = TlsOptions { versions: vec!["TLSv1.3".into()], ..TlsOptions::default() };
    let machine = Machine::of("broker").port(8883, &[Handler::Tls]).port(8884, &[]).each_port(|port| {
        if port.port == Some(8883) {
            port.tls_options = Some(strict.clone());
        }
    });
    world.know(&[&machine]).await;
    let mut old = client(&world, &[]);
    old = ClientConfig::builder_with_provider(old.crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    assert!(connect(old, (world.ip, 8883).into(), &host("broker")).await.is_err());
    until("a version that does not fit is told", || world.logs.has("PT06")).await;

    // A whole first message, then nothing.
    let mut stream = TcpStream::connect((world.ip, 8883)).await.unwrap();
    let name = ServerName::try_from(host("broker")).unwrap();
    let mut hello = Vec::new();
    let mut session = rustls::ClientConnection::new(Arc::new(client(&world, &[])), name).unwrap();
    session.write_tls(&mut hello).unwrap();
    stream.write_all(&hello).await.unwrap();
    until("a handshake that does not go on is told", || world.logs.has("PT08")).await;
}

#[tokio::test]
async fn openssl_is_offered_the_listed_ciphers_and_no_others() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("shop")]).await;
    let (address, name) = (world.https().to_string(), host("shop"));
    for (flags, works) in [
        (&["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"][..], true),
        (&["-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"], true),
        (&["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"], true),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], true),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], true),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], true),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], false),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"], false),
        (&["-tls1_2", "-cipher", "AES128-GCM-SHA256"], false),
        (&["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"], false),
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
    ] {
        let openssl = tokio::process::Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", &name])
            .args(flags)
            .stdin(std::process::Stdio::null())
            .output();
        let Ok(output) = within(openssl).await else {
            println!("skipped: openssl_is_offered_the_listed_ciphers_and_no_others: openssl cannot be run");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        let agreed = said.contains("Cipher is ") && !said.contains("Cipher is (NONE)");
        assert_eq!(agreed, works, "{flags:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_cut_off() {
    let world = World::with(|options| options.bounds.handshake = std::time::Duration::from_millis(50)).await;
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n"] {
        let mut stream = TcpStream::connect(world.https()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let mut rest = Vec::new();
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
}

#[tokio::test]
async fn a_session_is_resumed_on_any_connection_to_the_same_name() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = client(&world, &["http/1.1"]);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(world.edge.authority_path()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(config.crypto_provider().clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let stream = connect(config.clone(), world.https(), &host("shop")).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // The ticket comes after the handshake.
            assert_eq!(fetch(stream, &host("shop")).await.status, StatusCode::OK);
        }
        let resumed = rustls::HandshakeKind::Resumed;
        assert_eq!(kinds, [rustls::HandshakeKind::Full, resumed, resumed], "{version:?}");
    }
}

/// What `openssl s_client` says of a connection; nothing where it cannot be run.
async fn s_client(world: &World, name: &str, flags: &[&str]) -> Option<String> {
    let openssl = tokio::process::Command::new("openssl")
        .args(["s_client", "-connect", &world.https().to_string(), "-servername", name])
        .args(flags)
        .stdin(std::process::Stdio::null())
        .output();
    let output = within(openssl).await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn openssl_finds_nothing_that_a_scanner_would_report() {
    let mut world = World::start().await;
    world.know(&[&Machine::of("shop"), &Machine::of("other")]).await;
    let session = world.directory.path().join("session").display().to_string();
    let (shop, other) = (host("shop"), host("other"));
    for (name, flags, said) in [
        (&shop, &["-tls1_3", "-alpn", "h2,http/1.1"][..], "ALPN protocol: h2"),
        (&shop, &["-tls1_3", "-alpn", "http/1.1"], "ALPN protocol: http/1.1"),
        (&shop, &["-tls1_3", "-alpn", "h3"], "no application protocol"),
        (&shop, &["-tls1_3"], "Early data was not sent"),
        (&shop, &["-tls1_3", "-groups", "X25519"], "Cipher is TLS_"),
        (&shop, &["-tls1_3", "-groups", "P-256"], "Cipher is TLS_"),
        (&shop, &["-tls1_3", "-groups", "ffdhe2048"], "handshake failure"),
        (&shop, &["-tls1_2"], "Secure Renegotiation IS supported"),
        (&shop, &["-tls1_2", "-comp"], "Compression: NONE"),
        (&shop, &["-tls1_2", "-status"], "OCSP response: no response sent"),
        (&shop, &["-tls1_2", "-sess_out", &session], "New, TLSv1.2"),
        (&shop, &["-tls1_2", "-sess_in", &session], "Reused, TLSv1.2"),
        (&other, &["-tls1_2", "-sess_in", &session], "New, TLSv1.2"),
    ] {
        let Some(text) = s_client(&world, name, flags).await else {
            println!("skipped: openssl_finds_nothing_that_a_scanner_would_report: openssl cannot be run");
            return;
        };
        assert!(text.contains(said), "{name} {flags:?}: {said}: {text}");
    }
}

#[tokio::test]
async fn who_has_agreed_on_http_2_gets_no_answer_in_http_1() {
    let mut world = World::start().await;
    let machine = Machine::of("shop");
    let program = machine.run(says("hello")).await;
    world.know(&[&machine]).await;
    let mut stream = connect(client(&world, &["h2"]), world.https(), &host("shop")).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.dunlin.localhost\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = within(stream.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&said));
    assert_eq!(program.accepted(), 0);
}
