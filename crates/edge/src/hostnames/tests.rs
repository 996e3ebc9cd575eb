//! What is served when things are broken.

use std::fs;

use api::internal::{HostnameRow, SealedCertificate};

use super::*;

struct World {
    directory: tempfile::TempDir,
    key: SealingKey,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = SealingKey::load_or_create(&directory.path().join("sealing.key")).unwrap();
        Self { directory, key }
    }

    fn open(&self) -> Arc<Hostnames> {
        Hostnames::open(self.directory.path().join("hostnames"), self.key.clone())
    }

    /// A certificate that is good from `not_before`, for a very long time.
    fn certificate(&self, hostname: &str, not_before: u64) -> SealedCertificate {
        let made = rcgen::generate_simple_self_signed([hostname.to_owned()]).unwrap();
        let place = SealedCertificate::place(&hostname.parse().unwrap());
        SealedCertificate {
            chain_pem: made.cert.pem(),
            sealed_key: self.key.seal(&place, made.signing_key.serialize_pem().as_bytes()),
            not_before: Timestamp(not_before),
            not_after: Timestamp(u64::MAX),
        }
    }

    fn row(&self, hostname: &str, app: &str) -> HostnameRow {
        let certificates = vec![self.certificate(hostname, 0)];
        HostnameRow { hostname: hostname.parse().unwrap(), app: app.parse().unwrap(), certificates }
    }
}

fn view(rows: &[&HostnameRow]) -> HostnameView {
    let rows = rows.iter().map(|row| (row.hostname.clone(), Arc::new((*row).clone()))).collect();
    HostnameView { rows, ..HostnameView::default() }
}

/// The leaf that is served.
fn leaf(hostnames: &Hostnames, name: &str) -> Option<Vec<u8>> {
    hostnames.certificate(name).map(|certified| certified.cert[0].to_vec())
}

fn der(certificate: &SealedCertificate) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(certificate.chain_pem.as_bytes()).unwrap().to_vec()
}

fn file_of(world: &World, row: &HostnameRow) -> PathBuf {
    let files = fs::read_dir(world.directory.path().join("hostnames")).unwrap();
    let mut files = files.map(|file| file.unwrap().path());
    files.find(|path| fs::read_to_string(path).unwrap().contains(row.hostname.as_str())).unwrap()
}

#[test]
fn a_restart_without_the_control_plane_serves_what_was_served() {
    let world = World::new();
    let (shop, star) = (world.row("shop.example.com", "shop"), world.row("*.example.com", "star"));
    let hostnames = world.open();
    hostnames.apply(&view(&[&shop, &star]));
    assert!(hostnames.save());
    let again = world.open();
    assert_eq!(again.app("shop.example.com").unwrap().as_str(), "shop");
    assert_eq!(again.app("other.example.com").unwrap().as_str(), "star");
    assert_eq!(again.app("a.b.example.com"), None);
    assert_eq!(leaf(&again, "shop.example.com"), Some(der(&shop.certificates[0])));
    assert_eq!(leaf(&again, "other.example.com"), Some(der(&star.certificates[0])));
    again.apply(&view(&[&star]));
    assert!(again.save());
    assert_eq!(world.open().app("shop.example.com").unwrap().as_str(), "star");
}

#[test]
fn no_private_key_lies_on_the_disk_in_plain() {
    let world = World::new();
    let hostnames = world.open();
    let row = world.row("shop.example.com", "shop");
    hostnames.apply(&view(&[&row]));
    assert!(hostnames.save());
    let content = fs::read_to_string(file_of(&world, &row)).unwrap();
    assert!(content.contains("BEGIN CERTIFICATE") && !content.contains("PRIVATE KEY"));
}

#[test]
fn a_poisoned_file_takes_no_other_with_it_and_is_mended_by_the_next_view() {
    let world = World::new();
    let (one, two) = (world.row("one.example.com", "one"), world.row("two.example.com", "two"));
    let hostnames = world.open();
    hostnames.apply(&view(&[&one, &two]));
    assert!(hostnames.save());
    for poison in [&b"{"[..], b"", b"\xff\xfe", &fs::read(file_of(&world, &two)).unwrap()] {
        fs::write(file_of(&world, &one), poison).unwrap();
        let again = world.open();
        assert_eq!((again.app("one.example.com"), again.app("two.example.com")), (None, Some("two".parse().unwrap())));
        again.apply(&view(&[&one, &two]));
        assert_eq!(leaf(&again, "one.example.com"), Some(der(&one.certificates[0])));
        assert!(again.save());
        assert!(world.open().app("one.example.com").is_some());
    }
}

#[test]
fn a_view_that_was_not_read_whole_removes_nothing() {
    let world = World::new();
    let (one, two) = (world.row("one.example.com", "one"), world.row("two.example.com", "two"));
    let hostnames = world.open();
    hostnames.apply(&view(&[&one, &two]));
    hostnames.apply(&HostnameView { incomplete: true, ..view(&[&two]) });
    assert_eq!(leaf(&hostnames, "one.example.com"), Some(der(&one.certificates[0])));
    hostnames.apply(&view(&[&two]));
    assert_eq!(hostnames.app("one.example.com"), None);
}

#[test]
fn a_certificate_that_cannot_be_used_does_not_replace_one_that_can() {
    let world = World::new();
    let good = world.row("shop.example.com", "shop");
    let hostnames = world.open();
    hostnames.apply(&view(&[&good]));
    let mut foreign_key = world.row("shop.example.com", "shop");
    foreign_key.certificates[0].chain_pem = good.certificates[0].chain_pem.clone();
    let mut unsealed = good.clone();
    unsealed.certificates[0].sealed_key = b"nonsense".to_vec();
    let mut no_chain = good.clone();
    no_chain.certificates[0].chain_pem = "nonsense".into();
    for bad in [foreign_key, unsealed, no_chain] {
        hostnames.apply(&view(&[&bad]));
        assert_eq!(leaf(&hostnames, "shop.example.com"), Some(der(&good.certificates[0])));
        assert!(hostnames.save());
        assert_eq!(leaf(&world.open(), "shop.example.com"), Some(der(&good.certificates[0])), "after a restart too");
        let other_app = HostnameRow { app: "thief".parse().unwrap(), ..bad };
        hostnames.apply(&view(&[&other_app]));
        assert_eq!(leaf(&hostnames, "shop.example.com"), None, "another app never gets it");
        hostnames.apply(&view(&[&good]));
    }
}

#[test]
fn the_preferred_certificate_counts_while_it_is_good() {
    let world = World::new();
    let hostnames = world.open();
    let mut row = world.row("shop.example.com", "shop");
    row.certificates.insert(0, world.certificate("shop.example.com", 0));
    let [custom, ordered] = [0, 1].map(|index| der(&row.certificates[index]));
    hostnames.apply(&view(&[&row]));
    assert_eq!(leaf(&hostnames, "shop.example.com"), Some(custom.clone()));
    row.certificates[0].not_after = Timestamp(2);
    hostnames.apply(&view(&[&row]));
    assert_eq!(leaf(&hostnames, "shop.example.com"), Some(ordered));
    row.certificates[1].not_after = Timestamp(1);
    hostnames.apply(&view(&[&row]));
    assert_eq!(leaf(&hostnames, "shop.example.com"), Some(custom), "the last good one, rather than none");
}

#[test]
fn a_wildcards_certificate_stands_in_for_names_of_the_same_app_only() {
    let world = World::new();
    let star = world.row("*.example.com", "shop");
    let mut mine = world.row("mine.example.com", "shop");
    let mut foreign = world.row("foreign.example.com", "other");
    (mine.certificates, foreign.certificates) = (vec![], vec![]);
    let hostnames = world.open();
    hostnames.apply(&view(&[&star, &mine, &foreign]));
    assert_eq!(leaf(&hostnames, "mine.example.com"), Some(der(&star.certificates[0])));
    assert_eq!(leaf(&hostnames, "foreign.example.com"), None);
    assert_eq!(hostnames.app("foreign.example.com").unwrap().as_str(), "other");
}
