//! Host names that apps bring along, with certificates from a real ACME server.

use std::{path::Path, process::Command};

use e2e::{
    Options, Platform,
    acme::{Acme, self_signed},
    eventually, image, obstacle, skip,
};

const CONFIG: &str = "[http_service]\ninternal_port = 8080\n";

/// What curl gets over HTTPS under a host name, if it trusts the certificate.
fn https(platform: &Platform, name: &str, authority: &Path) -> Option<String> {
    let port = platform.https_port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--max-time", "30", "--cacert"]).arg(authority);
    curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")]);
    let output = curl.output().expect("curl runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_served(platform: &Platform, name: &str) -> bool {
    platform.json(["certs", "show", name, "-a", "shop", "--json"])["configured"] == true
}

#[test]
fn a_host_name_is_proven_to_a_real_issuer_and_served_with_its_certificate() {
    if let Some(obstacle) = obstacle(&["hello"]).or_else(Acme::obstacle) {
        return skip("certificates of a real issuer", &obstacle);
    }
    let mut acme = Acme::prepare();
    let mut platform = Platform::start(Options { serve: acme.options(), ..Options::default() });
    acme.start(&platform);
    platform.deploy("shop", CONFIG, &image("hello"));
    let root = acme.root();

    // By TLS-ALPN-01, since the name leads here.
    let said = platform.ok(["certs", "add", "shop.example.test", "-a", "shop"]);
    assert!(said.contains("dunlin certs check shop.example.test") && said.contains("127.0.0.1"), "{said}");
    eventually("it is issued", || is_served(&platform, "shop.example.test"));
    let page = https(&platform, "shop.example.test", &root).expect("it is trusted and served");
    assert!(page.contains("hello") || page.contains("Hello"), "{page}");
    // By DNS-01, by the operator's hook: a wildcard, whose owner names the app.
    platform.ok(["certs", "add", "*.wild.test", "-a", "shop"]);
    assert!(!is_served(&platform, "*.wild.test"));
    acme.text("_fly-ownership.wild.test", "app-shop");
    platform.ok(["certs", "check", "*.wild.test", "-a", "shop"]);
    eventually("it is issued", || is_served(&platform, "*.wild.test"));
    assert!(https(&platform, "any.wild.test", &root).is_some());
    assert!(https(&platform, "deep.any.wild.test", &root).is_none());
    // One of its owner's.
    let [own, key] = ["own.pem", "own.key"].map(|name| platform.scratch().join(name));
    self_signed(&own, &key, "own.example.test");
    let [fullchain, private_key] = [&own, &key].map(|path| path.display().to_string());
    let import = ["certs", "import", "own.example.test", "-a", "shop", "--fullchain", &fullchain, "--private-key"];
    platform.ok(import.into_iter().chain([private_key.as_str()]));
    eventually("it is served", || https(&platform, "own.example.test", &own).is_some());
    let list = platform.ok(["certs", "list", "-a", "shop"]);
    assert_eq!(list.matches("active").count(), 3, "{list}");
    // By HTTP-01, to an issuer that cannot reach the port for TLS, and that has forgotten the account.
    acme.start_asking_at(platform.http_port(), 9);
    platform.ok(["certs", "add", "plain.example.test", "-a", "shop"]);
    eventually("it is issued", || {
        let shown = platform.ok(["certs", "show", "plain.example.test", "-a", "shop"]);
        assert!(!shown.contains("failed:"), "the first order gets a new account:\n{shown}");
        is_served(&platform, "plain.example.test")
    });
    assert!(https(&platform, "plain.example.test", &acme.root()).is_some());

    // All of it is served on when nobody is there to ask.
    acme.end();
    platform.kill();
    platform.launch();
    for (name, authority) in [("shop.example.test", &root), ("any.wild.test", &root), ("own.example.test", &own)] {
        eventually("it is served on", || https(&platform, name, authority).is_some());
    }
    platform.ok(["certs", "remove", "shop.example.test", "-a", "shop"]);
    assert!(https(&platform, "shop.example.test", &root).is_none());
    platform.ok(["apps", "destroy", "shop", "--yes"]);
}
