//! Which addresses mail can leave from, by which uplink, and where containers are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Facts;
use crate::config::{Kind, is_interface, kind};
use crate::model::{Address, AddressState, Family, Link, Route};

/// How names of interfaces behind which containers and guests are begin.
const BRIDGES: [&str; 9] = ["docker", "br-", "podman", "cni", "lxcbr", "lxdbr", "incusbr", "virbr", "veth-"];

/// Whether an interface is called as container bridges are.
#[must_use]
pub fn is_container_bridge(name: &str) -> bool {
    BRIDGES.iter().any(|start| name.starts_with(start))
}

/// A way out of the host.
pub(super) struct Way<'f> {
    pub(super) link: &'f Link,
    /// The default routes by it that win, at most one of each family.
    pub(super) routes: Vec<&'f Route>,
    /// Addresses that the world can answer to.
    pub(super) public: Vec<&'f Address>,
    /// Addresses that only a translation makes public.
    pub(super) private: Vec<&'f Address>,
}

/// A container bridge.
pub(super) struct Bridge<'f> {
    pub(super) link: &'f Link,
    pub(super) subnets: Vec<IpNet>,
}

/// What was found, in order.
pub(super) struct Sorted<'f> {
    pub(super) ways: Vec<Way<'f>>,
    pub(super) bridges: Vec<Bridge<'f>>,
    /// Container bridges with no network that one before them has not.
    pub(super) repeated: Vec<&'f Link>,
    /// Public addresses on no uplink, of which it is not clear by which they would leave.
    pub(super) elsewhere: Vec<&'f Address>,
    /// Public addresses of a family by which nothing leaves.
    pub(super) mute: Vec<&'f Address>,
    /// Public addresses that come and go.
    pub(super) passing: Vec<&'f Address>,
}

/// Sorts what was found.
pub(super) fn sorted(facts: &Facts) -> Sorted<'_> {
    let (repeated, bridges) = bridges(facts).into_iter().partition(|bridge| bridge.subnets.is_empty());
    let mut all = Sorted {
        ways: ways(facts),
        bridges,
        repeated: Vec::into_iter(repeated).map(|bridge: Bridge<'_>| bridge.link).collect(),
        elsewhere: vec![],
        mute: vec![],
        passing: vec![],
    };
    let mut seen = BTreeSet::new();
    for address in facts.host.addresses.iter().filter(|one| one.state != AddressState::DadFailed) {
        let kind = kind(address.address);
        let on_bridge = all.bridges.iter().any(|bridge| bridge.link.index == address.ifindex);
        if on_bridge || matches!(kind, Kind::Unusable(_)) || !seen.insert(address.address) {
            continue;
        }
        let several = all.ways.len() > 1;
        let own = all.ways.iter().position(|way| way.link.index == address.ifindex);
        match (kind, own) {
            (Kind::Private(_), Some(way)) => all.ways[way].private.push(address),
            (Kind::Private(_), None) => {}
            _ if facts.passing.contains(&address.address) => all.passing.push(address),
            (_, Some(way)) => all.place(way, address),
            (_, None) if several => all.elsewhere.push(address),
            // There is one way only, or none yet.
            (_, None) if all.ways.is_empty() => all.mute.push(address),
            (_, None) => all.place(0, address),
        }
    }
    all
}

impl<'f> Sorted<'f> {
    fn place(&mut self, way: usize, address: &'f Address) {
        let leaves = self.ways[way].takes(address.address, self.ways.len() > 1);
        if leaves { self.ways[way].public.push(address) } else { self.mute.push(address) }
    }
}

impl Way<'_> {
    /// The next hops that an uplink of the config can have. A point-to-point link needs none, and a router that tells
    /// of IPv6 only would be the uplink's one gateway, and leave its IPv4 addresses out.
    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        if self.link.point_to_point {
            return vec![];
        }
        let fits = |route: &&Route| {
            route.gateway.is_some_and(|gateway| {
                let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
                let family = Family::of(gateway) == Family::of(route.destination.addr());
                family && (link_local || !matches!(kind(gateway), Kind::Unusable(_)))
            })
        };
        self.routes.iter().copied().filter(fits).filter_map(|route| route.gateway).collect()
    }

    /// Whether mail can leave by it from an address. Where the uplink is written down, a family without a gateway
    /// beside one that has one cannot be said.
    fn takes(&self, address: IpAddr, declared: bool) -> bool {
        let family = Family::of(address);
        let Some(route) = self.routes.iter().find(|route| Family::of(route.destination.addr()) == family)
        else {
            return false;
        };
        let gateways = self.gateways();
        let reached = match route.gateway {
            _ if self.link.point_to_point => true,
            Some(gateway) => gateways.contains(&gateway) && gateway != address,
            None => gateways.is_empty(),
        };
        !declared || reached
    }
}

fn ways(facts: &Facts) -> Vec<Way<'_>> {
    let defaults = || facts.host.routes.iter().filter(|route| route.destination.prefix_len() == 0);
    let mut found = vec![];
    for link in &facts.host.links {
        let best = |family: Family| {
            defaults()
                .filter(|route| route.ifindex == link.index && Family::of(route.destination.addr()) == family)
                .min_by_key(|route| route.metric)
        };
        let routes: Vec<&Route> = Family::BOTH.into_iter().filter_map(best).collect();
        if !routes.is_empty() && !link.loopback {
            found.push(Way { link, routes, public: vec![], private: vec![] });
        }
    }
    // Where there are several, each is written down; a name with control characters cannot be.
    if found.len() > 1 {
        found.retain(|way| is_interface(&way.link.name));
    }
    found
}

/// A bridge whose networks stand before it is left with none: nobody could tell the streams apart.
fn bridges(facts: &Facts) -> Vec<Bridge<'_>> {
    let is_way = |link: &Link| {
        facts
            .host
            .routes
            .iter()
            .any(|route| route.destination.prefix_len() == 0 && route.ifindex == link.index)
    };
    let bridges = facts.host.links.iter().filter(|link| is_container_bridge(&link.name) && !is_way(link));
    let mut before: Vec<IpNet> = vec![];
    let with_subnets = bridges.filter_map(|link| {
        let own = facts.host.addresses.iter().filter(|one| one.ifindex == link.index);
        let usable = own.filter(|one| !matches!(kind(one.address), Kind::Unusable(_)));
        let nets = usable.filter_map(|one| IpNet::new(one.address, one.prefix_len).ok());
        let mut subnets: Vec<IpNet> = nets.map(|net| net.trunc()).collect();
        if subnets.is_empty() {
            return None;
        }
        subnets.sort();
        subnets.dedup();
        subnets.retain(|net| !before.iter().any(|earlier| earlier.contains(net)));
        before.extend(&subnets);
        before = IpNet::aggregate(&before);
        Some(Bridge { link, subnets })
    });
    with_subnets.collect()
}

/// The networks whose sources leave by a way: those of its interface, unless another way has the same; else its
/// addresses alone.
pub(super) fn prefixes(way: &Way<'_>, others: &[&Way<'_>]) -> Vec<IpNet> {
    let net = |one: &Address| IpNet::new(one.address, one.prefix_len).map(|net| net.trunc()).ok();
    let all = |way: &Way<'_>| -> Vec<IpAddr> { way.public.iter().map(|one| one.address).collect() };
    let nets: BTreeSet<IpNet> = way
        .public
        .iter()
        .map(|one| {
            let shared = |net: &IpNet| {
                others.iter().any(|other| all(other).iter().any(|address| net.contains(address)))
            };
            net(one).filter(|net| !shared(net)).unwrap_or_else(|| IpNet::from(one.address))
        })
        .collect();
    // A /32 within a network of the same way says nothing.
    let wider = |net: &IpNet| nets.iter().any(|other| other != net && other.contains(net));
    nets.iter().filter(|net| !wider(net)).copied().collect()
}
