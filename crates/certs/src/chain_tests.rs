//! Certificates that fit, and all the ways in which they do not.

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::*;

/// The middle of 2026, when the certificates of these tests are good.
const NOW: Timestamp = Timestamp(1_780_000_000_000);

struct Made {
    chain: String,
    key: String,
    authority: String,
}

fn made(names: &[&str]) -> Made {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    let certificate = params.signed_by(&key, &authority).unwrap();
    let authority = authority.pem();
    Made { chain: format!("{}{authority}", certificate.pem()), key: key.serialize_pem(), authority }
}

fn asked(hostname: &str, chain: &str, key: &str, now: Timestamp) -> Result<CertificateFacts, CertificateDefect> {
    inspect(&hostname.parse().unwrap(), chain, key, now)
}

#[test]
fn a_certificate_that_fits_tells_its_issuer_and_its_end() {
    let made = made(&["shop.example.com", "*.example.org"]);
    let facts = asked("shop.example.com", &made.chain, &made.key, NOW).unwrap();
    assert_eq!((facts.issuer.as_str(), facts.key_kind), ("Test authority", "ecdsa"));
    assert_eq!(rfc3339(facts.not_after.0), "2027-01-01T00:00:00.000Z");
    for covered in ["a.example.org", "*.example.org"] {
        asked(covered, &made.chain, &made.key, NOW).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let (one, other) = (made(&["shop.example.com"]), made(&["shop.example.com"]));
    let (host, chain, key) = ("shop.example.com", one.chain.as_str(), one.key.as_str());
    assert_eq!(asked(host, chain, &other.key, NOW), Err(CertificateDefect::Mismatch));
    for elsewhere in ["example.com", "a.shop.example.com", "*.example.com", "shop.example.org"] {
        let defect = asked(elsewhere, chain, key, NOW).unwrap_err();
        assert!(matches!(&defect, CertificateDefect::Names { names, .. } if names == host), "{defect}");
    }
    let before = Timestamp(1_700_000_000_000);
    assert_eq!(asked(host, chain, key, before), Err(CertificateDefect::NotYet("2026-01-01T00:00:00.000Z".into())));
    let after = Timestamp(1_900_000_000_000);
    assert_eq!(asked(host, chain, key, after), Err(CertificateDefect::Expired("2027-01-01T00:00:00.000Z".into())));
    let leaf = chain.strip_suffix(one.authority.as_str()).unwrap();
    asked(host, leaf, key, NOW).expect("an authority need not come along");
    let disordered = format!("{leaf}{}", other.authority);
    // Both authorities have the same name, so the chain is well-formed; one of another name is not.
    asked(host, &disordered, key, NOW).unwrap();
    let self_signed = rcgen::generate_simple_self_signed(["x.example".to_owned()]).unwrap().cert.pem();
    assert_eq!(asked(host, &format!("{leaf}{self_signed}"), key, NOW), Err(CertificateDefect::Order(2)));
    assert_eq!(asked(host, &format!("{}{leaf}", one.authority), key, NOW), Err(CertificateDefect::Mismatch));
}

#[test]
fn what_is_no_certificate_or_no_key_is_refused_and_the_key_is_not_told() {
    let made = made(&["shop.example.com"]);
    let many = made.chain.repeat(20);
    let long = "x".repeat(100_000);
    for chain in
        ["", "nonsense", &made.key, &many, &long, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        let defect = asked("shop.example.com", chain, &made.key, NOW).unwrap_err();
        assert!(matches!(defect, CertificateDefect::Chain(_)), "{defect}");
    }
    for key in
        ["", "hunter2", &made.chain, &long, "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n"]
    {
        let defect = asked("shop.example.com", &made.chain, key, NOW).unwrap_err().to_string();
        assert!(defect.contains("private key") && !defect.contains("hunter2"), "{defect}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever byte of a chain is changed: an answer, never a panic; and what is accepted still names the host.
    #[test]
    fn a_damaged_chain_never_harms(at in 0..4000_usize, byte: u8) {
        let made = made(&["shop.example.com"]);
        let mut chain = made.chain.into_bytes();
        let at = at % chain.len();
        chain[at] = byte;
        let chain = String::from_utf8_lossy(&chain);
        let _ = asked("shop.example.com", &chain, &made.key, NOW);
    }
}
