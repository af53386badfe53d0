//! The units, as far as they can be judged without a running systemd: sound, tight, and explained.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use mailsteer_tests::unit::{UNITS, Unit};

const SERVICES: [&str; 2] = ["mailsteer.service", "mailsteer-boot.service"];
/// In tenths, as systemd-analyze takes it: 2.5.
const MOST_EXPOSED: u32 = 25;

fn analyze(args: &[&str], units: &[&Path]) -> Result<String, String> {
    let output = Command::new("systemd-analyze").args(args).args(units).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn they_are_hardly_exposed() {
    let threshold = format!("--threshold={MOST_EXPOSED}");
    for name in SERVICES {
        let unit = Unit::folder().join(name);
        let said = analyze(&["security", "--offline=true", "--no-pager", &threshold], &[&unit]).unwrap();
        eprintln!("{}", said.lines().last().unwrap_or_default());
        // The same without its limits is over the threshold: the tool looks.
        let open = tempfile::tempdir().unwrap();
        let bare = open.path().join(name);
        fs::write(&bare, "[Service]\nType=simple\nExecStart=/bin/true\n").unwrap();
        analyze(&["security", "--offline=true", "--no-pager", &threshold], &[&bare]).unwrap_err();
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let verify = |change: &dyn Fn(String) -> String| {
        let units: Vec<_> = UNITS.iter().map(|name| folder.path().join(name)).collect();
        for (name, path) in UNITS.iter().zip(&units) {
            // What is not installed here cannot be executed: any program stands for it.
            let text = fs::read_to_string(Unit::folder().join(name)).unwrap();
            fs::write(path, change(text.replace("/usr/bin/mailsteer", "/usr/bin/env"))).unwrap();
        }
        let paths: Vec<&Path> = units.iter().map(AsRef::as_ref).collect();
        let said = analyze(&["verify", "--man=no"], &paths);
        said.and_then(|said| if said.trim().is_empty() { Ok(()) } else { Err(said) })
    };
    verify(&|text| text).unwrap();
    let wrong = verify(&|text| text.replace("ProtectClock=yes", "ProtectClocks=yes")).unwrap_err();
    assert!(wrong.contains("ProtectClocks"), "{wrong}");
}

#[test]
fn every_capability_is_explained_and_no_other() {
    let docs = Unit::folder().join("../docs/capabilities.md");
    let text = fs::read_to_string(docs).unwrap();
    let explained: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("## CAP_")).collect();
    for name in SERVICES {
        let unit = Unit::read(name).unwrap();
        let ambient = unit.words("AmbientCapabilities");
        let named: BTreeSet<&str> = ambient.iter().filter_map(|word| word.strip_prefix("CAP_")).collect();
        assert_eq!(named, explained, "{name}");
        assert_eq!(ambient, unit.words("CapabilityBoundingSet"), "{name}");
    }
}

#[test]
fn guard_and_rules_come_before_every_mta_and_after_who_flushes() {
    let unit = Unit::read("mailsteer-boot.service").unwrap();
    let (before, after) = (unit.words("Before"), unit.words("After"));
    let mtas = [
        "postfix.service",
        "postfix@-.service",
        "exim4.service",
        "opensmtpd.service",
        "sendmail.service",
        "network.target",
    ];
    // An MTA in a container starts with what runs containers.
    for sends in mtas.into_iter().chain(["docker.service", "containerd.service", "podman.service"]) {
        assert!(before.contains(sends), "{sends}");
    }
    let agent = Unit::read("mailsteer.service").unwrap();
    let agent = agent.words("After");
    for flushes in ["nftables.service", "firewalld.service"] {
        assert!(after.contains(flushes) && agent.contains(flushes), "{flushes}");
    }
    assert!(agent.contains("mailsteer-boot.service"));
    // There would be a cycle by way of cloud-init, and systemd breaks one by leaving a unit out.
    assert!(!after.contains("sysinit.target") && unit.words("DefaultDependencies").contains("no"));
}

#[test]
fn nothing_runs_before_there_is_a_config() {
    for name in UNITS {
        let unit = Unit::read(name).unwrap();
        assert_eq!(
            unit.values("ConditionPathExists").collect::<Vec<_>>(),
            ["/etc/mailsteer/mailsteer.toml"],
            "{name}"
        );
    }
}
