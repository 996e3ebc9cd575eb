//! The firewall: one nftables table per instance, written whole from the set of machines, swapped in one transaction.
//!
//! | from → to | may pass |
//! |---|---|
//! | any guest | only with its own source address (checked before anything else) |
//! | guest → host | DNS on the platform's name server, neighbor discovery, answers to what the host asked |
//! | guest → guest | IPv6 within one network; nothing else |
//! | guest → outside | IPv4, masqueraded, except private, link-local and special ranges; no IPv6 (guests have private ones only) |
//! | outside → guest | answers only |
//! | host → guest | everything |
//!
//! Packets of other interfaces are let through untouched: the table has an opinion about its own taps only.

use std::{collections::BTreeSet, fmt::Write as _, process::Stdio, time::Duration};

use model::{NetworkId, address::NAME_SERVER};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::{GuestNet, Ipv4Pool, NetError};

/// Where guests may not go although they are outside: private use, link-local (metadata services), carrier-grade NAT,
/// benchmarks, multicast, reserved (RFC 6890).
const CLOSED_V4: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
                         192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3";

const APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The table's name.
pub fn table(tag: &str) -> String {
    format!("dunlin_{tag}")
}

/// Replaces the instance's table by one for exactly these guests.
pub async fn apply<'a>(
    tag: &str,
    pool: Ipv4Pool,
    guests: impl Iterator<Item = &'a GuestNet> + Clone,
) -> Result<(), NetError> {
    run(&ruleset(tag, pool, guests)).await
}

/// Removes the instance's table, if it is there.
pub async fn remove(tag: &str) -> Result<(), NetError> {
    let table = table(tag);
    run(&format!("table inet {table} {{}}\ndelete table inet {table}\n")).await
}

/// The table's text, in the notation of nftables. All of it is made of numbers and our own names.
fn ruleset<'a>(tag: &str, pool: Ipv4Pool, guests: impl Iterator<Item = &'a GuestNet> + Clone) -> String {
    let table = table(tag);
    let taps = format!("\"{}*\"", super::tap_prefix(tag));
    let own_v4 = guests.clone().map(|guest| format!("\"{}\" . {}", guest.tap, guest.addresses.host_local));
    let own_v6 = guests.clone().map(|guest| format!("\"{}\" . {}", guest.tap, guest.addresses.private));
    let networks: BTreeSet<_> = guests.filter_map(|guest| NetworkId::of(guest.addresses.private)).collect();
    let same = networks.into_iter().map(|network| format!("{0}/48 . {0}/48", network.prefix()));
    let mut text = format!("table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n");
    set(&mut text, "own_v4", "ifname . ipv4_addr", "", own_v4);
    set(&mut text, "own_v6", "ifname . ipv6_addr", "", own_v6);
    set(&mut text, "same_network", "ipv6_addr . ipv6_addr", "flags interval; ", same);
    let _ = write!(
        text,
        "
  chain source {{
    type filter hook prerouting priority raw; policy accept;
    iifname != {taps} accept
    iifname . ip saddr @own_v4 accept
    iifname . ip6 saddr @own_v6 accept
    ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 hoplimit 255 accept
    drop
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != {taps} accept
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    ip6 daddr {NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept
    drop
  }}
  chain between {{
    type filter hook forward priority filter; policy accept;
    iifname != {taps} oifname != {taps} accept
    ct state established,related accept
    ct state invalid drop
    iifname != {taps} drop
    oifname {taps} ip6 saddr . ip6 daddr @same_network accept
    oifname {taps} drop
    ip daddr {{ {CLOSED_V4} }} reject with icmp admin-prohibited
    meta nfproto ipv4 accept
    reject with icmpv6 no-route
  }}
  chain egress {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname != {taps} oifname != \"lo\" masquerade
  }}
}}
"
    );
    text
}

fn set(text: &mut String, name: &str, kind: &str, flags: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    let _ = write!(text, "  set {name} {{ type {kind}; {flags}");
    if !elements.is_empty() {
        let _ = write!(text, "elements = {{ {} }} ", elements.join(", "));
    }
    text.push_str("}\n");
}

/// Hands a text to `nft`, which applies all of it or nothing.
pub async fn run(text: &str) -> Result<(), NetError> {
    let failed = |error: std::io::Error| NetError::Firewall(format!("nft does not run: {error}"));
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut input = nft.stdin.take().expect("its standard input is a pipe");
    let work = async {
        input.write_all(text.as_bytes()).await?;
        drop(input);
        nft.wait_with_output().await
    };
    let output = timeout(APPLY_TIMEOUT, work).await;
    let output = output.map_err(|_| NetError::Firewall("nft does not end".into()))?.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NetError::Firewall(said.trim().chars().take(1000).collect()))
}
