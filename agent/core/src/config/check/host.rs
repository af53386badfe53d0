//! What depends on the host: addresses, interfaces and routes as they are now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;

use super::pools::{CheckedPool, CheckedSource};
use super::streams::{CheckedStream, source_of};
use super::uplinks::CheckedUplink;
use crate::config::problem::{Problem, code};
use crate::config::settings::Plumbing;
use crate::model::{Family, Host};

/// Everything of the file that the host has a say in.
pub(super) struct HostCheck<'a> {
    /// The host as it is.
    pub(super) host: &'a Host,
    /// Whether addresses are added.
    pub(super) plumbing: Plumbing,
    /// Uplinks of the file.
    pub(super) uplinks: &'a [CheckedUplink],
    /// Pools of the file.
    pub(super) pools: &'a [CheckedPool],
    /// Streams of the file.
    pub(super) streams: &'a [CheckedStream],
}

impl HostCheck<'_> {
    /// Runs every check.
    pub(super) fn run(&self, problems: &mut Vec<Problem>) {
        self.interfaces(problems);
        for pool in self.pools {
            if self.plumbing == Plumbing::Adopt {
                self.adopted(pool, problems);
                self.aliases(pool, problems);
            }
            self.edges(pool, problems);
            self.families(pool, problems);
        }
        self.tags(problems);
    }

    fn has_link(&self, name: &str) -> bool {
        self.host.links.iter().any(|link| link.name == name)
    }

    fn interfaces(&self, problems: &mut Vec<Problem>) {
        let names: Vec<String> = self
            .host
            .links
            .iter()
            .filter(|link| !link.loopback)
            .map(|link| format!("`{}`", link.name))
            .collect();
        for uplink in self.uplinks.iter().filter(|one| !one.uplink.interface.is_empty()) {
            if !self.has_link(&uplink.uplink.interface) {
                problems.push(
                    Problem::error(
                        code::UPLINK_NOT_ON_HOST,
                        format!("this host has no interface `{}`", uplink.uplink.interface),
                    )
                    .at(&uplink.interface, "unknown interface")
                    .help(format!("The interfaces: {}.", names.join(", "))),
                );
            }
        }
        for via in self.streams.iter().flat_map(|stream| &stream.via) {
            if self.uplinks.iter().any(|one| one.uplink.interface == via.value) {
                continue;
            }
            if !self.has_link(&via.value) && via.value != "lo" {
                problems.push(
                    Problem::warning(code::VIA_NOT_ON_HOST, format!("this host has no interface `{}` now", via.value))
                        .at(&via.span, "")
                        .help(format!("It may come with its container. Until then the stream matches nothing. Now there are {}.", names.join(", "))),
                );
            }
        }
    }

    fn adopted(&self, pool: &CheckedPool, problems: &mut Vec<Problem>) {
        for (span, sources) in by_entry(pool) {
            let missing: Vec<String> = sources
                .iter()
                .filter(|one| !self.host.addresses.iter().any(|have| have.address == one.source.local))
                .map(|one| one.source.local.to_string())
                .collect();
            let Some(first) = missing.first() else { continue };
            let message = match missing.len() {
                1 => format!("{first} is not an address of this host"),
                count => format!("{first} and {} more are not addresses of this host", count - 1),
            };
            problems.push(
                Problem::error(code::ADDRESS_NOT_ON_HOST, message)
                    .at(&span, "not on any interface")
                    .help("With addresses = \"adopt\" mailsteer adds none. Put it on the interface (in a cloud, attach it first), or let mailsteer do it: [host] addresses = \"plumb\"."),
            );
        }
    }

    /// Deleting the first address of a network deletes the others of it, unless the kernel is told otherwise.
    fn aliases(&self, pool: &CheckedPool, problems: &mut Vec<Problem>) {
        let mut nets: BTreeMap<(u32, IpNet), &CheckedSource> = BTreeMap::new();
        for one in &pool.sources {
            let on_host =
                self.host.addresses.iter().find(|have| have.address == one.source.local && !have.ours);
            let Some(have) = on_host.filter(|have| have.address.is_ipv4() && have.prefix_len < 32) else {
                continue;
            };
            let Ok(net) = IpNet::new(have.address, have.prefix_len) else { continue };
            if let Some(first) = nets.insert((have.ifindex, net.trunc()), one) {
                problems.push(
                    Problem::warning(
                        code::ALIAS_SHARES_PREFIX,
                        format!("{} and {} stand on the host as /{}", first.source.local, one.source.local, have.prefix_len),
                    )
                    .at(&one.span, format!("in {}", net.trunc()))
                    .at(&first.span, "on the same interface")
                    .help("When the first address of a network is removed, the kernel removes the others of it too. Add them as /32, or set net.ipv4.conf.all.promote_secondaries = 1."),
                );
                return;
            }
        }
    }

    fn edges(&self, pool: &CheckedPool, problems: &mut Vec<Problem>) {
        for (span, sources) in by_entry(pool) {
            let edge =
                sources.iter().find_map(|one| self.edge(one.source.local).map(|net| (one.source.local, net)));
            if let Some((address, net)) = edge {
                problems.push(
                    Problem::warning(code::ADDRESS_IS_NETWORK_EDGE, format!("{address} is the first or last address of {net}"))
                        .at(&span, "")
                        .help("This host is in that network, where those two mean the network itself and everyone in it: neighbours and routers may not answer. Leave it out unless the provider routes it to you."),
                );
            }
        }
    }

    fn edge(&self, address: IpAddr) -> Option<IpNet> {
        let nets = self
            .host
            .addresses
            .iter()
            .filter(|have| have.address.is_ipv4() && have.prefix_len < 31 && !have.ours);
        nets.filter_map(|have| IpNet::new(have.address, have.prefix_len).ok())
            .map(|net| net.trunc())
            .find(|net| net.network() == address || net.broadcast() == address)
    }

    /// A family by which nothing leaves this host.
    fn families(&self, pool: &CheckedPool, problems: &mut Vec<Problem>) {
        for family in Family::BOTH {
            let mut of_family = pool.sources.iter().filter(|one| Family::of(one.source.local) == family);
            let Some(first) = of_family.next() else { continue };
            if self.leaves(family) {
                continue;
            }
            let only = pool.sources.iter().all(|one| Family::of(one.source.local) == family);
            let name = &pool.name.value;
            let problem = if only {
                Problem::error(
                    code::FAMILY_NOT_ON_HOST,
                    format!("pool `{name}` has {family} sources only, and this host has no {family}"),
                )
            } else {
                Problem::warning(
                    code::FAMILY_NOT_ON_HOST,
                    format!("pool `{name}` has {family} sources, and this host has no {family}"),
                )
            };
            problems.push(problem.at(&first.span, format!("no {family} route leads out")).help(format!(
                "`ip {} route show default` is empty. Add the route or an uplink with {} gateway, or take the {family} addresses out.",
                if family == Family::V4 { "-4" } else { "-6" },
                if family == Family::V4 { "an IPv4" } else { "an IPv6" },
            )));
        }
    }

    fn leaves(&self, family: Family) -> bool {
        let by_uplink = self.uplinks.iter().any(|one| {
            one.uplink.gateways.iter().any(|gateway| Family::of(*gateway) == family)
                || (one.uplink.gateways.is_empty()
                    && (one.uplink.prefixes.is_empty()
                        || one.uplink.prefixes.iter().any(|prefix| Family::of(prefix.addr()) == family)))
        });
        let by_route = self.host.routes.iter().any(|route| {
            let wide = if family == Family::V4 { 1 } else { 3 };
            Family::of(route.destination.addr()) == family && route.destination.prefix_len() <= wide
        });
        by_uplink || by_route
    }

    fn tags(&self, problems: &mut Vec<Problem>) {
        let lo: Vec<u32> =
            self.host.links.iter().filter(|link| link.loopback).map(|link| link.index).collect();
        for (tag, span) in self.streams.iter().flat_map(|stream| &stream.tags) {
            if source_of(*tag, self.pools).is_some() {
                continue;
            }
            let taken = self
                .host
                .addresses
                .iter()
                .any(|have| have.address == *tag && !have.ours && !lo.contains(&have.ifindex));
            let near = self.host.routes.iter().find(|route| {
                route.destination.prefix_len() > 0
                    && route.destination.contains(tag)
                    && !lo.contains(&route.ifindex)
            });
            let why = match (taken, near) {
                (true, _) => "an address of this host already".to_owned(),
                (false, Some(route)) => {
                    format!("in the network {}, which this host reaches", route.destination)
                }
                (false, None) => continue,
            };
            problems.push(
                Problem::warning(code::TAG_IN_USE_ON_HOST, format!("tag {tag} may belong to someone else"))
                    .at(span, why)
                    .help("mailsteer keeps the tag on lo, so that nobody else with this address can be reached from here. Take an address that nothing uses, such as 198.18.0.2."),
            );
        }
    }
}

/// The sources of a pool, entry by entry, so that a range is reported once.
fn by_entry(pool: &CheckedPool) -> Vec<(Range<usize>, Vec<&CheckedSource>)> {
    let mut entries: Vec<(Range<usize>, Vec<&CheckedSource>)> = vec![];
    for one in &pool.sources {
        match entries.last_mut() {
            Some((span, list)) if *span == one.span => list.push(one),
            _ => entries.push((one.span.clone(), vec![one])),
        }
    }
    entries
}
