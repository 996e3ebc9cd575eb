//! Datagrams reach guests under their client's own address: whoever carries them sends from a socket that is bound to
//! that address (`IP_TRANSPARENT`, ip(7)). What the guest answers would be routed out to the client; here it is turned
//! back to that socket.
//!
//! ```text
//!   guest ─▶ tap ─▶ prerouting: a transparent socket wants it? mark ─▶ rule: marked ─▶ table: all is local ─▶ socket
//! ```
//!
//! It is a table of its own: on a kernel that cannot do it, all else works, and datagrams come from the host's address.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        route::{RouteMessage, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use super::{NetError, firewall, netlink};

/// Before the system's own rules for routing, which would send the packet out.
const PRIORITY: u32 = 53;

/// Lets answers come back to transparent sockets.
pub async fn enable(tag: &str, handle: &Handle, loopback: u32) -> Result<(), NetError> {
    let number = number(tag);
    firewall::run(&ruleset(tag, number)).await?;
    let added = handle.route().add(route(number, loopback)).replace().execute().await;
    added.map_err(netlink::failed("make marked packets local"))?;
    let mut rule = handle.rule().add().v4().fw_mark(number).table_id(number).priority(PRIORITY);
    rule = rule.action(RuleAction::ToTable);
    match rule.execute().await {
        Err(error) if !netlink::is(&error, nix::libc::EEXIST) => Err(netlink::failed("route marked packets")(error)),
        _ => Ok(()),
    }
}

/// Takes it back. What is not there is no error.
pub async fn disable(tag: &str, handle: &Handle) -> Result<(), NetError> {
    let number = number(tag);
    let table = table(tag);
    firewall::run(&format!("table inet {table} {{}}\ndelete table inet {table}\n")).await?;
    let rules = handle.rule().get(IpVersion::V4).execute();
    let rules: Vec<RuleMessage> = rules.try_collect().await.map_err(netlink::failed("list the routing rules"))?;
    for rule in rules.into_iter().filter(|rule| rule.attributes.contains(&RuleAttribute::FwMark(number))) {
        handle.rule().del(rule).execute().await.map_err(netlink::failed("remove a routing rule"))?;
    }
    // The route is in a table that nothing looks into any more; without the loopback interface it goes by itself.
    let _ = handle.route().del(route(number, 0)).execute().await;
    Ok(())
}

/// The mark, and the routing table, of an instance.
fn number(tag: &str) -> u32 {
    let hash = tag.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0x00d0_0000 | (hash & 0xffff)
}

fn route(table: u32, link: u32) -> RouteMessage {
    let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(Ipv4Addr::UNSPECIFIED, 0);
    let route = route.kind(RouteType::Local).scope(RouteScope::Host).table_id(table);
    if link == 0 { route.build() } else { route.output_interface(link).build() }
}

fn table(tag: &str) -> String {
    format!("{}_sources", firewall::table(tag))
}

fn ruleset(tag: &str, mark: u32) -> String {
    let (table, taps) = (table(tag), super::tap_prefix(tag));
    format!(
        "table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{
  chain answers {{
    type filter hook prerouting priority mangle; policy accept;
    iifname \"{taps}*\" meta nfproto ipv4 meta l4proto udp socket transparent 1 meta mark set {mark:#x}
  }}
}}
"
    )
}
