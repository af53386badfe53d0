//! Connection tracking: there, in use, large enough, and how long a closed connection stays.

use super::{Patient, grouped};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::findings::Conntrack;

/// How long the kernel keeps a closed connection, in seconds (`nf_conntrack_tcp_timeout_time_wait`).
const KEPT: u64 = 120;
/// How long with our timeout policy.
const KEPT_BY_POLICY: u64 = 10;
/// A mail host of some size opens so many connections a second in a burst.
const WANTED_RATE: u64 = 100;

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    vec![table(patient), timeouts(patient)]
}

fn table(patient: &Patient<'_>) -> Finding {
    let name = "conntrack";
    let found = match &patient.found.conntrack {
        Ok(found) => found,
        Err(unread) => return Finding::unread(name, "connection tracking", unread),
    };
    let Some(max) = found.max else { return not_loaded(found.loadable) };
    let used = found.count.unwrap_or(0);
    let rate = rates(patient, max);
    let percent = used.saturating_mul(100) / max.max(1);
    let raise = format!("sysctl -w net.netfilter.nf_conntrack_max={}", (max * 4).max(262_144));
    if percent >= 50 {
        let level = if percent >= 80 { Level::Bad } else { Level::Warn };
        let what =
            format!("{} of {} conntrack entries are in use ({percent} %)", grouped(used), grouped(max));
        return Finding::new(
            name,
            level,
            what,
            "A full table loses new connections of the whole host.",
            raise,
        );
    }
    if max / kept(patient) < WANTED_RATE {
        return Finding::new(
            name,
            Level::Warn,
            format!("conntrack has room for {} entries", grouped(max)),
            format!("{rate}; more are lost on this host."),
            raise,
        );
    }
    let room = format!("{} of {} entries in use; {rate}", grouped(used), grouped(max));
    if used == 0 && !patient.firewalls().any(|firewall| firewall.tracks) && read(patient) {
        return Finding::new(
            name,
            Level::Note,
            format!("conntrack is not in use, and steering switches it on ({room})"),
            "From then on every connection of this host takes an entry, and a few microseconds.",
            "",
        );
    }
    Finding::ok(name, room)
}

fn read(patient: &Patient<'_>) -> bool {
    patient.found.nftables.is_ok() && patient.found.iptables.is_ok() && {
        let Conntrack { count, .. } = patient.found.conntrack.clone().unwrap_or_default();
        count.is_some()
    }
}

fn not_loaded(loadable: bool) -> Finding {
    if loadable {
        return Finding::new(
            "conntrack",
            Level::Note,
            "conntrack is not loaded, and steering switches it on",
            "From then on every connection of this host takes an entry. How many fit is known once it is loaded.",
            "modprobe nf_conntrack, and look again",
        );
    }
    Finding::new(
        "conntrack",
        Level::Bad,
        "this kernel has no connection tracking (nf_conntrack)",
        "Nothing can be steered: translation needs it.",
        "Boot a kernel with nf_conntrack. In a container, load it on the host: modprobe nf_conntrack",
    )
}

fn kept(patient: &Patient<'_>) -> u64 {
    if patient.found.timeouts == Ok(true) { KEPT_BY_POLICY } else { KEPT }
}

fn rates(patient: &Patient<'_>, max: u64) -> String {
    let plain = format!("{} connections a second at {KEPT} s each", grouped(max / KEPT));
    match patient.found.timeouts {
        Ok(true) => format!("{plain}, {} when steered ({KEPT_BY_POLICY} s)", grouped(max / KEPT_BY_POLICY)),
        _ => plain,
    }
}

fn timeouts(patient: &Patient<'_>) -> Finding {
    let name = "conntrack-timeout";
    match &patient.found.timeouts {
        Ok(true) => Finding::ok(name, "the kernel has conntrack timeout policies"),
        Ok(false) => Finding::new(
            name,
            Level::Note,
            "the kernel has no conntrack timeout policies (CONFIG_NF_CONNTRACK_TIMEOUT)",
            format!("A closed connection keeps its entry for {KEPT} s in place of {KEPT_BY_POLICY} s."),
            "Raise net.netfilter.nf_conntrack_max if the rate above is not enough.",
        ),
        Err(unread) => Finding::unread(name, "whether the kernel has conntrack timeout policies", unread),
    }
}
