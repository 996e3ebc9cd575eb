//! Links, addresses and routes, over the kernel's routing netlink. Everything here is idempotent.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
};

use futures_util::TryStreamExt;
use nix::libc;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkMessage},
        route::RouteScope,
    },
};

use super::NetError;

/// A connection to the kernel.
pub struct Netlink {
    handle: Handle,
    /// Carries the messages; ends with the connection.
    carrier: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

impl Netlink {
    /// Connects to the kernel, in the network namespace of the calling thread.
    pub fn connect() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::io("open a netlink socket"))?;
        Ok(Self { handle, carrier: tokio::spawn(connection) })
    }

    /// The names of all links.
    pub async fn link_names(&self) -> Result<Vec<String>, NetError> {
        let links = self.handle.link().get().execute();
        let links: Vec<LinkMessage> = links.try_collect().await.map_err(failed("list the network interfaces"))?;
        Ok(links.iter().filter_map(name_of).collect())
    }

    /// Brings a link up and returns its index.
    pub async fn bring_up(&self, name: &str, mtu: u32) -> Result<u32, NetError> {
        let what = || format!("bring up {name}");
        let index = self.index(name).await?.ok_or_else(|| NetError::Netlink { what: what(), source: gone() })?;
        let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        self.handle.link().set(message).execute().await.map_err(failed(what()))?;
        Ok(index)
    }

    /// Removes a link, if it exists.
    pub async fn remove_link(&self, name: &str) -> Result<(), NetError> {
        let Some(index) = self.index(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(error) if !is(&error, libc::ENODEV) => Err(failed(format!("remove {name}"))(error)),
            _ => Ok(()),
        }
    }

    /// Gives a link an address, if it does not have it.
    pub async fn ensure_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<(), NetError> {
        let what = format!("give {link} the address {address}");
        let index = self.index(link).await?.ok_or_else(|| NetError::Netlink { what: what.clone(), source: gone() })?;
        match self.handle.address().add(index, address, prefix).execute().await {
            Err(error) if !is(&error, libc::EEXIST) => Err(failed(what)(error)),
            _ => Ok(()),
        }
    }

    /// Takes an address away from a link, if it has it.
    pub async fn remove_address(&self, link: &str, address: IpAddr, prefix: u8) -> Result<(), NetError> {
        let what = || format!("take the address {address} from {link}");
        let Some(index) = self.index(link).await? else { return Ok(()) };
        let wanted = self.handle.address().get().set_link_index_filter(index).execute();
        let mut found = pin!(wanted);
        while let Some(message) = found.try_next().await.map_err(failed(what()))? {
            let same =
                message.attributes.iter().any(|it| matches!(it, AddressAttribute::Address(it) if *it == address));
            if same && message.header.prefix_len == prefix && message.header.index == index {
                return self.handle.address().del(message).execute().await.map_err(failed(what()));
            }
        }
        Ok(())
    }

    /// Sends packets for one IPv4 address to a link; the host's own come from `source`.
    pub async fn route_v4(&self, to: Ipv4Addr, link: u32, source: Ipv4Addr) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
        let route = route.output_interface(link).scope(RouteScope::Link).pref_source(source).build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(failed(format!("route {to} to its tap")))
    }

    /// Sends packets for one IPv6 address to a link.
    pub async fn route_v6(&self, to: Ipv6Addr, link: u32) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128);
        let route = route.output_interface(link).build();
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(failed(format!("route {to} to its tap")))
    }

    /// The connection itself.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The index of a link, if it exists.
    pub async fn index(&self, name: &str) -> Result<Option<u32>, NetError> {
        let found = self.handle.link().get().match_name(name).execute();
        match pin!(found).try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for {name}"))(error)),
        }
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|it| match it {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

/// Says what was tried.
pub fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.into();
    move |source| NetError::Netlink { what, source }
}

fn gone() -> rtnetlink::Error {
    rtnetlink::Error::RequestFailed
}

/// Whether the kernel refused with this error.
pub fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
