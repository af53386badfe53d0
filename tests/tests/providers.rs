//! What fails at one provider is taken away there and nowhere else: half of a pool is refused by one provider.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::poll;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{SHOWN, Scene};
use mailsteer_tests::topology::{Options, receiver4, receiver6};

const BIG: &str = "
[safety]
flips_per_day = 100
[provider.big]
networks = [\"203.0.113.0/26\", \"2001:db8:ffff::/122\"]
";
/// Half of the pool's sources of each family: one on each uplink, so that no network falls as a whole.
const REFUSED: [&str; 4] = ["192.0.2.11", "198.51.100.21", "2001:db8:a::11", "2001:db8:b::21"];

/// Receivers of `big`, or as many of others'.
fn receivers(big: bool) -> Vec<IpAddr> {
    let first = if big { 1 } else { 101 };
    (first..first + 24).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect()
}

fn run(scene: &Scene, big: bool, count: u64) -> (Report, BTreeMap<IpAddr, u64>) {
    scene.receiver.forget();
    let load = Load { to: receivers(big), ..scene.load(400, count).unwrap() };
    let report = load.run(&scene.lab.mail).unwrap();
    (report, scene.receiver.by_peer())
}

fn refuse(scene: &Scene) {
    scene
        .lab
        .world
        .nft(
            "table inet fault { chain in { type filter hook input priority 0
                ip saddr { 192.0.2.11, 198.51.100.21 } ip daddr 203.0.113.0/26 tcp dport 25 reject with tcp reset
                ip6 saddr { 2001:db8:a::11, 2001:db8:b::21 } ip6 daddr 2001:db8:ffff::/122 tcp dport 25 reject with tcp reset
             }
             }",
        )
        .unwrap();
}

/// Slots that the source holds at a receiver, as the agent explains them, in per cent.
fn share(scene: &Scene, source: &str, receiver: IpAddr) -> f64 {
    let told = scene.agent.json(&["explain", "--uid", "1001", &receiver.to_string()]).unwrap();
    let told = if told.is_array() { told[0].clone() } else { told };
    let sources = told["sources"].as_array().unwrap().clone();
    let row = sources.iter().find(|row| row["address"] == source).unwrap();
    row["share"].as_f64().unwrap() * 100.0
}

#[test]
fn half_of_a_pool_refused_by_one_provider_is_moved_within_surge_and_stays_elsewhere() {
    let scene = Scene::new(Options::default(), BIG).unwrap();
    scene.receiver.script(Whom::All, Behaviour::BannerClose);
    for big in [true, false] {
        let (report, peers) = run(&scene, big, 240);
        assert_eq!((report.ok, peers.len()), (240, 8), "{report:?} {peers:?}");
    }
    refuse(&scene);
    let serves_big = |address: &str| {
        let receiver = if address.contains(':') { receiver6(1) } else { receiver4(1) };
        share(&scene, address, receiver) > 0.0
    };
    poll::until_true(SHOWN * 2, "all four are isolated there", || {
        run(&scene, true, 80);
        !REFUSED.iter().any(|address| serves_big(address))
    })
    .unwrap();

    let before = scene.metric("mailsteer_refused_total", &["reason=\"surge\""]).unwrap();
    let (report, peers) = run(&scene, true, 480);
    // Of four equal shares two take half of their own besides: 22 of 15 + 15 / 2 of 60 slots each, and 16 are refused.
    let refused = 480 * 16 / 60;
    assert_eq!(
        peers.keys().filter(|peer| REFUSED.contains(&peer.to_string().as_str())).count(),
        0,
        "{peers:?}"
    );
    assert_eq!((report.ok, peers.len()), (480 - refused, 4), "{report:?} {peers:?}");
    let told = scene.metric("mailsteer_refused_total", &["reason=\"surge\""]).unwrap() - before;
    assert_eq!(told, refused as f64, "the rest is refused there, and counted");

    let (report, peers) = run(&scene, false, 480);
    let shares: BTreeSet<u64> = peers.values().copied().collect();
    assert_eq!(
        (report.ok, peers.len(), shares),
        (480, 8, [60].into()),
        "elsewhere nothing changed: {peers:?}"
    );
    let events = scene.events().unwrap();
    assert!(!events.contains("flip-withheld") && !events.contains("network-isolated"), "{events}");
    assert!(events.contains("at big: main-1 25.0 % -> 0.0 %"), "{events}");
    assert_eq!(scene.metric("mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
    scene.lab.world.sh("nft delete table inet fault").unwrap();
    scene.close().unwrap();
}
