//! A real ACME server beside a platform: Let's Encrypt's own for tests, with a DNS that says what a scenario wants.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;

use crate::{Platform, eventually, has};

const DNS: &str = "127.0.0.1:8053";
const DNS_TALK: &str = "127.0.0.1:8055";
const SERVER: &str = "127.0.0.1:14000";
const SERVER_TALK: &str = "127.0.0.1:15000";

/// The server and its DNS. Dropping it ends them.
#[derive(Debug)]
pub struct Acme {
    directory: tempfile::TempDir,
    dns: Option<Child>,
    server: Option<Child>,
}

impl Acme {
    /// Why there is none here, if there is none.
    pub fn obstacle() -> Option<String> {
        let programs = ["pebble", "pebble-challtestsrv", "openssl", "curl"];
        let missing = programs.into_iter().find(|program| !has(program))?;
        Some(format!("{missing} is not installed (Debian packages pebble, openssl, curl)"))
    }

    /// Makes ready what the platform's options name, and starts the DNS, in which every name leads to this host.
    pub fn prepare() -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let at = |name: &str| directory.path().join(name).display().to_string();
        self_signed(Path::new(&at("cert.pem")), Path::new(&at("key.pem")), "localhost");
        let hook = format!(
            "#!/bin/sh\n[ \"$1\" = present ] && at=set-txt || at=clear-txt\n\
             exec curl --silent --show-error --fail -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{DNS_TALK}/$at\n"
        );
        fs::write(at("hook"), hook).expect("a hook can be written");
        run(Command::new("chmod").args(["755", &at("hook")]));
        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-defaultIPv6", "", "-dns01", DNS, "-http01", "", "-https01", "", "-tlsalpn01", "", "-management"]);
        let dns = quiet(dns.arg(DNS_TALK));
        let acme = Self { directory, dns: Some(dns), server: None };
        eventually("the DNS is there", || std::net::TcpStream::connect(DNS_TALK).is_ok());
        acme
    }

    /// The options of `dunlin serve` that lead to it.
    pub fn options(&self) -> Vec<String> {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let options = [
            ("--acme-email", "ops@example.test".to_owned()),
            ("--acme-directory", format!("https://{SERVER}/dir")),
            ("--acme-ca", at("cert.pem")),
            ("--acme-dns-hook", at("hook")),
            ("--public-address", "127.0.0.1".to_owned()),
            ("--dns-server", DNS.to_owned()),
        ];
        options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }

    /// Starts the server: it asks the platform for proofs.
    pub fn start(&mut self, platform: &Platform) {
        self.start_asking_at(platform.http_port(), platform.https_port());
    }

    /// Starts a server, in the place of the one before, that asks for proofs at these ports. It knows nobody.
    pub fn start_asking_at(&mut self, http: u16, https: u16) {
        self.server.iter_mut().for_each(end);
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let config = json!({"pebble": {
            "listenAddress": SERVER, "managementListenAddress": SERVER_TALK,
            "certificate": at("cert.pem"), "privateKey": at("key.pem"),
            "httpPort": http, "tlsPort": https,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        fs::write(at("config.json"), config.to_string()).expect("a configuration can be written");
        let mut server = Command::new("pebble");
        server.args(["-config", &at("config.json"), "-dnsserver", DNS]).env("PEBBLE_VA_NOSLEEP", "1");
        self.server = Some(quiet(&mut server));
        eventually("the ACME server is there", || std::net::TcpStream::connect(SERVER).is_ok());
    }

    /// Ends the server and the DNS.
    pub fn end(&mut self) {
        self.server.take().into_iter().chain(self.dns.take()).for_each(|mut child| end(&mut child));
    }

    /// DNS says this text at a name from now on.
    pub fn text(&self, name: &str, value: &str) {
        let body = json!({"host": format!("{name}."), "value": value}).to_string();
        run(Command::new("curl").args(["--silent", "--fail", "-d", &body, &format!("http://{DNS_TALK}/set-txt")]));
    }

    /// A name leads to this address from now on.
    pub fn lead(&self, name: &str, address: &str) {
        let body = json!({"host": format!("{name}."), "addresses": [address]}).to_string();
        run(Command::new("curl").args(["--silent", "--fail", "-d", &body, &format!("http://{DNS_TALK}/add-a")]));
    }

    /// The authority that the server signs with, in a file.
    pub fn root(&self) -> PathBuf {
        let path = self.directory.path().join(format!("root-{}.pem", self.server.as_ref().map_or(0, Child::id)));
        let url = format!("https://{SERVER_TALK}/roots/0");
        run(Command::new("curl").args(["--silent", "--fail", "--insecure", "--output"]).arg(&path).arg(url));
        path
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.end();
    }
}

/// A certificate that signs itself, with its key.
pub fn self_signed(certificate: &Path, key: &Path, name: &str) {
    let names = format!("subjectAltName=DNS:{name},IP:127.0.0.1");
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    openssl
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-out",
        ])
        .arg(certificate)
        .arg("-keyout")
        .arg(key);
    run(openssl.stderr(Stdio::null()));
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?} failed");
}
