//! What runs at boot: nftables.service, network managers, MTAs.

use super::{Patient, listed};
use crate::config::OwnTable;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::findings::Unit;
use crate::doctor::parse::kernel_version;

/// Units of MTAs.
const MTAS: [&str; 5] =
    ["postfix.service", "exim4.service", "opensmtpd.service", "sendmail.service", "haraka.service"];
/// The kernel that skips an owned table in a flush, and keeps it when its owner ends.
const OWNED: (u32, u32) = (6, 9);

pub(super) fn check(patient: &Patient<'_>) -> Vec<Finding> {
    match &patient.found.units {
        Err(unread) => ["nftables-service", "networkd", "network-manager", "mta-order"]
            .map(|name| Finding::unread(name, "units", unread))
            .into(),
        Ok(units) => {
            vec![nftables(patient, units), networkd(patient, units), network_manager(units), mta_order(units)]
        }
    }
}

fn enabled(units: &[Unit], name: &str) -> bool {
    units.iter().any(|unit| unit.name == name && unit.enabled)
}

fn nftables(patient: &Patient<'_>, units: &[Unit]) -> Finding {
    let name = "nftables-service";
    if !enabled(units, "nftables.service") {
        return Finding::ok(name, "nftables.service does not run at boot");
    }
    match &patient.found.nftables_conf_flushes {
        Err(unread) => Finding::unread(name, "/etc/nftables.conf", unread),
        // Debian's unit flushes on stop whatever the file says.
        Ok(conf) => {
            let when = if *conf == Some(true) { "on start, reload and stop" } else { "on stop" };
            let version = patient.found.release.as_ref().ok().and_then(|release| kernel_version(release));
            let ownable = version.is_some_and(|version| version >= OWNED);
            let owned = ownable && patient.config.is_none_or(|config| config.own_table == OwnTable::Auto);
            let what = format!("nftables.service runs at boot and flushes the ruleset {when}");
            let advice = "Start mailsteer after nftables.service. Take `flush ruleset` out of /etc/nftables.conf and flush its own tables there instead.";
            if owned {
                let cost = "While the agent runs it owns its table and the flush skips it. While it is down the flush takes it, and the guard holds mail until the agent runs again.";
                return Finding::new(name, Level::Note, what, cost, advice);
            }
            let cost = "Each time our table is gone until the agent has put it back, which takes milliseconds; meanwhile the guard holds mail. While the agent is down it stays gone.";
            Finding::new(name, Level::Warn, what, cost, advice)
        }
    }
}

fn networkd(patient: &Patient<'_>, units: &[Unit]) -> Finding {
    let name = "networkd";
    if !enabled(units, "systemd-networkd.service") {
        return Finding::ok(name, "systemd-networkd does not run at boot");
    }
    let foreign = match &patient.found.networkd {
        Ok(foreign) => foreign,
        Err(unread) => return Finding::unread(name, "the settings of systemd-networkd", unread),
    };
    let mut lines = vec![];
    if !foreign.leaves_routes {
        lines.push("ManageForeignRoutes=no");
    }
    if !foreign.leaves_rules {
        lines.push("ManageForeignRoutingPolicyRules=no");
    }
    if lines.is_empty() {
        return Finding::ok(name, "systemd-networkd leaves routes and rules of others alone");
    }
    // Without uplinks of the config there are no routes and rules of ours; addresses are put back at once.
    let level = if patient.declares_uplinks() { Level::Warn } else { Level::Note };
    Finding::new(
        name,
        level,
        "systemd-networkd removes routes and rules that it does not know when it starts",
        "Until the agent has put them back, mail of the other uplinks is held by the guard. While the agent is down they stay gone.",
        format!("Write {} below [Network] in /etc/systemd/networkd.conf.d/mailsteer.conf.", listed(&lines)),
    )
}

fn network_manager(units: &[Unit]) -> Finding {
    let name = "network-manager";
    if !enabled(units, "NetworkManager.service") {
        return Finding::ok(name, "NetworkManager does not run at boot");
    }
    Finding::new(
        name,
        Level::Note,
        "NetworkManager runs at boot",
        "A connection that is brought up again loses addresses that are not in its profile: their sources fall out until the agent has put them back.",
        "Leave an interface's pool addresses either to mailsteer, or to the profile with [host] addresses = \"adopt\".",
    )
}

fn mta_order(units: &[Unit]) -> Finding {
    let name = "mta-order";
    let mtas: Vec<&str> = MTAS
        .into_iter()
        .filter(|mta| enabled(units, mta))
        .map(|mta| mta.trim_end_matches(".service"))
        .collect();
    if mtas.is_empty() {
        return Finding::ok(name, "no MTA that is known runs at boot on this host");
    }
    let cost = "Mail leaves unsteered from the start of the MTA until the agent has written its rules.";
    let ours: Vec<&Unit> =
        units.iter().filter(|unit| unit.name.starts_with("mailsteer") && unit.enabled).collect();
    if ours.is_empty() {
        let what = format!("no unit of mailsteer runs at boot, and {} does", listed(&mtas));
        let advice = "Enable mailsteer's units before you steer, or start the agent before the MTA.";
        return Finding::new(name, Level::Note, what, cost, advice);
    }
    let late: Vec<&str> = mtas
        .into_iter()
        .filter(|mta| !ours.iter().any(|unit| unit.before.contains(&format!("{mta}.service"))))
        .collect();
    if late.is_empty() {
        return Finding::ok(name, "mailsteer comes before every MTA at boot");
    }
    let before: Vec<String> = late.iter().map(|mta| format!("{mta}.service")).collect();
    let advice =
        format!("systemctl edit {}, and write below [Unit]: Before={}", ours[0].name, before.join(" "));
    let what = format!("no unit of mailsteer is ordered before {}", listed(&late));
    Finding::new(name, Level::Warn, what, cost, advice)
}
