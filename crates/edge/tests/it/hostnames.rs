//! Custom host names: routed by HTTP and HTTPS, proven by their own certificates, shown by OpenSSL's client.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use api::internal::{ChallengeAnswer, ChallengeDoor, HostnameRow, HostnameView, SealedCertificate};
use edge::Hostnames;
use http::{Request, StatusCode};
use model::{Hostname, Timestamp, machine::TlsOptions};

use crate::support::*;

/// A row whose certificate is good for its name.
fn row(directory: &Path, hostname: &str, app: &str) -> HostnameRow {
    let hostname: Hostname = hostname.parse().unwrap();
    let made = rcgen::generate_simple_self_signed([hostname.to_string()]).unwrap();
    let key = made.signing_key.serialize_pem();
    let certificate = SealedCertificate {
        chain_pem: made.cert.pem(),
        sealed_key: sealing_key(directory).seal(&SealedCertificate::place(&hostname), key.as_bytes()),
        not_before: Timestamp(0),
        not_after: Timestamp(u64::MAX),
    };
    HostnameRow { hostname, app: app.parse().unwrap(), certificates: vec![certificate] }
}

fn view(rows: Vec<HostnameRow>) -> HostnameView {
    HostnameView {
        rows: rows.into_iter().map(|row| (row.hostname.clone(), Arc::new(row))).collect(),
        ..HostnameView::default()
    }
}

/// A world whose host names can be changed.
async fn world() -> (World, Arc<Hostnames>) {
    let mut served = None;
    let world = World::with(|options| served = Some(options.hostnames.clone())).await;
    (world, served.unwrap())
}

/// What OpenSSL's client prints about a handshake, and whether there was one; `None` where it is not installed.
async fn openssl(address: SocketAddr, name: &str, more: &[&str]) -> Option<(bool, String)> {
    let address = address.to_string();
    let mut command = tokio::process::Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-servername", name, "-showcerts"]).args(more);
    let ran = within(command.stdin(Stdio::null()).output()).await;
    let Ok(output) = ran else {
        println!("skipped: OpenSSL's client sees a custom host name: openssl is not installed");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((said.contains("BEGIN CERTIFICATE"), said))
}

#[tokio::test]
async fn a_host_name_leads_to_its_app_and_to_no_other() {
    let (mut world, hostnames) = world().await;
    let machines = [Machine::of("shop"), Machine::of("other")];
    let _programs = (machines[0].run(says("the shop")).await, machines[1].run(says("the other")).await);
    world.know(&[&machines[0], &machines[1]]).await;
    let fetch = async |name: &str| world.send(Request::get("/").header("host", name).body(full("")).unwrap()).await;
    assert_eq!(fetch("shop.example.com").await.header("dunlin-error"), "PH01");

    let directory = world.directory.path();
    hostnames.apply(&view(vec![
        row(directory, "shop.example.com", "shop"),
        row(directory, "*.example.com", "other"),
        row(directory, "gone.example.org", "gone"),
    ]));
    assert_eq!(fetch("Shop.Example.com:8080").await.body, "the shop");
    assert_eq!(fetch("any.example.com").await.body, "the other");
    for nobody in ["example.com", "a.any.example.com", "gone.example.org"] {
        let answer = fetch(nobody).await;
        assert_eq!((answer.status, answer.header("dunlin-error")), (StatusCode::NOT_FOUND, "PH01"), "{nobody}");
    }
    assert_eq!(world.get("shop", "/").await.body, "the shop", "its own address stays");

    hostnames.apply(&view(vec![row(directory, "shop.example.com", "other")]));
    assert_eq!(fetch("shop.example.com").await.body, "the other");
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_it_asks_for_or_no_handshake() {
    let (mut world, hostnames) = world().await;
    let machine = Machine::of("shop");
    let _program = machine.run(mirror()).await;
    world.know(&[&machine]).await;
    let directory = world.directory.path();
    let shop = row(directory, "shop.example.com", "shop");
    let mut bare = row(directory, "bare.example.com", "shop");
    bare.certificates.clear();
    hostnames.apply(&view(vec![shop.clone(), row(directory, "*.example.org", "shop"), bare]));
    let chain = directory.join("shop.pem");
    std::fs::write(&chain, &shop.certificates[0].chain_pem).unwrap();

    let trusted = ["-CAfile", chain.to_str().unwrap(), "-verify_hostname", "shop.example.com", "-alpn", "h2"];
    let Some((_, said)) = openssl(world.https(), "shop.example.com", &trusted).await else { return };
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains("id-ecPublicKey") || said.contains("Peer signature type: ECDSA"), "{said}");
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    let (_, said) = openssl(world.https(), "any.example.org", &[]).await.unwrap();
    assert!(said.contains("BEGIN CERTIFICATE") && !said.contains("Dunlin local CA"), "{said}");
    for refused in ["bare.example.com", "example.com", "unknown.example.net"] {
        let (served, said) = openssl(world.https(), refused, &[]).await.unwrap();
        assert!(!served && said.contains("alert"), "{refused}: {said}");
    }
}

#[tokio::test]
async fn a_name_without_a_certificate_gets_a_self_signed_one_where_its_port_says_so() {
    let (mut world, hostnames) = world().await;
    let machine = Machine::of("shop").each_port(|port| {
        port.tls_options = Some(TlsOptions { default_self_signed: true, ..TlsOptions::default() });
    });
    world.know(&[&machine]).await;
    let directory = world.directory.path();
    let mut bare = row(directory, "bare.example.com", "shop");
    bare.certificates.clear();
    hostnames.apply(&view(vec![bare.clone()]));
    let verify = ["-verify_hostname", "bare.example.com"];
    let Some((served, said)) = openssl(world.https(), "bare.example.com", &verify).await else { return };
    assert!(served && said.contains("self-signed certificate") && !said.contains("hostname mismatch"), "{said}");
    let (served, said) = openssl(world.https(), "unknown.example.com", &[]).await.unwrap();
    assert!(!served, "a name that is no app's is refused: {said}");

    let proper = row(directory, "bare.example.com", "shop");
    hostnames.apply(&view(vec![proper.clone()]));
    let (_, said) = openssl(world.https(), "bare.example.com", &[]).await.unwrap();
    let first_line = proper.certificates[0].chain_pem.lines().nth(3).unwrap().to_owned();
    assert!(said.contains(&first_line), "its own certificate takes over: {said}");
}

#[tokio::test]
async fn proofs_are_given_while_they_are_pending_and_for_their_name_only() {
    let (mut world, hostnames) = world().await;
    let machine = Machine::of("shop").each_port(|port| port.force_https = port.port == Some(80));
    let _program = machine.run(says("the app")).await;
    world.know(&[&machine]).await;
    let hostname: Hostname = "shop.example.com".parse().unwrap();
    let mut bare = row(world.directory.path(), hostname.as_str(), "shop");
    bare.certificates.clear();
    hostnames.apply(&view(vec![bare]));

    let (token, text) = ("a-token".to_owned(), "a-token.thumb".to_owned());
    let by_http = ChallengeAnswer::Http { hostname: hostname.clone(), token, key_authorization: text.clone() };
    let path = "/.well-known/acme-challenge/a-token";
    let fetch = async |name: &str, path: &str| {
        world.send(Request::get(path).header("host", name).body(full("")).unwrap()).await
    };
    assert_eq!(fetch("shop.example.com", path).await.status, StatusCode::MOVED_PERMANENTLY, "the app's own business");
    hostnames.present(&by_http).unwrap();
    assert_eq!(fetch("shop.example.com", path).await.body, text);
    assert_ne!(fetch("shop.dunlin.localhost", path).await.body, text);
    assert_ne!(fetch("shop.example.com", "/.well-known/acme-challenge/other").await.body, text);
    hostnames.withdraw(&by_http);
    assert_ne!(fetch("shop.example.com", path).await.body, text);

    let by_tls = ChallengeAnswer::TlsAlpn { hostname: hostname.clone(), digest: [0xab; 32] };
    let acme = ["-alpn", "acme-tls/1"];
    let Some((served, _)) = openssl(world.https(), "shop.example.com", &acme).await else { return };
    assert!(!served, "no proof is pending");
    hostnames.present(&by_tls).unwrap();
    let (_, said) = openssl(world.https(), "shop.example.com", &acme).await.unwrap();
    assert!(said.contains("ALPN protocol: acme-tls/1"), "{said}");
    let decoded = decode(&said).await;
    // The extension of RFC 8737, critical, with the digest as an octet string.
    assert!(decoded.contains("1.3.6.1.5.5.7.1.31: critical"), "{decoded}");
    assert!(decoded.contains("DNS:shop.example.com") && !decoded.contains("DNS:shop.example.com,"), "{decoded}");
    let (served, _) = openssl(world.https(), "other.example.com", &acme).await.unwrap();
    assert!(!served, "it is another name's");
    let (served, _) = openssl(world.https(), "shop.example.com", &["-alpn", "h2,acme-tls/1"]).await.unwrap();
    assert!(!served, "a client that offers more is no ACME server");
    let newer = ChallengeAnswer::TlsAlpn { hostname, digest: [1; 32] };
    hostnames.present(&newer).unwrap();
    hostnames.withdraw(&by_tls);
    assert!(openssl(world.https(), "shop.example.com", &acme).await.unwrap().0, "the newer proof stays");
    hostnames.withdraw(&newer);
    assert!(!openssl(world.https(), "shop.example.com", &acme).await.unwrap().0);
}

/// The first certificate of what OpenSSL's client said, in words.
async fn decode(said: &str) -> String {
    use tokio::io::AsyncWriteExt;
    let mut command = tokio::process::Command::new("openssl");
    command.args(["x509", "-noout", "-text"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(said.as_bytes()).await.unwrap();
    String::from_utf8_lossy(&within(child.wait_with_output()).await.unwrap().stdout).into_owned()
}
