//! Other programs that use rules and marks, recognised by what they leave in the kernel.

use std::collections::BTreeSet;

use super::{Patient, listed};
use crate::doctor::finding::Finding;
use crate::doctor::findings::PolicyRule;

/// How each names its chains and tables: a beginning.
const NAMES: [(&str, &str); 14] = [
    ("DOCKER", "Docker"),
    ("firewalld", "firewalld"),
    ("FWD_", "firewalld"),
    ("ts-", "Tailscale"),
    ("KUBE-", "kube-proxy"),
    ("kube-proxy", "kube-proxy"),
    ("mwan3_", "mwan3"),
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("f2b-", "fail2ban"),
    ("f2b-table", "fail2ban"),
    ("ufw-", "ufw"),
    ("NETAVARK", "Podman"),
    ("wg-quick", "wg-quick"),
];

/// The program that a chain belongs to.
pub(super) fn owner(table: &str, chain: &str) -> Option<&'static str> {
    let table = table.split_once(' ').map_or(table, |(_, name)| name);
    let by =
        |name: &str| NAMES.iter().find(|(start, _)| name.starts_with(start)).map(|(_, program)| *program);
    by(chain).or_else(|| by(table))
}

/// The program that a policy rule belongs to.
pub(super) fn rule_owner(rule: &PolicyRule) -> Option<&'static str> {
    match (rule.mark, rule.preference, rule.table) {
        (Some((_, 0x00ff_0000)), 5200..=5299, _) | (None, 5200..=5299, Some(52)) => Some("Tailscale"),
        (Some((_, 0x3f00)), 1000..=3999, _) => Some("mwan3"),
        (Some((0xca6c, _)), _, _) => Some("wg-quick"),
        _ => None,
    }
}

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    let name = "others";
    let chains = patient.firewalls().flat_map(|firewall| &firewall.chains);
    let mut seen: BTreeSet<&str> = chains.filter_map(|chain| owner(&chain.table, &chain.name)).collect();
    seen.extend(patient.found.rules.iter().flatten().filter_map(rule_owner));
    let mut found = patient.unread_firewalls(name);
    if !seen.is_empty() {
        let programs: Vec<&str> = seen.into_iter().collect();
        let text = format!(
            "{} have rules here; whether they collide is told under notrack, nat, marks and rules",
            listed(&programs)
        );
        found.push(Finding::ok(
            name,
            text.replace(" have ", if programs.len() == 1 { " has " } else { " have " }),
        ));
    } else if found.is_empty() {
        found.push(Finding::ok(name, "no other program that is known has rules here"));
    }
    found
}
