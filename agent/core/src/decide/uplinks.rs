//! By which ways mail leaves the host: the configured uplinks, or those that the default routes show.
//!
//! Owns: finding uplinks, their onward routes, and which destinations lie behind interfaces that are none. Must
//! not: choose among sources.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Ids;
use crate::config::{Config, PoolSource, Uplink};
use crate::model::{Family, Host, Link, OnwardRoute, Route, UplinkPlan};

/// Shortest prefix that counts as a network behind an interface, not as half a default route (VPNs announce
/// `0.0.0.0/1` and `128.0.0.0/1`).
const SHORTEST_NETWORK: u8 = 4;

/// An uplink's name and interface.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) interface: String,
}

/// The uplinks of this config on this host. Without configured ones: every interface with a default route.
pub(super) fn find(config: &Config, host: &Host) -> Vec<Found> {
    if !config.uplinks.is_empty() {
        let named =
            |uplink: &Uplink| Found { name: uplink.name.clone(), interface: uplink.interface.clone() };
        return config.uplinks.iter().map(named).collect();
    }
    let interfaces: BTreeSet<u32> =
        host.routes.iter().filter(|route| is_default(route)).map(|route| route.ifindex).collect();
    let links = host.links.iter().filter(|link| interfaces.contains(&link.index));
    links.map(|link| Found { name: link.name.clone(), interface: link.name.clone() }).collect()
}

/// The uplinks with their numbers and the routes of their own tables.
pub(super) fn plans(config: &Config, host: &Host, ids: &Ids) -> Vec<UplinkPlan> {
    let plan = |found: Found| {
        let link = host.links.iter().find(|link| link.name == found.interface);
        let ifindex = link.map(|link| link.index);
        let configured = config.uplinks.iter().find(|uplink| uplink.name == found.name);
        Some(UplinkPlan {
            id: ids.uplink(&found.name)?,
            routes: link.map(|link| routes(config, configured, link, host)).unwrap_or_default(),
            ifindex,
            up: link.is_some_and(|link| link.up),
            name: found.name,
            interface: found.interface,
        })
    };
    find(config, host).into_iter().filter_map(plan).collect()
}

fn routes(config: &Config, configured: Option<&Uplink>, link: &Link, host: &Host) -> Vec<OnwardRoute> {
    let ifindex = link.index;
    let on_link = |route: &&Route| route.ifindex == ifindex && route.gateway.is_none() && !is_default(route);
    let connected = host.routes.iter().filter(on_link);
    let mut routes: Vec<OnwardRoute> =
        connected.map(|route| OnwardRoute { destination: route.destination, gateway: None }).collect();
    for family in Family::BOTH {
        let by_gateway = configured
            .and_then(|uplink| uplink.gateways.iter().find(|gateway| Family::of(**gateway) == family))
            .map(|&gateway| OnwardRoute { destination: default_route(family), gateway: Some(gateway) });
        let straight = || configured.and_then(|uplink| straight(config, uplink, link, family));
        routes.extend(by_gateway.or_else(|| found_default(host, ifindex, family)).or_else(straight));
    }
    routes.sort_unstable();
    routes.dedup();
    routes
}

/// The way onward of a configured point-to-point uplink for which nobody added a default route (pppd's
/// `nodefaultroute`, `Table = off` of wg-quick): straight to its other end. Only for a family that has sources there: a
/// host without IPv6 takes no route of it.
fn straight(config: &Config, uplink: &Uplink, link: &Link, family: Family) -> Option<OnwardRoute> {
    let own = |source: &PoolSource| {
        let home = source.uplink.and_then(|index| config.uplinks.get(index));
        home.is_some_and(|home| home.name == uplink.name) && Family::of(source.local) == family
    };
    let serves = || config.pools.values().flat_map(|pool| &pool.sources).any(own);
    let straight = link.point_to_point && uplink.gateways.is_empty() && serves();
    straight.then_some(OnwardRoute { destination: default_route(family), gateway: None })
}

fn found_default(host: &Host, ifindex: u32, family: Family) -> Option<OnwardRoute> {
    let destination = default_route(family);
    let candidates =
        host.routes.iter().filter(|route| route.ifindex == ifindex && route.destination == destination);
    let best = candidates.min_by_key(|route| route.metric)?;
    Some(OnwardRoute { destination, gateway: best.gateway })
}

/// The uplink that an address of this family leaves by when no uplink is configured: the best default route's.
pub(super) fn by_default_route(host: &Host, family: Family) -> Option<u32> {
    let destination = default_route(family);
    let candidates = host.routes.iter().filter(|route| route.destination == destination);
    candidates.min_by_key(|route| (!link_is_up(host, route.ifindex), route.metric)).map(|route| route.ifindex)
}

fn link_is_up(host: &Host, ifindex: u32) -> bool {
    host.links.iter().any(|link| link.index == ifindex && link.up)
}

/// Destinations that are never steered: configured ones, link-local ones, and networks that are routed through
/// interfaces that are no uplinks (bridges, private links). Disjoint and sorted.
pub(super) fn exclude(config: &Config, host: &Host, uplinks: &[UplinkPlan]) -> Vec<IpNet> {
    let ways: BTreeSet<u32> = uplinks.iter().filter_map(|uplink| uplink.ifindex).collect();
    let elsewhere =
        |route: &&Route| !ways.contains(&route.ifindex) && route.destination.prefix_len() >= SHORTEST_NETWORK;
    let behind = host.routes.iter().filter(elsewhere).map(|route| route.destination);
    let all: Vec<IpNet> = config.exclude.iter().copied().chain(LINK_LOCAL).chain(behind).collect();
    IpNet::aggregate(&all)
}

/// Never routed, so never an uplink's business (RFC 3927, RFC 4291 section 2.5.6).
const LINK_LOCAL: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
];

fn is_default(route: &Route) -> bool {
    route.destination.prefix_len() == 0
}

/// `0.0.0.0/0` or `::/0`.
#[must_use]
pub const fn default_route(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Whether an uplink has a way onward for a family.
pub(super) fn has_way(uplink: &UplinkPlan, family: Family) -> bool {
    uplink.routes.iter().any(|route| route.destination == default_route(family))
}

/// Whether an address is one of this host's.
pub(super) fn is_local(host: &Host, address: IpAddr) -> bool {
    host.addresses.iter().any(|entry| entry.address == address)
}
