//! Two uplinks: each source leaves by its own, replies come back, and what happens when an uplink or an address goes.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mailsteer_tests::probe::Asker;
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll};

/// Two sources of each family at each uplink, for a user and for containers.
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
    "192.0.2.11", "192.0.2.12", "198.51.100.21", "198.51.100.22",
    "2001:db8:a::11", "2001:db8:a::12", "2001:db8:b::21", "2001:db8:b::22",
]
[stream.containers]
subnet = ["172.22.1.0/24", "fd4d:6169:6c63:6f77::/64"]
pool = "main"
[stream.mail]
uid = 1001
pool = "main"
"#;

const STEERED: u32 = 1001;
/// Twice round the pool's four sources of a family.
const ROUNDS: u64 = 8;
/// Within which the agent has to follow what happened: generous, since it is no measurement.
const FOLLOWS: Duration = Duration::from_secs(2);
/// Duplicate address detection takes up to two seconds.
const DETECTED: Duration = Duration::from_secs(10);

/// The sources of an uplink (0: a, 1: b), of the receiver's family.
fn sources_of(uplink: usize, receiver: IpAddr) -> BTreeSet<IpAddr> {
    let uplink = &uplinks()[uplink];
    (0..2).map(|n| if receiver.is_ipv4() { uplink.source4(n) } else { uplink.source6(n) }).collect()
}

fn both(receiver: IpAddr) -> BTreeSet<IpAddr> {
    sources_of(0, receiver).into_iter().chain(sources_of(1, receiver)).collect()
}

/// Whether each source that `sources` shows as serving is one of these, and all of these are.
fn serving(agent: &Agent, wanted: &BTreeSet<IpAddr>) -> bool {
    let rows = agent.json(&["sources"]).unwrap();
    let healthy = rows.as_array().unwrap().iter().filter(|row| row["state"] == "healthy");
    healthy.map(|row| row["local"].as_str().unwrap().parse::<IpAddr>().unwrap()).collect::<BTreeSet<_>>()
        == *wanted
}

fn all_of(uplinks: &[usize]) -> BTreeSet<IpAddr> {
    let of =
        |&uplink: &usize| [receiver4(1), receiver6(1)].into_iter().flat_map(move |to| sources_of(uplink, to));
    uplinks.iter().flat_map(of).collect()
}

fn each_source_leaves_by_its_own(options: Options) {
    let lab = Lab::new(options).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let agent = Agent::start(&lab, CONFIG).unwrap();
    for asker in [Asker::on_host(&lab, STEERED).unwrap(), Asker::in_container(&lab, 0)] {
        for to in [receiver4(1), receiver6(1)] {
            let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
            // A banner came back on each of them, or the probe fails.
            assert_eq!(asker.sources(&receiver, ROUNDS, to).unwrap(), both(to), "{asker:?}");
            let wire = capture.stop().unwrap();
            assert_eq!(wire.lost, 0);
            let wanted: BTreeSet<(String, IpAddr)> = [("wa", 0), ("wb", 1)]
                .into_iter()
                .flat_map(|(far, uplink)| {
                    sources_of(uplink, to).into_iter().map(move |one| (far.to_owned(), one))
                })
                .collect();
            assert_eq!(wire.by_source.keys().cloned().collect::<BTreeSet<_>>(), wanted, "{asker:?}");
        }
    }
    drop((agent, receiver));
    lab.close().unwrap();
}

#[test]
fn each_source_leaves_by_its_own_uplink_and_replies_come_back() {
    each_source_leaves_by_its_own(Options { containers: 1, ..Options::default() });
}

#[test]
fn so_it_is_with_strict_reverse_path_filtering() {
    each_source_leaves_by_its_own(Options { containers: 1, strict_rp_filter: true, ..Options::default() });
}

/// What ends an uplink, and what brings it back as the host's own network configuration would.
struct Outage {
    down: fn(&Lab),
    up: fn(&Lab),
}

fn traffic_moves_and_comes_back(outage: &Outage) {
    let lab = Lab::new(Options { containers: 1, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    // The only default routes of the main table go with uplink a: the fallback table is all that is left.
    lab.mail.sh("ip route del default dev upb; ip -6 route del default dev upb").unwrap();
    let agent = Agent::start(&lab, CONFIG).unwrap();
    let host = Asker::on_host(&lab, STEERED).unwrap();
    (outage.down)(&lab);
    poll::until_true(FOLLOWS, "only b's sources to serve", || serving(&agent, &all_of(&[1]))).unwrap();
    for to in [receiver4(1), receiver6(1)] {
        assert_eq!(host.sources(&receiver, ROUNDS, to).unwrap(), sources_of(1, to));
    }
    let status = agent.json(&["status"]).unwrap();
    assert_eq!(status["faults"], serde_json::json!([]), "an uplink that is down is no fault of the agent's");
    (outage.up)(&lab);
    poll::until_true(DETECTED, "all sources to serve again", || serving(&agent, &all_of(&[0, 1]))).unwrap();
    for asker in [host, Asker::in_container(&lab, 0)] {
        for to in [receiver4(1), receiver6(1)] {
            assert_eq!(asker.sources(&receiver, ROUNDS, to).unwrap(), both(to), "{asker:?}");
        }
    }
    drop((agent, receiver));
    lab.close().unwrap();
}

#[test]
fn an_interface_that_is_set_down_moves_traffic_and_comes_back() {
    traffic_moves_and_comes_back(&Outage {
        down: |lab| drop(lab.mail.sh("ip link set upa down").unwrap()),
        up: |lab| {
            // What the host's own configuration adds again; the kernel took it away with the link.
            lab.mail
                .sh("ip link set upa up
                     ip address add 2001:db8:a::10/64 dev upa nodad
                     ip route add default via 192.0.2.1 dev upa metric 100
                     ip route add default via 2001:db8:a::1 dev upa metric 100")
                .unwrap();
        },
    });
}

#[test]
fn a_carrier_that_is_lost_moves_traffic_and_comes_back() {
    traffic_moves_and_comes_back(&Outage {
        down: |lab| drop(lab.world.sh("ip link set wa down").unwrap()),
        up: |lab| {
            lab.world.sh("ip link set wa up; ip address add 2001:db8:a::1/64 dev wa nodad").unwrap();
        },
    });
}

/// Removes an address and says how long it took until the agent had moved its share.
fn time_to_flip(lab: &Lab, agent: &Agent, address: IpAddr) -> Duration {
    let flips = || {
        let answer = agent.cli(&["events", "-n", "100", "--json"]).unwrap();
        let text = String::from_utf8(answer.stdout).unwrap();
        text.lines().filter(|line| line.contains(r#""kind":"flipped""#)).count()
    };
    let before = flips();
    let interface = if lab.mail.sh(&format!("ip -o address show to {address}")).unwrap().contains("upa") {
        "upa"
    } else {
        "upb"
    };
    lab.mail.sh(&format!("ip address del {address} dev {interface}")).unwrap();
    let removed = Instant::now();
    poll::until_true(FOLLOWS, "a flip", || flips() > before).unwrap();
    removed.elapsed()
}

#[test]
fn an_adopted_address_that_is_removed_moves_traffic() {
    let lab = Lab::new(Options { plumbed: 2, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let agent = Agent::start(&lab, &format!("{CONFIG}\n[host]\naddresses = \"adopt\"\n")).unwrap();
    let host = Asker::on_host(&lab, STEERED).unwrap();
    for to in [receiver4(1), receiver6(1)] {
        assert_eq!(host.sources(&receiver, ROUNDS, to).unwrap(), both(to));
        let gone = *sources_of(0, to).first().unwrap();
        let took = time_to_flip(&lab, &agent, gone);
        println!("{gone}: {took:?} from its removal until a flip was seen");
        let left: BTreeSet<IpAddr> = both(to).into_iter().filter(|one| *one != gone).collect();
        assert_eq!(host.sources(&receiver, 12, to).unwrap(), left);
        assert!(
            !lab.mail.sh("ip -o address show").unwrap().contains(&format!(" {gone}/")),
            "adopted: never added"
        );
    }
    drop((agent, receiver, host));
    lab.close().unwrap();
}

#[test]
fn a_plumbed_address_that_is_removed_is_put_back_and_announced() {
    let lab = Lab::new(Options::default()).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let agent = Agent::start(&lab, CONFIG).unwrap();
    let host = Asker::on_host(&lab, STEERED).unwrap();
    let hardware: serde_json::Value =
        serde_json::from_str(&lab.mail.sh("ip -j link show upa").unwrap()).unwrap();
    let hardware = hardware[0]["address"].as_str().unwrap();
    for to in [receiver4(1), receiver6(1)] {
        let gone = *sources_of(0, to).first().unwrap();
        // The router believes another host to have it: only an announcement corrects that.
        let neighbour = format!("ip neigh replace {gone} lladdr 02:00:00:00:00:01 dev wa nud stale");
        lab.world.sh(&neighbour).unwrap();
        lab.mail.sh(&format!("ip address del {gone} dev upa")).unwrap();
        poll::until_true(DETECTED, "the address to serve again", || serving(&agent, &all_of(&[0, 1])))
            .unwrap();
        poll::until_true(DETECTED, "the router to learn its place", || {
            lab.world.sh(&format!("ip neigh show {gone} dev wa")).unwrap().contains(hardware)
        })
        .unwrap();
        assert_eq!(host.sources(&receiver, ROUNDS, to).unwrap(), both(to));
    }
    drop((agent, receiver, host));
    lab.close().unwrap();
}
