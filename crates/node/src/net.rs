//! The network of one host: a tap per machine, its addresses and routes, and one firewall table.
//!
//! ```text
//!   guest eth0                                    host
//!   ┌───────────────────────┐   tap dl<tag>-<slot>    ┌──────────────────────────────────────┐
//!   │ host_local /32        │◀───────────────────▶│ 169.254.1.1/32, fe80::1/64           │
//!   │ private    /128       │                      │ routes host_local/32, private/128 ─▶ tap │
//!   │ via 169.254.1.1,      │                      │ table inet dunlin_<tag>              │
//!   │     fe80::1           │                      │ fdaa::3 (name server) on lo          │
//!   └───────────────────────┘                      └──────────────────────────────────────┘
//! ```
//!
//! Every link is point to point, so no guest sees another's frames: whatever passes between two guests is routed by
//! the host and judged by [`firewall`]. All names carry the instance's tag, which is how leftovers are recognized.

mod docker;
pub mod firewall;
mod forwarding;
mod netlink;
mod pool;
mod sources;
mod tap;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use kit::report::Report;
use model::{Addresses, MachineId, address::NAME_SERVER};
use thiserror::Error;
use tokio::sync::{Mutex, OnceCell};

pub use pool::{InvalidPool, Ipv4Pool};

/// The host's IPv4 address on every tap: the guests' gateway.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The host's IPv6 address on every tap: the guests' gateway.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The largest packet on a tap, in bytes; leaves room for a WireGuard header on the way to other hosts.
pub const MTU: u32 = 1420;

/// Why the network could not be changed.
#[derive(Debug, Error)]
pub enum NetError {
    /// The kernel refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused, over netlink.
    #[error("cannot {what}")]
    Netlink {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// The firewall did not take the table.
    #[error("cannot apply the firewall: {0}; check that nftables is installed and the kernel has nf_tables")]
    Firewall(String),
}

impl NetError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// One guest's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNet {
    /// The tap on the host.
    pub tap: String,
    /// The guest's addresses.
    pub addresses: Addresses,
    /// Who may open the tap.
    pub owner_uid: u32,
}

/// The network of this instance on this host. The one owner of its taps, routes and firewall table.
pub struct Network {
    tag: String,
    pool: Ipv4Pool,
    /// Where the kernel's settings from before are kept until they are put back.
    saved_settings: PathBuf,
    /// Connects on first use, so that a node that runs no machine needs no right to.
    netlink: OnceCell<netlink::Netlink>,
    guests: Mutex<BTreeMap<String, GuestNet>>,
    /// Answers to transparent sockets come back.
    keeps_sources: AtomicBool,
}

impl Network {
    /// The network of the instance `tag`.
    pub fn new(tag: &str, pool: Ipv4Pool, saved_settings: PathBuf) -> Self {
        let (tag, guests) = (tag.to_owned(), Mutex::default());
        let keeps_sources = AtomicBool::new(false);
        Self { tag, pool, saved_settings, netlink: OnceCell::new(), guests, keeps_sources }
    }

    /// Whether datagrams may be sent to guests under their client's own IPv4 address: then the answers come back.
    pub fn keeps_sources(&self) -> bool {
        self.keeps_sources.load(Relaxed)
    }

    /// The addresses' pool.
    pub fn pool(&self) -> Ipv4Pool {
        self.pool
    }

    /// The tap of the machine in this slot.
    pub fn tap_name(&self, slot: u32) -> String {
        format!("{}{slot}", tap_prefix(&self.tag))
    }

    /// Prepares the host: forwarding, the name server's address, the firewall table with the guests that still run.
    /// Taps of this instance that belong to none of them are removed, unless unknown ones are to be kept.
    pub async fn open(&self, running: impl IntoIterator<Item = GuestNet>, keep_unknown: bool) -> Result<(), NetError> {
        forwarding::enable(&self.saved_settings)?;
        let netlink = self.netlink().await?;
        netlink.ensure_address("lo", NAME_SERVER.into(), 128).await?;
        let mut guests = self.guests.lock().await;
        *guests = running.into_iter().map(|guest| (guest.tap.clone(), guest)).collect();
        self.apply(&guests).await?;
        let loopback = netlink.index("lo").await?.unwrap_or_default();
        match sources::enable(&self.tag, netlink.handle(), loopback).await {
            Ok(()) => self.keeps_sources.store(true, Relaxed),
            Err(error) => tracing::warn!(
                "datagrams reach apps under the host's address, not under their client's: {}",
                Report(&error)
            ),
        }
        docker::make_way(&tap_prefix(&self.tag)).await;
        if keep_unknown {
            return Ok(());
        }
        for orphan in self.taps().await?.difference(&guests.keys().cloned().collect()) {
            tracing::info!(tap = %orphan, "removing a tap that no machine owns");
            netlink.remove_link(orphan).await?;
        }
        Ok(())
    }

    /// Makes a machine's tap, with addresses and routes. What was there under its name is reused.
    pub async fn plug(&self, guest: &GuestNet) -> Result<(), NetError> {
        tap::create(&guest.tap, guest.owner_uid)?;
        self.configure(guest).await
    }

    /// Gives a link that exists the addresses and routes of a machine's tap.
    async fn configure(&self, guest: &GuestNet) -> Result<(), NetError> {
        forwarding::configure_tap(&guest.tap)?;
        let netlink = self.netlink().await?;
        let index = netlink.bring_up(&guest.tap, MTU).await?;
        netlink.ensure_address(&guest.tap, GATEWAY_V4.into(), 32).await?;
        netlink.ensure_address(&guest.tap, GATEWAY_V6.into(), 64).await?;
        netlink.route_v4(guest.addresses.host_local, index, GATEWAY_V4).await?;
        netlink.route_v6(guest.addresses.private, index).await
    }

    /// Removes a machine's tap, and its routes with it. One that is gone already is no error.
    pub async fn unplug(&self, tap: &str) -> Result<(), NetError> {
        self.netlink().await?.remove_link(tap).await
    }

    /// Lets a machine's packets pass.
    pub async fn admit(&self, guest: GuestNet) -> Result<(), NetError> {
        let mut guests = self.guests.lock().await;
        guests.insert(guest.tap.clone(), guest);
        self.apply(&guests).await
    }

    /// Lets a machine's packets pass no more.
    pub async fn expel(&self, tap: &str) -> Result<(), NetError> {
        let mut guests = self.guests.lock().await;
        match guests.remove(tap) {
            Some(_) => self.apply(&guests).await,
            None => Ok(()),
        }
    }

    /// Removes the table, the name server's address and puts the kernel's settings back as they were found.
    pub async fn close(&self) -> Result<(), NetError> {
        firewall::remove(&self.tag).await?;
        if self.keeps_sources.swap(false, Relaxed) {
            sources::disable(&self.tag, self.netlink().await?.handle()).await?;
        }
        docker::give_way_back(&tap_prefix(&self.tag)).await;
        self.netlink().await?.remove_address("lo", NAME_SERVER.into(), 128).await?;
        forwarding::restore(&self.saved_settings)
    }

    /// The taps of this instance that exist.
    pub async fn taps(&self) -> Result<BTreeSet<String>, NetError> {
        let prefix = tap_prefix(&self.tag);
        Ok(self.netlink().await?.link_names().await?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    }

    async fn netlink(&self) -> Result<&netlink::Netlink, NetError> {
        self.netlink.get_or_try_init(|| async { netlink::Netlink::connect() }).await
    }

    async fn apply(&self, guests: &BTreeMap<String, GuestNet>) -> Result<(), NetError> {
        firewall::apply(&self.tag, self.pool, guests.values()).await
    }
}

/// What the names of all taps of an instance begin with. Interface names have 15 bytes: `dl`, a tag of at most 6, a
/// dash, a slot.
fn tap_prefix(tag: &str) -> String {
    format!("dl{tag}-")
}

/// The hardware address of a machine's network device: locally administered, from the machine's id.
pub fn mac_of(machine: &MachineId) -> [u8; 6] {
    let [_, _, _, a, b, c, d, e] = machine.bits().to_be_bytes();
    [0x02, a, b, c, d, e]
}

#[cfg(test)]
mod tests;
