//! Uplinks: interface, gateways, prefixes, and which source belongs to which.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::address::{Kind, address, kind, network};
use super::names;
use super::pools::CheckedPool;
use crate::config::problem::{Problem, code};
use crate::config::raw::{RawConfig, RawUplink};
use crate::config::read::At;
use crate::config::settings::Uplink;
use crate::model::Family;

/// As many as the mark has numbers for.
const LIMIT: usize = 15;

/// An uplink and where it stands.
pub(super) struct CheckedUplink {
    /// What it means.
    pub(super) uplink: Uplink,
    /// Its name in the file.
    pub(super) name: Range<usize>,
    /// Its interface in the file.
    pub(super) interface: Range<usize>,
    /// Its gateways in the file.
    pub(super) gateway: Range<usize>,
}

/// Every uplink of the file.
pub(super) fn uplinks(raw: &RawConfig, problems: &mut Vec<Problem>) -> Vec<CheckedUplink> {
    let Some(table) = &raw.uplink else { return vec![] };
    let entries = &table.value.0;
    if let Some((name, _)) = entries.get(LIMIT) {
        problems.push(
            Problem::error(code::TOO_MANY_UPLINKS, format!("{} uplinks are more than {LIMIT}", entries.len()))
                .at(&name.span, "the first too many")
                .help("The packet mark has room for 15. Gather networks that share interface and gateway in one uplink's `prefix`."),
        );
    }
    let several = entries.len() > 1;
    let mut found = vec![];
    for (name, raw) in entries {
        names::name(name, "an uplink", problems);
        if several && raw.prefix.as_ref().is_none_or(|prefix| prefix.value.is_empty()) && !raw.misread {
            problems.push(
                Problem::error(code::UPLINK_WITHOUT_PREFIX, format!("uplink `{}` has no prefix", name.value))
                    .at(&name.span, "which sources are its own?")
                    .help("Where there are several uplinks, each needs `prefix`: the networks whose sources leave by it."),
            );
        }
        found.push(uplink(name, raw, problems));
    }
    same(&found, problems);
    found
}

fn uplink(name: &At<String>, raw: &RawUplink, problems: &mut Vec<Problem>) -> CheckedUplink {
    let interface = super::required(
        raw.interface.as_ref(),
        &raw.unread,
        name,
        ("uplink", "interface", "\"eth0\""),
        problems,
    );
    if let Some(interface) = interface {
        names::interface(&interface.value, &interface.span, problems);
    }
    let prefixes = raw.prefix.iter().flat_map(|many| &many.value.items);
    CheckedUplink {
        name: name.span.clone(),
        interface: interface.map_or_else(|| name.span.clone(), |at| at.span.clone()),
        gateway: raw.gateway.as_ref().map_or_else(|| name.span.clone(), |at| at.span.clone()),
        uplink: Uplink {
            name: name.value.clone(),
            interface: interface.map(|at| at.value.clone()).unwrap_or_default(),
            gateways: gateways(raw, problems),
            prefixes: prefixes.filter_map(|item| network(item, problems)).collect(),
        },
    }
}

fn gateways(raw: &RawUplink, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let mut seen: BTreeMap<Family, Range<usize>> = BTreeMap::new();
    let mut found = vec![];
    for item in raw.gateway.iter().flat_map(|many| &many.value.items) {
        let Some(gateway) = address(item, problems) else { continue };
        let family = Family::of(gateway);
        // A router is often known by its link-local address only.
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if let (Kind::Unusable(why), false) = (kind(gateway), link_local) {
            problems.push(
                Problem::error(code::GATEWAY_INVALID, format!("{gateway} cannot be a gateway"))
                    .at(&item.span, why)
                    .help("`ip route show default` names the gateway of the host."),
            );
            continue;
        }
        if let Some(first) = seen.insert(family, item.span.clone()) {
            problems.push(
                Problem::error(
                    code::GATEWAY_FAMILY_TWICE,
                    format!("an uplink has one {family} gateway, not two"),
                )
                .at(&item.span, "second")
                .at(&first, "first")
                .help("Remove one, or make a second uplink of it with a prefix of its own."),
            );
            continue;
        }
        found.push(gateway);
    }
    found
}

fn same(uplinks: &[CheckedUplink], problems: &mut Vec<Problem>) {
    for (index, later) in uplinks.iter().enumerate() {
        let same = |earlier: &&CheckedUplink| {
            earlier.uplink.interface == later.uplink.interface
                && earlier.uplink.gateways == later.uplink.gateways
        };
        if let Some(earlier) = uplinks[..index].iter().find(same) {
            problems.push(
                Problem::error(
                    code::UPLINK_SAME,
                    format!(
                        "uplinks `{}` and `{}` are the same way out",
                        earlier.uplink.name, later.uplink.name
                    ),
                )
                .at(&later.name, "same interface and gateway")
                .at(&earlier.name, "as this one")
                .help("Make one uplink of them, with the prefixes of both."),
            );
        }
    }
}

/// Gives each source its uplink.
pub(super) fn assign(uplinks: &[CheckedUplink], pools: &mut [CheckedPool], problems: &mut Vec<Problem>) {
    if uplinks.is_empty() {
        return;
    }
    let mut used = vec![false; uplinks.len()];
    for pool in pools {
        let mut told = None;
        for source in &mut pool.sources {
            let homes = homes(uplinks, source.source.local);
            if let [home] = homes[..] {
                source.source.uplink = Some(home);
                used[home] = true;
                gateway_fits(&uplinks[home], source.source.local, &source.span, problems);
            } else if told.as_ref() != Some(&source.span) {
                told = Some(source.span.clone());
                problems.push(homeless(uplinks, &homes, source.source.local, &source.span));
            }
        }
    }
    // What is unused is known only once all could be read.
    let read = !problems.iter().any(Problem::is_error);
    for (uplink, used) in uplinks.iter().zip(used) {
        if read && !used {
            problems.push(
                Problem::warning(
                    code::UPLINK_UNUSED,
                    format!("no source leaves by uplink `{}`", uplink.uplink.name),
                )
                .at(&uplink.name, "")
                .help("Give a pool an address out of its prefix, or remove the uplink."),
            );
        }
    }
}

fn homes(uplinks: &[CheckedUplink], local: IpAddr) -> Vec<usize> {
    if let [only] = uplinks
        && only.uplink.prefixes.is_empty()
    {
        return vec![0];
    }
    let holds = |uplink: &CheckedUplink| uplink.uplink.prefixes.iter().any(|prefix| prefix.contains(&local));
    uplinks.iter().enumerate().filter(|(_, uplink)| holds(uplink)).map(|(index, _)| index).collect()
}

fn homeless(uplinks: &[CheckedUplink], homes: &[usize], local: IpAddr, span: &Range<usize>) -> Problem {
    if homes.is_empty() {
        let list: Vec<String> = uplinks
            .iter()
            .map(|one| {
                let prefixes: Vec<String> = one.uplink.prefixes.iter().map(ToString::to_string).collect();
                format!("`{}` has {}", one.uplink.name, prefixes.join(", "))
            })
            .collect();
        return Problem::error(code::SOURCE_WITHOUT_UPLINK, format!("{local} belongs to no uplink"))
            .at(span, "in no uplink's prefix")
            .help(format!(
                "Add its network to the `prefix` of the uplink it leaves by. Now {}.",
                list.join("; ")
            ));
    }
    let mut problem =
        Problem::error(code::SOURCE_IN_TWO_UPLINKS, format!("{local} belongs to {} uplinks", homes.len()))
            .at(span, "")
            .help(
                "Narrow the prefixes, so that only the uplink whose provider routes this address holds it.",
            );
    for home in homes {
        problem = problem.at(&uplinks[*home].name, "in a prefix of this uplink");
    }
    problem
}

fn gateway_fits(uplink: &CheckedUplink, local: IpAddr, span: &Range<usize>, problems: &mut Vec<Problem>) {
    let family = Family::of(local);
    let gateways = &uplink.uplink.gateways;
    if gateways.contains(&local) {
        problems.push(
            Problem::error(
                code::GATEWAY_IS_SOURCE,
                format!("{local} is the gateway, and cannot be a source too"),
            )
            .at(span, "this source")
            .at(&uplink.gateway, "is this gateway")
            .help("The gateway is the router's address; remove it from the pool."),
        );
    }
    let told = problems.iter().any(|problem| {
        problem.code == code::GATEWAY_FAMILY
            && problem.labels.iter().any(|label| label.start == uplink.gateway.start)
    });
    if !gateways.is_empty() && !told && !gateways.iter().any(|gateway| Family::of(*gateway) == family) {
        let name = &uplink.uplink.name;
        problems.push(
            Problem::error(
                code::GATEWAY_FAMILY,
                format!("uplink `{name}` has no {family} gateway, but {family} sources"),
            )
            .at(&uplink.gateway, format!("no {family} address here"))
            .at(span, format!("{family} source of this uplink"))
            .help("Write gateway = [\"<IPv4>\", \"<IPv6>\"], one of each family."),
        );
    }
}
