//! What `doctor` reads of a real kernel, in namespaces of their own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::netns::{Pair, ip, run};
use mailsteer::observe::doctor::{Root, look};
use mailsteer_core::config::{Config, HostView, load};
use mailsteer_core::doctor::{Finding, Level, examine};

/// Checks that look at this machine rather than at the namespace: what they say depends on where the test runs.
const OF_THE_MACHINE: [&str; 9] =
    ["kernel", "btf", "ebpf", "lockdown", "container", "cgroup2", "bpffs", "conntrack", "conntrack-timeout"];

/// Looks as the command does; services are those of an empty root.
fn examined(root: &Path, config: Option<&Config>) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(look(&Root(root.to_owned()), config));
    examine(&found, config)
}

/// Everything over a note, but for what is said of the machine.
fn alarms(findings: &[Finding]) -> Vec<&Finding> {
    let of_namespace = |finding: &&Finding| !OF_THE_MACHINE.contains(&finding.check);
    findings.iter().filter(of_namespace).filter(|finding| finding.level > Level::Note).collect()
}

/// The one alarm of a check, in words.
fn alarm(findings: &[Finding], check: &str) -> (Level, String) {
    let alarms = alarms(findings);
    let of_check: Vec<_> = alarms.iter().filter(|finding| finding.check == check).collect();
    assert_eq!(of_check.len(), 1, "{check}: {alarms:#?}");
    (of_check[0].level, of_check[0].what.clone())
}

/// A host with two ways out, as a fresh namespace has it: no filter, no rules.
fn two_uplinks() -> Pair {
    let pair = Pair::new();
    ip("addr add 192.0.2.10/24 dev up0");
    ip("addr add 198.51.100.10/24 dev up1");
    pair.peer_ip("addr add 192.0.2.1/24 dev peer0");
    pair.peer_ip("addr add 198.51.100.1/24 dev peer1");
    ip("route add default via 192.0.2.1");
    ip("route add default via 198.51.100.1 metric 100");
    for interface in ["all", "up0", "up1"] {
        set(interface, "rp_filter", "0");
        set(interface, "promote_secondaries", "0");
    }
    pair
}

fn set(interface: &str, key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/{key}"), value).unwrap();
}

fn config() -> Config {
    let text = "mode = \"enforce\"\n\
        [uplink.a]\ninterface = \"up0\"\ngateway = \"192.0.2.1\"\nprefix = \"192.0.2.0/24\"\n\
        [uplink.b]\ninterface = \"up1\"\ngateway = \"198.51.100.1\"\nprefix = \"198.51.100.0/24\"\n\
        [pool.main]\naddresses = [\"192.0.2.10\", \"192.0.2.11\", \"198.51.100.10\"]\n\
        [stream.mail]\nuid = 101\npool = \"main\"\n";
    load("test.toml", text, &HostView::default()).config.unwrap()
}

#[test]
fn a_clean_namespace_gives_no_alarm() {
    let _pair = two_uplinks();
    let root = tempfile::tempdir().unwrap();
    let config = config();
    for config in [None, Some(&config)] {
        let findings = examined(root.path(), config);
        assert!(alarms(&findings).is_empty(), "{findings:#?}");
        let unseen =
            |finding: &&Finding| finding.what.starts_with("not seen") && finding.group != "conntrack";
        assert_eq!(findings.iter().find(unseen), None);
    }
}

#[test]
fn each_thing_that_is_put_in_the_way_is_named() {
    let _pair = two_uplinks();
    let root = tempfile::tempdir().unwrap();
    let config = config();
    run(&[
        "nft",
        "add table ip hostile; add chain ip hostile early { type filter hook output priority raw; }; \
        add rule ip hostile early tcp dport { 25, 587 } notrack; \
        add chain ip hostile post { type nat hook postrouting priority 50; }; \
        add rule ip hostile post oifname \"up1\" masquerade; \
        add chain ip hostile late { type filter hook output priority 0; }; \
        add rule ip hostile late meta mark and 0xff000000 == 0x4d000000 drop",
    ]);
    ip("rule add pref 20101 from all lookup 100");
    ip("route add 203.0.113.0/24 dev up0 table 19713");
    set("all", "rp_filter", "1");
    ip("addr add 192.0.2.11/24 dev up0");
    let findings = examined(root.path(), Some(&config));
    let (level, said) = alarm(&findings, "notrack");
    assert!(level == Level::Bad && said.contains("chain early of table ip hostile"), "{said}");
    assert!(alarm(&findings, "nat").1.contains("chain post of table ip hostile"));
    assert!(alarm(&findings, "marks").1.contains("chain late of table ip hostile"));
    assert!(alarm(&findings, "promote-secondaries").1.contains("up0 share the network 192.0.2.0/24"));
    let rules: Vec<_> = alarms(&findings).into_iter().filter(|finding| finding.check == "rules").collect();
    assert!(rules.iter().any(|finding| finding.what.contains("preference 20101")), "{rules:#?}");
    assert!(rules.iter().any(|finding| finding.what.contains("table 19713")), "{rules:#?}");
    // The agent sees to the filter of uplinks that the config declares; without a config nobody does.
    assert!(alarms(&findings).iter().all(|finding| finding.check != "rp-filter"));
    let (_, said) = alarm(&examined(root.path(), None), "rp-filter");
    assert!(said.contains("up0 and up1"), "{said}");
}

#[test]
fn rules_of_both_kinds_of_iptables_are_read() {
    let _pair = two_uplinks();
    let root = tempfile::tempdir().unwrap();
    run(&[
        "iptables-nft",
        "-t",
        "raw",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "--dport",
        "25",
        "-j",
        "CT",
        "--notrack",
    ]);
    run(&["ip6tables-nft", "-N", "DOCKER-USER"]);
    let findings = examined(root.path(), None);
    let (level, said) = alarm(&findings, "notrack");
    assert!(level == Level::Bad && said.contains("iptables-nft -t raw -A OUTPUT -p tcp"), "{said}");
    let others = findings.iter().find(|finding| finding.check == "others").unwrap();
    assert!(others.what.starts_with("Docker has rules here"), "{}", others.what);
}

#[test]
fn services_are_read_from_their_files() {
    let _pair = two_uplinks();
    let root = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("usr/lib/systemd/system/nftables.service", "[Unit]\n");
    put("etc/systemd/system/sysinit.target.wants/nftables.service", "");
    put("etc/nftables.conf", "#!/usr/sbin/nft -f\nflush ruleset\n");
    put("usr/lib/systemd/system/systemd-networkd.service", "[Unit]\n");
    put("etc/systemd/system/multi-user.target.wants/systemd-networkd.service", "");
    put("etc/systemd/networkd.conf.d/a.conf", "[Network]\nManageForeignRoutes=no\n");
    put("etc/init.d/exim4", "#!/bin/sh\n");
    put("etc/rc3.d/S01exim4", "");
    put("etc/systemd/system/mailsteer-boot.service", "[Unit]\n");
    put("etc/systemd/system/multi-user.target.wants/mailsteer-boot.service", "");
    let findings = examined(root.path(), Some(&config()));
    let of = |check: &str| findings.iter().find(|finding| finding.check == check).unwrap();
    assert!(
        of("nftables-service").what.contains("on start, reload and stop"),
        "{:?}",
        of("nftables-service")
    );
    let networkd = of("networkd");
    assert!(networkd.advice.contains("ManageForeignRoutingPolicyRules=no"), "{networkd:?}");
    assert!(!networkd.advice.contains("ManageForeignRoutes=no"), "{networkd:?}");
    assert!(of("mta-order").advice.contains("Before=exim4.service"), "{:?}", of("mta-order"));
    put("etc/systemd/system/mailsteer-boot.service.d/order.conf", "[Unit]\nBefore=exim4.service\n");
    let findings = examined(root.path(), None);
    assert_eq!(findings.iter().find(|finding| finding.check == "mta-order").unwrap().level, Level::Ok);
}
