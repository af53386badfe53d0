//! What becomes of a connection, in every way it can: each is one count and one row that says who, from where, to
//! where, and what came of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::poll;
use mailsteer_tests::scene::{LONE, MAIL, SHOWN, Scene, eligible, offences};
use mailsteer_tests::topology::{Options, receiver4, receiver6};
use serde_json::Value;

/// Connections of each kind, half of them IPv6 where both are asked.
const EACH: u64 = 20;

/// Receivers of each kind. The world's firewall makes them so, and one drop in the host's own.
fn firewalls(scene: &Scene) {
    scene
        .lab
        .world
        .nft(
            "table inet kinds { chain in { type filter hook input priority 0
                ip daddr 203.0.113.101 tcp dport 25 reject with tcp reset
                ip6 daddr 2001:db8:ffff::101 tcp dport 25 reject with tcp reset
                ip daddr 203.0.113.102 tcp dport 25 reject with icmp type host-unreachable
                ip6 daddr 2001:db8:ffff::102 tcp dport 25 reject with icmpv6 type addr-unreachable
                ip daddr 203.0.113.103 tcp dport 25 drop
                ip6 daddr 2001:db8:ffff::103 tcp dport 25 drop
            }
            }",
        )
        .unwrap();
    scene
        .lab
        .mail
        .nft(
            "table inet stranger_drop { chain out { type filter hook output priority 0
                ip daddr 203.0.113.104 drop
                ip6 daddr 2001:db8:ffff::104 drop
            }
            }",
        )
        .unwrap();
    scene
        .lab
        .mail
        .sh("ip route add unreachable 203.0.113.105; ip route add unreachable 2001:db8:ffff::105")
        .unwrap();
}

fn try_all(scene: &Scene, uid: u32, n: u8) -> Report {
    let to = vec![receiver4(n), receiver6(u16::from_str_radix(&n.to_string(), 16).unwrap())];
    let load = Load { uid, gid: uid, to, timeout_ms: 2500, ..scene.load(200, EACH).unwrap() };
    load.run(&scene.lab.mail).unwrap()
}

fn rows_to(scene: &Scene, n: u8, count: usize) -> Vec<Value> {
    let wanted =
        [receiver4(n).to_string(), receiver6(u16::from_str_radix(&n.to_string(), 16).unwrap()).to_string()];
    let own = |rows: Vec<Value>| -> Vec<Value> {
        let is = |row: &Value| wanted.iter().any(|to| row["destination"] == to.as_str());
        rows.into_iter().filter(is).collect()
    };
    let found =
        poll::until(SHOWN, "the rows", || Ok(Some(own(scene.rows(5000)?)).filter(|r| r.len() >= count)));
    let rows = found.unwrap_or_else(|e| panic!("{e}: {:?}", own(scene.rows(5000).unwrap())));
    assert_eq!(rows.len(), count, "{rows:?}");
    rows
}

/// Who and where, in every row of a local connection.
fn names(scene: &Scene, row: &Value, stream: &str, uid: u32) {
    let cgroup = scene.lab.cgroup().unwrap().file_name().unwrap().to_str().unwrap();
    assert!(row["time"].as_str().is_some_and(|time| time.contains('T')), "{row}");
    assert!(row["pid"].as_u64().is_some_and(|pid| pid > 1), "{row}");
    assert_eq!(row["uid"], uid, "{row}");
    assert!(row["cgroup"].as_str().unwrap().contains(cgroup) || row["cgroup"] == "", "{row}");
    assert_eq!((row["stream"].as_str(), row["provider"].as_str()), (Some(stream), Some("other")), "{row}");
    assert_eq!(row["destination_port"], 25, "{row}");
}

#[test]
fn each_outcome_is_one_count_and_one_row() {
    let scene = Scene::new(Options::default(), "").unwrap();
    firewalls(&scene);
    let capture = scene.capture().unwrap();
    let left = [(1, "established"), (101, "refused"), (102, "unreachable"), (103, "unanswered")];
    for (n, outcome) in left {
        let report = try_all(&scene, MAIL, n);
        assert_eq!(report.ok, if n == 1 { EACH } else { 0 }, "{outcome}: {report:?}");
        for row in rows_to(&scene, n, EACH as usize) {
            names(&scene, &row, "mail", MAIL);
            assert_eq!(row["outcome"], outcome, "{row}");
            let real: IpAddr = row["real_address"].as_str().unwrap().parse().unwrap();
            assert!(eligible().contains_key(&real) && row["wanted_address"] == row["real_address"], "{row}");
            assert!(row["local_port"].as_u64().is_some_and(|port| port > 0), "{row}");
        }
    }
    // Dropped in the host's own firewall; no route at all.
    for n in [104, 105] {
        assert_eq!(try_all(&scene, MAIL, n).ok, 0);
        for row in rows_to(&scene, n, EACH as usize) {
            names(&scene, &row, "mail", MAIL);
            assert_eq!(
                (row["outcome"].as_str(), &row["real_address"]),
                (Some("local"), &Value::Null),
                "{row}"
            );
        }
    }
    // A decision: its pool has no IPv6 source, and its one IPv4 source is suspended.
    assert!(scene.agent.cli(&["suspend", "lone-1", "--reason", "test"]).unwrap().status.success());
    let report = try_all(&scene, LONE, 6);
    assert_eq!(report.failed.values().sum::<u64>(), EACH, "{report:?}");
    for row in rows_to(&scene, 6, EACH as usize) {
        names(&scene, &row, "lone", LONE);
        assert_eq!((row["outcome"].as_str(), &row["real_address"]), (Some("policy"), &Value::Null), "{row}");
    }
    assert_eq!(offences(&capture.stop().unwrap()), [] as [String; 0]);
    let outcomes = scene.outcomes().unwrap();
    for (_, outcome) in left {
        assert_eq!(outcomes[outcome], EACH, "{outcome} of {outcomes:?}");
    }
    assert_eq!(outcomes["attempted"], 4 * EACH, "{outcomes:?}");
    let refused = scene.metric("mailsteer_refused_total", &["stream=\"lone\""]).unwrap() as u64;
    assert_eq!(refused, EACH);
    assert_eq!((outcomes["local"], outcomes["policy"]), (2 * EACH, EACH), "{outcomes:?}");
    none_open(&scene);
    scene.close().unwrap();
}

/// Every connection has ended, in whatever way, so none is counted open.
fn none_open(scene: &Scene) {
    let closed = poll::until(SHOWN * 2, "no open connection", || Ok((scene.open()? == 0).then_some(())));
    assert!(closed.is_ok(), "{} are open", scene.open().unwrap());
}

#[test]
fn what_the_guard_holds_is_local() {
    let scene = Scene::new(Options::default(), "[nft]\nown_table = \"never\"").unwrap();
    let agent = nix::unistd::Pid::from_raw(scene.agent.pid().unwrap().cast_signed());
    let capture = scene.capture().unwrap();
    // A stopped agent cannot repair: until it goes on, there is the guard alone.
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGSTOP).unwrap();
    scene.lab.mail.sh("nft flush ruleset").unwrap();
    let report = try_all(&scene, MAIL, 7);
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(report.failed, BTreeMap::from([("timeout".to_owned(), EACH)]));
    for row in rows_to(&scene, 7, EACH as usize) {
        names(&scene, &row, "mail", MAIL);
        assert_eq!(row["outcome"], "local", "{row}");
    }
    let held = scene.metric("mailsteer_held_total", &["reason=\"no_mark\""]).unwrap();
    assert!(held >= EACH as f64, "{held}");
    let outcomes = scene.outcomes().unwrap();
    assert_eq!(
        (outcomes["local"], outcomes["unanswered"], outcomes["attempted"]),
        (EACH, 0, 0),
        "{outcomes:?}"
    );
    assert_eq!(try_all(&scene, MAIL, 1).ok, EACH, "repaired");
    assert_eq!(offences(&capture.stop().unwrap()), [] as [String; 0]);
    none_open(&scene);
    scene.close().unwrap();
}

#[test]
fn forwarded_connections_are_counted_without_a_process() {
    let scene = Scene::new(Options { containers: 1, ..Options::default() }, "").unwrap();
    firewalls(&scene);
    let capture = scene.capture().unwrap();
    for (n, outcome) in [(1, "established"), (101, "refused"), (102, "unreachable")] {
        let to = vec![receiver4(n), receiver6(u16::from_str_radix(&n.to_string(), 16).unwrap())];
        let load = Load { to, timeout_ms: 2500, count: EACH, ..Load::default() };
        let report = load.run(&scene.lab.containers[0]).unwrap();
        assert_eq!(report.ok, if n == 1 { EACH } else { 0 }, "{outcome}: {report:?}");
        for row in rows_to(&scene, n, EACH as usize) {
            assert_eq!((&row["pid"], &row["uid"]), (&Value::Null, &Value::Null), "{row}");
            assert_eq!(
                (row["stream"].as_str(), row["outcome"].as_str()),
                (Some("containers"), Some(outcome)),
                "{row}"
            );
            let real: IpAddr = row["real_address"].as_str().unwrap().parse().unwrap();
            assert!(eligible().contains_key(&real), "{row}");
        }
    }
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), [] as [String; 0]);
    let outcomes = scene.outcomes().unwrap();
    for outcome in ["established", "refused", "unreachable"] {
        assert_eq!(outcomes[outcome], EACH, "{outcome} of {outcomes:?}");
    }
    assert_eq!((outcomes["attempted"], outcomes["local"]), (3 * EACH, 0), "{outcomes:?}");
    none_open(&scene);
    scene.close().unwrap();
}
