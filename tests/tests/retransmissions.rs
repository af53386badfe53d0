//! A SYN that nobody answers is sent again and again: always from the same source, by the same uplink, as long as that
//! source holds slots; once it holds none, from one that does. And a reload refuses nothing.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_tests::capture::Syn;
use mailsteer_tests::load::Load;
use mailsteer_tests::poll;
use mailsteer_tests::scene::{CONFIG, SHOWN, Scene, offences};
use mailsteer_tests::topology::{Options, receiver4, receiver6};

/// Silent receivers of each family: one connection to each, so that a connection is known by its destination.
const EACH: u8 = 20;

/// The addresses of main-1, main-3, main-5 and main-7.
const GONE: [&str; 4] = ["192.0.2.11", "198.51.100.21", "2001:db8:a::11", "2001:db8:b::21"];

fn silent() -> Vec<IpAddr> {
    (0..EACH).flat_map(|n| [receiver4(100 + n), receiver6(0x1000 + u16::from(n))]).collect()
}

/// The receivers' firewall drops what comes for them.
fn silence(scene: &Scene) {
    scene
        .lab
        .world
        .nft(
            "table inet silent { chain in { type filter hook prerouting priority -300
                ip daddr 203.0.113.100-203.0.113.119 drop
                ip6 daddr 2001:db8:ffff::1000-2001:db8:ffff::1fff drop
            }
            }",
        )
        .unwrap();
}

#[test]
fn a_syn_sent_again_keeps_source_and_uplink_until_its_source_holds_no_slots() {
    let scene = Scene::new(Options::default(), "").unwrap();
    silence(&scene);
    let to = silent();
    let capture = scene.capture().unwrap();
    let count = to.len() as u64;
    // SYNs go out at 0, 1, 2, 3, 4, 5 and 7 s on a recent kernel, at 0, 1, 3, 7 and 15 s on an older one.
    let load = Load { to: to.clone(), timeout_ms: 16_000, ..scene.load(400, count).unwrap() };
    let waiting = load.start(&scene.lab.mail).unwrap();
    scene.await_metric("mailsteer_connections_total", &["outcome=\"attempted\""], count as f64).unwrap();
    // Sources of both uplinks and families lose their share while their SYNs wait; then a reload, under load.
    for source in ["main-1", "main-3", "main-5", "main-7"] {
        assert!(scene.agent.cli(&["suspend", source, "--reason", "test"]).unwrap().status.success());
    }
    let others = scene.load(200, 400).unwrap().start(&scene.lab.mail).unwrap();
    for n in 0..5 {
        scene.agent.reload(&format!("# {n}\n{CONFIG}")).unwrap();
    }
    assert_eq!(others.finish().unwrap().ok, 400);
    assert_eq!(waiting.finish().unwrap().failed, BTreeMap::from([("timeout".to_owned(), count)]));
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), [] as [String; 0]);
    let gone: BTreeSet<IpAddr> = GONE.iter().map(|source| source.parse().unwrap()).collect();
    let (mut used, mut ways) = (BTreeSet::new(), BTreeMap::new());
    for destination in &to {
        let mut syns: Vec<&Syn> =
            wire.syn_list.iter().filter(|syn| syn.destination == *destination).collect();
        // One after the other, whichever uplink they took.
        syns.sort_by_key(|syn| syn.at);
        assert!(syns.len() >= 5, "{destination}: {syns:?}");
        let mut way: Vec<_> = syns.iter().map(|syn| (&syn.interface, syn.source)).collect();
        way.dedup();
        let (last, left) = way.split_last().unwrap();
        assert!(left.iter().all(|(_, source)| gone.contains(source)), "{destination}: {syns:?}");
        assert!(!gone.contains(&last.1), "{destination}: {syns:?}");
        used.insert(way[0].1);
        ways.insert(*destination, way.len());
    }
    // 40 connections in turn over four sources of each family: the suspended ones among them.
    assert_eq!(used.len(), 8, "{used:?}");
    let moved = ways.values().filter(|ways| **ways > 1).count();
    assert_eq!(moved, to.len() / 2, "half of the sources lost their slots: {ways:?}");
    let carried = scene.metric("mailsteer_pending_moved_total", &[]).unwrap();
    assert!(carried >= moved as f64, "{carried} of {moved}");
    assert_eq!(scene.metric("mailsteer_refused_total", &[]).unwrap(), 0.0);
    told_once(&scene, &ways);
    scene.close().unwrap();
}

/// Each is one row and one count for each source that it left from.
fn told_once(scene: &Scene, ways: &BTreeMap<IpAddr, usize>) {
    let all: usize = ways.values().sum();
    let outcomes = scene.outcomes().unwrap();
    assert_eq!((outcomes["unanswered"], outcomes["local"]), (all as u64, 0), "{outcomes:?}");
    let rows = poll::until(SHOWN, "the records", || {
        let rows = scene.rows(1000)?;
        Ok(Some(rows).filter(|rows| rows.iter().filter(|r| r["outcome"] == "unanswered").count() >= all))
    });
    let rows = rows.unwrap();
    for (destination, ways) in ways {
        let own: Vec<_> = rows.iter().filter(|row| row["destination"] == destination.to_string()).collect();
        assert_eq!(own.len(), *ways, "{destination}: {own:?}");
        assert!(own.iter().any(|row| row["retransmits"].as_u64().unwrap() >= 4), "{own:?}");
        for row in own {
            assert_eq!(row["outcome"], "unanswered", "{row}");
            assert_eq!(row["wanted_address"], row["real_address"], "{row}");
        }
    }
}
