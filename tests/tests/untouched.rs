//! Invariant 7: what is not steered mail behaves as before, and teardown leaves nothing.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mailsteer_tests::host_state::HostState;
use mailsteer_tests::probe::{self, Asker};
use mailsteer_tests::topology::{RELAY, container4, container6, receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver};

/// Everything that mailsteer can put on a host: sources and tags of both families, two uplinks' policy routing.
const CONFIG: &str = r#"
mode = "enforce"
[uplink.a]
interface = "upa"
gateway = ["192.0.2.1", "2001:db8:a::1"]
prefix = ["192.0.2.0/25", "2001:db8:a::/64"]
[uplink.b]
interface = "upb"
gateway = ["198.51.100.1", "2001:db8:b::1"]
prefix = ["198.51.100.0/25", "2001:db8:b::/64"]
[pool.main]
addresses = [
    "192.0.2.11-192.0.2.14", "198.51.100.21-198.51.100.24",
    "2001:db8:a::11", "2001:db8:a::12", "2001:db8:b::21", "2001:db8:b::22",
]
[stream.tagged]
tag = ["198.18.0.2", "fd00:7461:67::2"]
pool = "main"
[stream.mail]
uid = 1001
pool = "main"
"#;

const STEERED: u32 = 1001;
const OTHER: u32 = 1002;

/// A private relay that IPv6 reaches.
const RELAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5e1a, 0, 0, 0, 0, 0, 0x25);

/// The lab with a receiver wherever a connection may end.
struct Place {
    lab: Lab,
    world: Receiver,
    host: Receiver,
    container: Receiver,
}

impl Place {
    fn new() -> Self {
        let lab = Lab::new(Options { containers: 2, ..Options::default() }).unwrap();
        lab.world.sh(&format!("ip address add {RELAY6}/128 dev lo")).unwrap();
        let listen = |ns| Receiver::start(ns, 25).unwrap();
        let (world, host) = (listen(&lab.world), listen(&lab.mail));
        let container = listen(&lab.containers[0]);
        Self { lab, world, host, container }
    }

    /// Connections of a steered user that are not mail to the world.
    fn near(&self) -> Vec<(&Receiver, IpAddr)> {
        let [a, b] = uplinks();
        let own: [IpAddr; 6] = [
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            a.own4.into(),
            a.own6.into(),
            b.own4.into(),
            b.own6.into(),
        ];
        let mut all: Vec<_> = own.into_iter().map(|to| (&self.host, to)).collect();
        all.extend([container4(0), container6(0)].map(|to| (&self.container, to)));
        all.extend([IpAddr::from(RELAY), RELAY6.into()].map(|to| (&self.world, to)));
        all
    }

    /// The source address of everything that must not be steered, as the other end sees it.
    fn seen(&self) -> BTreeMap<String, String> {
        let mut seen = BTreeMap::new();
        for to in destinations() {
            seen.insert(format!("route to {to}"), probe::route(&self.lab.mail, to).unwrap());
        }
        let mut note = |who: &str, asker: &Asker, receiver: &Receiver, to: IpAddr| {
            let source = asker.seen_by(receiver, to).unwrap();
            seen.insert(format!("{who} to {to}"), source.to_string());
        };
        let steered = Asker::on_host(&self.lab, STEERED).unwrap();
        let other = Asker::on_host(&self.lab, OTHER).unwrap();
        let contained = Asker::in_container(&self.lab, 1);
        for (receiver, to) in self.near() {
            note("steered user", &steered, receiver, to);
            note("another user", &other, receiver, to);
        }
        for to in [receiver4(1), receiver6(1)] {
            note("another user", &other, &self.world, to);
            note("container", &contained, &self.world, to);
        }
        for to in [container4(0), container6(0)] {
            note("container", &contained, &self.container, to);
        }
        for to in [uplinks()[0].own4.into(), uplinks()[0].own6.into()] {
            note("container", &contained, &self.host, to);
        }
        seen
    }

    /// The SYNs of an unsteered user and of a container, as they are on the wire.
    fn syns(&self) -> BTreeMap<(String, IpAddr), Vec<Vec<u8>>> {
        let capture = Capture::start(&self.lab.world, &["wa", "wb"], 25).unwrap();
        for asker in [Asker::on_host(&self.lab, OTHER).unwrap(), Asker::in_container(&self.lab, 1)] {
            for to in [receiver4(2), receiver6(2)] {
                asker.seen_by(&self.world, to).unwrap();
            }
        }
        let report = capture.stop().unwrap();
        let shapes =
            |(key, seen): (_, mailsteer_tests::capture::Seen)| (key, seen.syn_shapes.into_iter().collect());
        report.by_source.into_iter().map(shapes).collect()
    }
}

/// 20 destinations of every kind.
fn destinations() -> Vec<IpAddr> {
    let [a, b] = uplinks();
    let mut all: Vec<IpAddr> = vec![
        receiver4(1),
        receiver6(1),
        receiver4(254),
        receiver6(0xfffe),
        a.own4.into(),
        a.own6.into(),
        b.own4.into(),
        b.own6.into(),
        a.gateway4.into(),
        a.gateway6.into(),
        b.gateway4.into(),
        b.gateway6.into(),
        container4(0),
        container6(0),
        RELAY.into(),
        RELAY6.into(),
    ];
    all.extend(["127.0.0.1", "::1", "8.8.8.8", "2620:fe::fe"].map(|to| to.parse::<IpAddr>().unwrap()));
    assert_eq!(all.len(), 20);
    all
}

fn same(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>, when: &str) {
    for (what, source) in before {
        assert_eq!(now.get(what), Some(source), "{when}: {what}");
    }
    assert_eq!(before.len(), now.len());
}

#[test]
fn nothing_else_is_touched_and_teardown_leaves_nothing() {
    let place = Place::new();
    let lab = &place.lab;
    let before = (place.seen(), place.syns(), HostState::of(lab).unwrap());
    let [a, _] = uplinks();
    assert_eq!(before.0[&format!("another user to {}", receiver4(1))], a.own4.to_string());
    assert_eq!(before.0[&format!("container to {}", receiver6(1))], a.own6.to_string());

    let agent = Agent::start(lab, CONFIG).unwrap();
    // Else nothing would be shown: it does steer, both families, by user and by tag.
    let steered = Asker::on_host(lab, STEERED).unwrap();
    for asker in [steered.clone(), steered.bound_to("198.18.0.2".parse().unwrap())] {
        let sources = asker.sources(&place.world, 8, receiver4(1)).unwrap();
        assert_eq!(sources.len(), 8, "{sources:?}");
    }
    let sources = Asker::on_host(lab, STEERED).unwrap().sources(&place.world, 4, receiver6(1)).unwrap();
    assert_eq!(sources.len(), 4, "{sources:?}");
    let during = HostState::of(lab).unwrap();
    for kind in ["rule", "rule6", "route", "route6", "address", "nft", "pin"] {
        assert!(during.of_kind(kind).len() > before.2.of_kind(kind).len() || kind == "address", "{kind}");
    }
    same(&before.0, &place.seen(), "enforce");
    assert_eq!(before.1, place.syns(), "the SYNs of others, byte for byte");

    let answer = agent.cli(&["teardown", "--yes"]).unwrap();
    assert!(answer.status.success(), "{answer:?}");
    drop(agent);
    let after = HostState::of(lab).unwrap();
    assert_eq!(before.2.differences(&after), Vec::<String>::new());
    same(&before.0, &place.seen(), "after teardown");
    assert_eq!(before.1, place.syns());
    let Place { lab, world, host, container } = place;
    drop((world, host, container));
    lab.close().unwrap();
}

#[test]
fn observing_changes_no_address_of_anybody() {
    let place = Place::new();
    let everybody = |place: &Place| {
        let steered = Asker::on_host(&place.lab, STEERED).unwrap();
        let mut seen = place.seen();
        for to in [receiver4(1), receiver6(1)] {
            let source = steered.seen_by(&place.world, to).unwrap();
            seen.insert(format!("observed user to {to}"), source.to_string());
        }
        seen
    };
    let before = everybody(&place);
    let syns = place.syns();
    let agent = Agent::start(&place.lab, &CONFIG.replace("enforce", "observe")).unwrap();
    same(&before, &everybody(&place), "observe");
    assert_eq!(syns, place.syns());
    drop(agent);
    let Place { lab, world, host, container } = place;
    drop((world, host, container));
    lab.close().unwrap();
}
