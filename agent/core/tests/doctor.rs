//! Every check on hosts that have what it looks for, and on one that has nothing the matter.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at what should not happen")]

use std::collections::{BTreeMap, BTreeSet};

use mailsteer_core::config::{Config, HostView, load};
use mailsteer_core::doctor::{
    CHECKS, Conntrack, Finding, Findings, Firewall, Foreign, InterfaceSettings, Level, Mount, PolicyRule,
    Read, Unit, Unread, examine, parse, reference, worst,
};
use mailsteer_core::model::{Address, AddressState, Family, Host, Link, Route};
use mailsteer_core::signal::port25::{Met, Try};
use serde_json::json;

fn mount(at: &str, kind: &str) -> Mount {
    Mount { at: at.to_owned(), kind: kind.to_owned() }
}

fn address(text: &str, prefix_len: u8) -> Address {
    let address = text.parse().unwrap();
    Address { ifindex: 2, address, prefix_len, state: AddressState::Ready, ours: false }
}

fn default_route(ifindex: u32) -> Route {
    let gateway = Some("192.0.2.1".parse().unwrap());
    Route { destination: "0.0.0.0/0".parse().unwrap(), gateway, ifindex, metric: 0 }
}

/// A host that has everything, and nothing of anybody else's.
fn healthy() -> Findings {
    let link = |index, name: &str| Link {
        index,
        name: name.to_owned(),
        up: true,
        loopback: name == "lo",
        point_to_point: false,
    };
    Findings {
        root: true,
        release: Ok("6.12.1-amd64".to_owned()),
        btf: Ok(true),
        bpf: Ok(true),
        capabilities: Ok(u64::MAX),
        unprivileged_bpf_disabled: Ok(2),
        lockdown: Ok(None),
        container: Ok(None),
        nft: Ok(Some("1.0.6".to_owned())),
        mounts: Ok(vec![mount("/sys/fs/cgroup", "cgroup2"), mount("/sys/fs/bpf", "bpf")]),
        conntrack: Ok(Conntrack { max: Some(262_144), count: Some(10), loadable: true }),
        timeouts: Ok(true),
        host: Ok(Host {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")],
            addresses: vec![address("192.0.2.10", 24), address("192.0.2.11", 32)],
            routes: vec![default_route(2)],
        }),
        interfaces: Ok(BTreeMap::from([
            ("all".to_owned(), InterfaceSettings::default()),
            ("eth0".to_owned(), InterfaceSettings::default()),
            ("eth1".to_owned(), InterfaceSettings::default()),
        ])),
        rules: Ok(vec![rule(0, Some(255)), rule(32_766, Some(254)), rule(32_767, Some(253))]),
        taken_tables: Ok(vec![]),
        nftables: Ok(Firewall::default()),
        iptables: Ok(Firewall::default()),
        local_ports: Ok((32_768, 60_999)),
        nftables_conf_flushes: Ok(None),
        networkd: Ok(Foreign { leaves_routes: false, leaves_rules: false }),
        port25: Ok(Some([("main-1".to_owned(), Ok(vec![open()]))].into())),
        units: Ok(vec![]),
    }
}

fn open() -> Try {
    Try { receiver: "203.0.113.1".parse().unwrap(), met: Met::Greeting, elsewhere: None }
}

fn rule(preference: u32, table: Option<u32>) -> PolicyRule {
    PolicyRule {
        family: Family::V4,
        preference,
        mark: None,
        inverted: false,
        selective: false,
        table,
        suppresses: false,
        ours: false,
    }
}

fn unit(name: &str, before: &[&str]) -> Unit {
    let before = before.iter().map(|name| (*name).to_owned()).collect();
    Unit { name: name.to_owned(), enabled: true, before }
}

/// Two uplinks, two sources, one stream.
fn config() -> Config {
    let text = r#"
        mode = "enforce"
        [uplink.a]
        interface = "eth0"
        gateway = "192.0.2.1"
        prefix = "192.0.2.0/24"
        [uplink.b]
        interface = "eth1"
        gateway = "198.51.100.1"
        prefix = "198.51.100.0/24"
        [pool.main]
        addresses = ["192.0.2.10", "192.0.2.11", "198.51.100.10"]
        [stream.mail]
        uid = 101
        pool = "main"
    "#;
    load("test.toml", text, &HostView::default()).config.unwrap()
}

fn of<'f>(findings: &'f [Finding], check: &str) -> Vec<&'f Finding> {
    findings.iter().filter(|finding| finding.check == check).collect()
}

/// The worst that a check says of a healthy host after a change, with its words.
fn after(check: &str, config: Option<&Config>, change: impl FnOnce(&mut Findings)) -> (Level, String) {
    let mut found = healthy();
    change(&mut found);
    let findings = examine(&found, config);
    let worst = of(&findings, check).into_iter().max_by_key(|finding| finding.level).unwrap();
    assert!(worst.level <= Level::Note || (!worst.cost.is_empty() && !worst.advice.is_empty()), "{worst:?}");
    (worst.level, format!("{} | {} | {}", worst.what, worst.cost, worst.advice))
}

fn nft(rules: &[serde_json::Value]) -> Firewall {
    let chain = json!({ "chain": { "family": "ip", "table": "t", "name": "c", "type": "nat", "hook": "postrouting", "prio": 50 } });
    let rules = rules.iter().map(
        |expr| json!({ "rule": { "family": "ip", "table": "t", "chain": "c", "handle": 7, "expr": expr } }),
    );
    parse::nftables(&json!({ "nftables": std::iter::once(chain).chain(rules).collect::<Vec<_>>() }))
}

fn saved(table: &str, rule: &str) -> Firewall {
    parse::iptables("iptables", &format!("*{table}\n:OUTPUT ACCEPT [0:0]\n{rule}\nCOMMIT\n"))
}

#[test]
fn a_healthy_host_is_well_and_every_check_says_so() {
    let config = config();
    for config in [None, Some(&config)] {
        let findings = examine(&healthy(), config);
        assert_eq!(worst(&findings), Level::Ok, "{findings:?}");
        let said: BTreeSet<&str> = findings.iter().map(|finding| finding.check).collect();
        let all: BTreeSet<&str> = CHECKS
            .iter()
            .filter(|check| !["config", "dns"].contains(&check.group))
            .map(|check| check.name)
            .collect();
        assert_eq!(said, all);
    }
}

#[test]
fn what_cannot_be_read_is_a_note_and_no_verdict() {
    fn no<T>() -> Result<T, Unread> {
        Err(Unread { why: "no".to_owned(), needs_root: true })
    }
    let blind = Findings {
        root: false,
        release: no(),
        btf: no(),
        bpf: no(),
        capabilities: no(),
        unprivileged_bpf_disabled: no(),
        lockdown: no(),
        container: no(),
        nft: no(),
        mounts: no(),
        conntrack: no(),
        timeouts: no(),
        host: no(),
        interfaces: no(),
        rules: no(),
        taken_tables: no(),
        nftables: no(),
        iptables: no(),
        local_ports: no(),
        port25: no(),
        nftables_conf_flushes: no(),
        networkd: no(),
        units: no(),
    };
    let findings = examine(&blind, None);
    assert!(findings.iter().all(|finding| finding.level == Level::Note), "{findings:?}");
    assert!(of(&findings, "notrack").iter().all(|finding| finding.advice.contains("as root")));
}

#[test]
fn kernel_and_mounts() {
    let release = |text: &str| after("kernel", None, |found| found.release = Ok(text.to_owned()));
    assert_eq!(release("5.10.0-30-amd64").0, Level::Bad);
    let (level, said) = release("6.1.0-18-amd64");
    assert!(level == Level::Note && said.contains("clsact") && said.contains("flush ruleset"), "{said}");
    assert!(!release("6.6.1").1.contains("clsact"));
    assert_eq!(after("btf", None, |found| found.btf = Ok(false)).0, Level::Warn);
    assert_eq!(after("nft", None, |found| found.nft = Ok(None)).0, Level::Bad);
    assert_eq!(after("nft", None, |found| found.nft = Ok(Some("0.9.8".to_owned()))).0, Level::Warn);
    assert_eq!(after("cgroup2", None, |found| found.mounts = Ok(vec![])).0, Level::Bad);
    assert_eq!(after("bpffs", None, |found| found.mounts = Ok(vec![])).0, Level::Bad);
    let hybrid = [mount("/sys/fs/cgroup/cpu", "cgroup"), mount("/sys/fs/cgroup/unified", "cgroup2")];
    let (level, said) = after("cgroup2", None, |found| found.mounts = Ok(hybrid.to_vec()));
    assert!(level == Level::Note && said.contains("/sys/fs/cgroup/unified"), "{said}");
    let (level, said) = after("bpffs", None, |found| found.mounts = Ok(vec![mount("/mnt/bpf", "bpf")]));
    assert!(level == Level::Note && said.contains("--bpffs /mnt/bpf"), "{said}");
}

#[test]
fn privileges() {
    let refused = |capabilities: u64| {
        after("ebpf", None, |found| {
            found.bpf = Err(Unread { why: "EPERM".to_owned(), needs_root: false });
            found.capabilities = Ok(capabilities);
        })
    };
    let (level, said) = refused(0xa804_25fb);
    assert!(level == Level::Warn && said.contains("CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF"), "{said}");
    assert!(refused(u64::MAX).1.contains("seccomp"));
    assert_eq!(after("ebpf", None, |found| found.bpf = Ok(false)).0, Level::Warn);
    let locked = |mode: &str| after("lockdown", None, |found| found.lockdown = Ok(Some(mode.to_owned()))).0;
    assert_eq!((locked("integrity"), locked("confidentiality")), (Level::Ok, Level::Warn));
    assert_eq!(after("container", None, |found| found.container = Ok(Some("lxc".to_owned()))).0, Level::Note);
    assert_eq!(after("seen", None, |found| found.root = false).0, Level::Note);
}

#[test]
fn conntrack() {
    let table = |max, count, timeouts| {
        after("conntrack", None, |found| {
            found.conntrack = Ok(Conntrack { max, count, loadable: true });
            found.timeouts = Ok(timeouts);
        })
    };
    let (level, said) = table(Some(8_192), Some(5), false);
    assert!(level == Level::Warn && said.contains("68 connections a second"), "{said}");
    assert_eq!(table(Some(8_192), Some(5), true).0, Level::Ok);
    assert_eq!(table(Some(262_144), Some(150_000), true).0, Level::Warn);
    assert_eq!(table(Some(262_144), Some(250_000), true).0, Level::Bad);
    let (level, said) = table(Some(262_144), Some(0), true);
    assert!(level == Level::Note && said.contains("switches it on") && said.contains("26,214"), "{said}");
    assert_eq!(table(None, None, true).0, Level::Note);
    let none = Conntrack { max: None, count: None, loadable: false };
    assert_eq!(after("conntrack", None, |found| found.conntrack = Ok(none)).0, Level::Bad);
    assert_eq!(after("conntrack-timeout", None, |found| found.timeouts = Ok(false)).0, Level::Note);
}

#[test]
fn rules_that_take_mail_out_of_tracking() {
    let dport = |port: u16| json!({ "match": { "op": "==", "left": { "payload": { "protocol": "tcp", "field": "dport" } }, "right": port } });
    let from = json!({ "match": { "op": "==", "left": { "payload": { "protocol": "ip", "field": "saddr" } }, "right": "192.0.2.1" } });
    let by_nft = |expr: serde_json::Value| after("notrack", None, |found| found.nftables = Ok(nft(&[expr])));
    let (level, said) = by_nft(json!([dport(25), { "notrack": null }]));
    assert!(level == Level::Bad && said.contains("nft delete rule ip t c handle 7"), "{said}");
    assert_eq!(by_nft(json!([{ "notrack": null }])).0, Level::Bad);
    assert_eq!(by_nft(json!([from, { "notrack": null }])).0, Level::Warn);
    assert_eq!(by_nft(json!([dport(53), { "notrack": null }])).0, Level::Ok);
    let line = "-A OUTPUT -p tcp -m tcp --dport 25 -j CT --notrack";
    let (level, said) = after("notrack", None, |found| found.iptables = Ok(saved("raw", line)));
    assert!(level == Level::Bad && said.contains("iptables -t raw -D OUTPUT -p tcp"), "{said}");
}

#[test]
fn rules_that_take_our_marks_or_rewrite_first() {
    let config = config();
    let masquerade = nft(&[json!([{ "masquerade": null }])]);
    assert_eq!(after("nat", None, |found| found.nftables = Ok(masquerade)).0, Level::Warn);
    let docker = saved("nat", "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
    assert_eq!(after("nat", None, |found| found.iptables = Ok(docker)).0, Level::Ok);
    let marks =
        |line: &str, config| after("marks", config, |found| found.iptables = Ok(saved("mangle", line)));
    let kube = "-A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP";
    let (level, said) = marks(kube, None);
    assert!(level == Level::Note && said.contains("(kube-proxy)"), "{said}");
    assert_eq!(marks(kube, Some(&config)).0, Level::Ok, "lanes 1 and 2 do not reach that bit");
    assert_eq!(marks("-A OUTPUT -m mark --mark 0x1/0x1 -j DROP", Some(&config)).0, Level::Warn);
    assert_eq!(marks("-A OUTPUT -m mark ! --mark 0xca6c -j REJECT", Some(&config)).0, Level::Warn);
    assert_eq!(marks("-A OUTPUT -j CONNMARK --set-xmark 0x1/0xff", None).0, Level::Warn);
    let save = "-A OUTPUT -j CONNMARK --save-mark --nfmask 0xff0000 --ctmask 0xff0000";
    assert_eq!(marks(save, None).0, Level::Note);
    assert_eq!(marks("-A OUTPUT -p udp -j CONNMARK --set-xmark 0x1/0xff", None).0, Level::Ok);
    assert_eq!(marks("-A OUTPUT -j MARK --set-xmark 0x4d000001/0xffffffff", None).0, Level::Warn);
    assert_eq!(marks("-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff", None).0, Level::Ok);
}

#[test]
fn programs_are_known_by_their_chains_and_rules() {
    let mut found = healthy();
    found.iptables = Ok(saved(
        "filter",
        ":DOCKER-USER - [0:0]\n:ts-input - [0:0]\n:cali-OUTPUT - [0:0]\n:mwan3_hook - [0:0]",
    ));
    found.nftables = Ok(parse::nftables(
        &json!({ "nftables": [{ "chain": { "family": "inet", "table": "firewalld", "name": "x" } }] }),
    ));
    let findings = examine(&found, None);
    let said = &of(&findings, "others")[0].what;
    assert!(said.starts_with("Calico, Docker, Tailscale, firewalld and mwan3 have rules here"), "{said}");
    assert_eq!(worst(&findings), Level::Ok);
}

#[test]
fn routing() {
    let config = config();
    let settings = |rp_filter| InterfaceSettings { rp_filter, ..InterfaceSettings::default() };
    let strict = |found: &mut Findings| {
        found.interfaces.as_mut().unwrap().insert("all".to_owned(), settings(1));
    };
    assert_eq!(after("rp-filter", None, strict).0, Level::Ok, "one uplink");
    let two = |found: &mut Findings| {
        strict(found);
        found.host.as_mut().unwrap().routes.push(default_route(3));
    };
    let (level, said) = after("rp-filter", None, two);
    assert!(level == Level::Warn && said.contains("eth0 and eth1"), "{said}");
    assert_eq!(after("rp-filter", Some(&config), two).0, Level::Ok, "the agent sees to it");
    let share = |found: &mut Findings| {
        found.host.as_mut().unwrap().addresses = vec![address("192.0.2.10", 24), address("192.0.2.11", 24)];
    };
    let (level, said) = after("promote-secondaries", Some(&config), share);
    assert!(level == Level::Warn && said.contains("192.0.2.0/24"), "{said}");
    assert_eq!(after("promote-secondaries", None, share).0, Level::Note);
    let promoted = |found: &mut Findings| {
        share(found);
        found.interfaces.as_mut().unwrap().get_mut("eth0").unwrap().promote_secondaries = true;
    };
    assert_eq!(after("promote-secondaries", Some(&config), promoted).0, Level::Ok);
    assert_eq!(after("local-ports", None, |found| found.local_ports = Ok((60_000, 60_999))).0, Level::Warn);
    assert_eq!(after("rules", None, |found| found.taken_tables = Ok(vec![19_713])).0, Level::Bad);
}

#[test]
fn policy_rules() {
    let config = config();
    let with =
        |rule: PolicyRule, config| after("rules", config, |found| found.rules.as_mut().unwrap().push(rule)).0;
    assert_eq!(with(rule(20_101, Some(100)), None), Level::Warn);
    assert_eq!(with(PolicyRule { ours: true, ..rule(20_101, Some(19_713)) }, None), Level::Ok);
    assert_eq!(with(rule(31_000, Some(19_712)), None), Level::Bad);
    assert_eq!(with(rule(1_000, Some(100)), None), Level::Note);
    assert_eq!(with(rule(1_000, Some(100)), Some(&config)), Level::Warn);
    assert_eq!(with(PolicyRule { suppresses: true, ..rule(1_000, Some(254)) }, Some(&config)), Level::Ok);
    assert_eq!(with(rule(32_000, Some(100)), Some(&config)), Level::Ok, "after ours");
    let marked = |value, mask| PolicyRule { mark: Some((value, mask)), ..rule(5_210, Some(254)) };
    assert_eq!(with(marked(0x8_0000, 0xff_0000), Some(&config)), Level::Ok, "Tailscale");
    assert_eq!(with(marked(0x1, 0xff), Some(&config)), Level::Warn);
    let from = PolicyRule { selective: true, ..rule(1_000, Some(100)) };
    assert_eq!(with(from, Some(&config)), Level::Note);
}

#[test]
fn services() {
    let units = |list: &[Unit]| {
        let list = list.to_vec();
        move |found: &mut Findings| found.units = Ok(list)
    };
    let nftables = |release: &str, conf| {
        let release = release.to_owned();
        after("nftables-service", None, move |found| {
            found.units = Ok(vec![unit("nftables.service", &[])]);
            found.release = Ok(release);
            found.nftables_conf_flushes = Ok(conf);
        })
    };
    let (level, said) = nftables("6.1.0", Some(true));
    assert!(level == Level::Warn && said.contains("on start, reload and stop"), "{said}");
    let (level, said) = nftables("6.12.0", Some(false));
    assert!(level == Level::Note && said.contains("on stop") && said.contains("owns"), "{said}");
    let config = config();
    let networkd = [unit("systemd-networkd.service", &[])];
    let (level, said) = after("networkd", Some(&config), units(&networkd));
    assert!(level == Level::Warn && said.contains("ManageForeignRoutingPolicyRules=no"), "{said}");
    assert_eq!(after("networkd", None, units(&networkd)).0, Level::Note);
    let manager = [unit("NetworkManager.service", &[])];
    assert_eq!(after("network-manager", None, units(&manager)).0, Level::Note);
    let (postfix, exim) = (unit("postfix.service", &[]), unit("exim4.service", &[]));
    let boot = unit("mailsteer-boot.service", &["postfix.service"]);
    assert_eq!(after("mta-order", None, units(std::slice::from_ref(&postfix))).0, Level::Note);
    assert_eq!(after("mta-order", None, units(&[boot.clone(), postfix.clone()])).0, Level::Ok);
    let (level, said) = after("mta-order", None, units(&[boot, exim, postfix]));
    assert!(level == Level::Warn && said.contains("Before=exim4.service"), "{said}");
}

/// `MAILSTEER_BLESS=1 cargo test -p mailsteer-core --test doctor` writes it.
#[test]
fn the_reference_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor.md");
    if std::env::var_os("MAILSTEER_BLESS").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let written = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written, reference(), "{} is not current", path.display());
}

#[test]
fn a_block_of_port_25_is_told_from_dead_receivers() {
    let tried = |met: &Met, elsewhere| -> Read<Vec<Try>> {
        let to = ["203.0.113.1", "203.0.113.2"].map(|to| to.parse().unwrap());
        Ok(to.map(|receiver| Try { receiver, met: met.clone(), elsewhere }).into())
    };
    let after = |tries: [Read<Vec<Try>>; 2]| {
        let names = ["main-1".to_owned(), "main-2".to_owned()];
        after("port25", None, |found| found.port25 = Ok(Some(names.into_iter().zip(tries).collect())))
    };
    let (level, text) = after([tried(&Met::Greeting, None), tried(&Met::Greeting, None)]);
    assert!(level == Level::Ok && text.contains("open from 2 sources"), "{text}");
    let (level, text) = after([tried(&Met::Silence, Some(587)), tried(&Met::Silence, Some(587))]);
    assert!(level == Level::Bad && text.contains("at port 587"), "{text}");
    let (level, text) = after([tried(&Met::Greeting, None), tried(&Met::Silence, None)]);
    assert!(
        level == Level::Bad && text.contains("main-2") && text.contains("answers other sources"),
        "{text}"
    );
    let (level, text) = after([tried(&Met::Silence, None), tried(&Met::Silence, None)]);
    assert!(level == Level::Note && text.contains("answers anybody"), "{text}");
    let unread = || Err(Unread { why: "cannot be bound".into(), needs_root: false });
    let (level, text) = after([unread(), unread()]);
    assert!(level == Level::Note && text.contains("cannot be bound"), "{text}");
    let (level, text) = self::after("port25", None, |found| found.port25 = Ok(None));
    assert!(level == Level::Note && text.contains("[preflight]"), "{text}");
}
