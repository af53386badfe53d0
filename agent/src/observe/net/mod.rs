//! The host as rtnetlink shows it: a snapshot, what of ours stands there, and a signal whenever it changes.
//!
//! Owns: reading. Must not: change anything, or guess from notifications: those only say "look again".

mod monitor;
mod sysctl;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::model::{Family, Host, Link, WantedKind};
use mailsteer_core::plan::{AddressAt, RouteAt, RuleSpec};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::Handle;

pub use monitor::{Change, Monitor, RECEIVE_BUFFER};

use crate::netlink::{self, NetError, address_of, main_routes, route_at, rule_spec};

/// What of ours stands among addresses, routes and rules.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OurNet {
    /// Addresses that bear our mark, and wanted ones that others added.
    pub addresses: Vec<AddressAt>,
    /// Routes in our tables.
    pub routes: Vec<RouteAt>,
    /// Our rules, as far as the settings that they need are there too.
    pub rules: Vec<RuleSpec>,
}

/// Links, addresses and main routes of this network namespace.
///
/// # Errors
/// When the kernel refuses, or its tables change during every reading.
pub async fn snapshot(handle: &Handle) -> Result<Host, NetError> {
    let links = netlink::links(handle).await?.iter().map(link).collect();
    let addresses = netlink::addresses(handle, None).await?.iter().filter_map(address_of).collect();
    let mut routes = Vec::new();
    for family in Family::BOTH {
        routes.extend(netlink::routes(handle, family, false).await?.iter().flat_map(main_routes));
    }
    Ok(Host { links, addresses, routes })
}

/// What stands of ours; `wanted` addresses are listed also where others added them.
///
/// # Errors
/// When the kernel refuses, or its tables change during every reading.
pub async fn ours(handle: &Handle, wanted: &BTreeSet<IpAddr>) -> Result<OurNet, NetError> {
    let links: BTreeMap<u32, Link> =
        netlink::links(handle).await?.iter().map(link).map(|link| (link.index, link)).collect();
    let mut found = OurNet::default();
    for address in netlink::addresses(handle, None).await?.iter().filter_map(address_of) {
        if !address.ours && !wanted.contains(&address.address) {
            continue;
        }
        // An interface that vanished between the two dumps took its addresses along.
        let Some(link) = links.get(&address.ifindex) else { continue };
        found.addresses.push(AddressAt {
            address: address.address,
            interface: link.name.clone(),
            kind: if link.loopback { WantedKind::Tag } else { WantedKind::Source },
            ours: address.ours,
        });
    }
    for family in Family::BOTH {
        found.routes.extend(netlink::routes(handle, family, true).await?.iter().filter_map(route_at));
        let rules = netlink::rules(handle, family).await?;
        found.rules.extend(rules.iter().filter_map(rule_spec).filter(sysctl::holds));
    }
    Ok(found)
}

pub(crate) fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    Link {
        index: message.header.index,
        name: name.unwrap_or_default(),
        // Running: the operational state allows sending; LowerUp: there is a carrier.
        up: flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        point_to_point: flags.contains(LinkFlags::Pointopoint),
    }
}
