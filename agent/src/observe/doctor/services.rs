//! Units and settings of services, out of their files: a systemd that runs is not asked, so that this works in a
//! chroot and at boot.

use mailsteer_core::doctor::{Foreign, Read, Unit, parse};

use super::files::Places;

/// Where unit files are, the first that has one wins.
const UNIT_DIRECTORIES: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Units that matter to mail, besides those of mailsteer.
const UNITS: [&str; 9] = [
    "postfix.service",
    "exim4.service",
    "opensmtpd.service",
    "sendmail.service",
    "haraka.service",
    "nftables.service",
    "firewalld.service",
    "systemd-networkd.service",
    "NetworkManager.service",
];
/// Where the configuration of systemd is, later ones win; drop-ins come after the file.
const SETTINGS: [&str; 3] = ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"];

pub(super) fn units(places: &Places) -> Read<Vec<Unit>> {
    let mut names: Vec<String> = UNITS.iter().map(|name| (*name).to_owned()).collect();
    for directory in UNIT_DIRECTORIES {
        let ours = places.names(directory).into_iter();
        names.extend(ours.filter(|name| name.starts_with("mailsteer") && name.ends_with(".service")));
    }
    names.sort();
    names.dedup();
    let mut found = vec![];
    for name in names {
        found.extend(unit(places, name)?);
    }
    Ok(found)
}

fn unit(places: &Places, name: String) -> Read<Option<Unit>> {
    let mut texts = vec![];
    for directory in UNIT_DIRECTORIES {
        if texts.is_empty() {
            texts.extend(places.text(&format!("{directory}/{name}"))?);
        }
    }
    let script = name.trim_end_matches(".service");
    let by_script = places.exists(&format!("/etc/init.d/{script}"));
    if texts.is_empty() && !by_script {
        return Ok(None);
    }
    for directory in UNIT_DIRECTORIES {
        for drop_in in places.names(&format!("{directory}/{name}.d")) {
            texts.extend(places.text(&format!("{directory}/{name}.d/{drop_in}"))?);
        }
    }
    let before = texts.iter().flat_map(|text| parse::orders(text)).collect();
    let enabled = wanted(places, &name) || (by_script && started(places, script));
    Ok(Some(Unit { name, enabled, before }))
}

/// A target or another unit asks for it: what `systemctl enable` makes.
fn wanted(places: &Places, name: &str) -> bool {
    UNIT_DIRECTORIES.iter().any(|directory| {
        let askers = places.names(directory).into_iter();
        askers
            .filter(|asker| asker.ends_with(".wants") || asker.ends_with(".requires"))
            .any(|asker| places.names(&format!("{directory}/{asker}")).iter().any(|one| one == name))
    })
}

/// An init script that some runlevel starts.
fn started(places: &Places, script: &str) -> bool {
    ["2", "3", "4", "5"].iter().any(|level| {
        let links = places.names(&format!("/etc/rc{level}.d"));
        links.iter().any(|link| {
            link.starts_with('S')
                && link.trim_start_matches(|c: char| c == 'S' || c.is_ascii_digit()) == script
        })
    })
}

pub(super) fn nftables_conf_flushes(places: &Places) -> Read<Option<bool>> {
    let flushes = |text: String| {
        text.lines().any(|line| line.split('#').next().unwrap_or_default().contains("flush ruleset"))
    };
    Ok(places.text("/etc/nftables.conf")?.map(flushes))
}

pub(super) fn networkd(places: &Places) -> Read<Foreign> {
    let mut texts = vec![];
    for directory in SETTINGS {
        texts.extend(places.text(&format!("{directory}/networkd.conf"))?);
    }
    for directory in SETTINGS {
        let drop_ins = format!("{directory}/networkd.conf.d");
        for name in places.names(&drop_ins).iter().filter(|name| name.ends_with(".conf")) {
            texts.extend(places.text(&format!("{drop_ins}/{name}"))?);
        }
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let leaves = |key| matches!(parse::setting(&texts, key), Some("no" | "false" | "0" | "off"));
    Ok(Foreign {
        leaves_routes: leaves("ManageForeignRoutes"),
        leaves_rules: leaves("ManageForeignRoutingPolicyRules"),
    })
}
