//! Reverse path filters, secondary addresses, policy rules, local ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::programs::rule_owner;
use super::{Patient, grouped, listed};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::findings::{InterfaceSettings, PolicyRule};
use crate::doctor::numbers::{FALLBACK, PREFERENCES, TABLES};
use crate::model::Family;

/// Fewer local ports than these are worth a look.
const FEW_PORTS: u32 = 10_000;
/// The kernel's own rules: local, main, default.
const KERNELS: [u32; 3] = [0, 32_766, 32_767];

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    [rp_filter(patient), promote_secondaries(patient), rules(patient), local_ports(patient)].concat()
}

fn rp_filter(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "rp-filter";
    let settings = match &patient.found.interfaces {
        Ok(settings) => settings,
        Err(unread) => return vec![Finding::unread(name, "the reverse path filters", unread)],
    };
    if let Err(unread) = &patient.found.host {
        return vec![Finding::unread(name, "the interfaces", unread)];
    }
    let uplinks: Vec<String> = patient.uplinks().into_iter().collect();
    let all = settings.get("all").copied().unwrap_or_default();
    let strict = |interface: &&String| {
        let one = settings.get(*interface).copied().unwrap_or_default();
        one.rp_filter.max(all.rp_filter) == 1 && !one.src_valid_mark && !all.src_valid_mark
    };
    let strict: Vec<&String> = uplinks.iter().filter(strict).collect();
    let ok = |what: String| vec![Finding::ok(name, what)];
    match (uplinks.len(), strict.len()) {
        (0, _) => ok("no uplink is there now".to_owned()),
        (_, 0) => ok(format!("no strict reverse path filter on {}", listed(&uplinks))),
        (1, _) => {
            ok(format!("the reverse path filter of {} is strict, which one uplink can have", uplinks[0]))
        }
        _ if patient.declares_uplinks() => ok(format!(
            "the reverse path filter of {} is strict; the agent sets src_valid_mark there",
            listed(&strict)
        )),
        _ => vec![Finding::new(
            name,
            Level::Warn,
            format!(
                "the reverse path filter of {} is strict, and there are {} uplinks",
                listed(&strict),
                uplinks.len()
            ),
            "Answers to a source that leaves by another uplink than the main table's are dropped: its connections time out.",
            "Declare the uplinks in the config ([uplink.NAME]): mailsteer then sets src_valid_mark. Or loosen the filter: sysctl -w net.ipv4.conf.all.rp_filter=2",
        )],
    }
}

/// Addresses that stand on an interface in one network: pool addresses, or, without a config, all of the uplinks.
fn promote_secondaries(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "promote-secondaries";
    let (host, settings) = match (&patient.found.host, &patient.found.interfaces) {
        (Ok(host), Ok(settings)) => (host, settings),
        (Err(unread), _) | (_, Err(unread)) => {
            return vec![Finding::unread(name, "addresses and their settings", unread)];
        }
    };
    let uplinks = patient.uplinks();
    let mut networks: BTreeMap<(u32, IpNet), Vec<IpAddr>> = BTreeMap::new();
    for one in host.addresses.iter().filter(|one| !one.ours && one.address.is_ipv4() && one.prefix_len < 32) {
        let on_uplink =
            || host.links.iter().any(|link| link.index == one.ifindex && uplinks.contains(&link.name));
        let counts = patient.config.map_or_else(on_uplink, |config| {
            config.pools.values().flat_map(|pool| &pool.sources).any(|source| source.local == one.address)
        });
        if let (true, Ok(net)) = (counts, IpNet::new(one.address, one.prefix_len)) {
            networks.entry((one.ifindex, net.trunc())).or_default().push(one.address);
        }
    }
    let all = settings.get("all").copied().unwrap_or_default();
    let mut found = vec![];
    for ((ifindex, net), addresses) in networks.into_iter().filter(|(_, addresses)| addresses.len() > 1) {
        let Some(link) = host.links.iter().find(|link| link.index == ifindex) else { continue };
        let InterfaceSettings { promote_secondaries, .. } =
            settings.get(&link.name).copied().unwrap_or_default();
        if promote_secondaries || all.promote_secondaries {
            continue;
        }
        found.push(Finding::new(
            name,
            patient.certainly(),
            format!("{} addresses of {} share the network {net}", addresses.len(), link.name),
            format!(
                "When {} is removed, the kernel removes the others of it: their sources fall out at once.",
                addresses[0]
            ),
            format!(
                "sysctl -w net.ipv4.conf.{}.promote_secondaries=1, or add the addresses as /32",
                link.name
            ),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok(name, "no address takes others along when it is removed"));
    }
    found
}

fn rules(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "rules";
    let mut found = vec![];
    match &patient.found.rules {
        Err(unread) => found.push(Finding::unread(name, "policy routing rules", unread)),
        Ok(rules) => {
            let strangers = rules.iter().filter(|rule| !rule.ours && !KERNELS.contains(&rule.preference));
            found.extend(strangers.filter_map(|rule| judge(patient, rule)));
        }
    }
    match &patient.found.taken_tables {
        Err(unread) => found.push(Finding::unread(name, "routing tables", unread)),
        Ok(tables) if !tables.is_empty() => found.push(Finding::new(
            name,
            Level::Bad,
            format!("another program has routes in table {}", listed(tables)),
            "mailsteer keeps the uplinks' routes there: mail would go by the other program's routes, and the guard hold it.",
            format!("Give them another table; mailsteer uses {} to {}.", TABLES.start(), TABLES.end()),
        )),
        Ok(_) => {}
    }
    if found.is_empty() {
        found.push(Finding::ok(name, "no policy rule or routing table is in the way"));
    }
    found
}

fn described(rule: &PolicyRule) -> String {
    let by = rule_owner(rule).map_or_else(String::new, |program| format!(" ({program})"));
    let mark = rule.mark.map_or_else(String::new, |(value, mask)| format!(", mark {value:#x}/{mask:#x}"));
    let table = rule.table.map_or_else(String::new, |table| format!(", table {table}"));
    format!("the {} rule with preference {}{mark}{table}{by}", rule.family, rule.preference)
}

fn judge(patient: &Patient<'_>, rule: &PolicyRule) -> Option<Finding> {
    let name = "rules";
    let what = described(rule);
    let flag = if rule.family == Family::V6 { "-6 " } else { "" };
    let move_it = format!("Give it another preference: `ip {flag}rule` shows it.");
    if rule.table.is_some_and(|table| TABLES.contains(&table)) {
        let cost = "What it selects goes by the routes of an uplink of ours, whether it is mail or not.";
        let advice = format!("Give it another table; mailsteer uses {} to {}.", TABLES.start(), TABLES.end());
        return Some(Finding::new(
            name,
            Level::Bad,
            format!("{what} looks up a table of ours"),
            cost,
            advice,
        ));
    }
    if PREFERENCES.contains(&rule.preference) || rule.preference == FALLBACK {
        let cost = "Which of two rules with one preference comes first depends on who came first: mail may take its way, and the guard hold it.";
        return Some(Finding::new(
            name,
            Level::Warn,
            format!("{what} has a preference of ours"),
            cost,
            move_it,
        ));
    }
    let before = rule.preference < *PREFERENCES.start();
    let takes = match rule.mark {
        Some((value, mask)) if !rule.inverted => patient.marks().can_be(value, mask),
        _ => true,
    };
    if !before || !takes || rule.suppresses || rule.table.is_none() {
        return None;
    }
    // Only where uplinks are declared does mail leave by rules of ours.
    let certain = !rule.selective || rule.mark.is_some();
    let level = if patient.declares_uplinks() && certain { Level::Warn } else { Level::Note };
    let meets = if certain {
        "takes steered mail before ours do"
    } else {
        "comes before ours, and may take steered mail"
    };
    let cost = "Mail that it sends by another uplink than its source's is held by the guard. Without [uplink] in the config nothing changes.";
    let advice =
        format!("Give it a preference after {}, or a selector that leaves mail alone.", PREFERENCES.end());
    Some(Finding::new(name, level, format!("{what} {meets}"), cost, advice))
}

fn local_ports(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "local-ports";
    let (first, last) = match patient.found.local_ports {
        Ok(range) => range,
        Err(ref unread) => return vec![Finding::unread(name, "the range of local ports", unread)],
    };
    let count = u32::from(last.saturating_sub(first)) + 1;
    let what = format!("{} connections at once to one destination ({first}-{last})", grouped(count.into()));
    if count >= FEW_PORTS {
        return vec![Finding::ok(name, what)];
    }
    vec![Finding::new(
        name,
        Level::Warn,
        what,
        "All sources share this range for each destination address and port: further connections fail at once.",
        "sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\"",
    )]
}
