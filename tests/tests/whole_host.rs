//! What takes away a whole uplink, or the host from the world: carried by the other uplink; held, refused and recovered;
//! and a link that flaps is let back later each time.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{SHOWN, Scene};
use mailsteer_tests::topology::{Options, receiver4, uplinks};
use mailsteer_tests::{poll, slots};

/// Longer than a pool holds (8 s), and than the retransmission that meets the refusal then.
const REFUSED: Duration = Duration::from_secs(30);

fn scene() -> Scene {
    let scene = Scene::new(Options::default(), "").unwrap();
    scene.receiver.script(Whom::All, Behaviour::BannerClose);
    scene
}

/// The far end's doing: the carrier is lost, and routes stay where they are.
fn carrier(scene: &Scene, uplink: usize, up: bool) {
    let far = uplinks()[uplink].far;
    scene.lab.world.sh(&format!("ip link set {far} {}", if up { "up" } else { "down" })).unwrap();
}

fn run(scene: &Scene, count: u64) -> (Report, BTreeMap<IpAddr, u64>) {
    scene.receiver.forget();
    let to = (1..=10).map(receiver4).collect();
    let report = Load { to, ..scene.load(200, count).unwrap() }.run(&scene.lab.mail).unwrap();
    (report, scene.receiver.by_peer())
}

fn sources(n: usize) -> [IpAddr; 2] {
    let uplink = &uplinks()[n];
    [uplink.source4(0), uplink.source4(1)]
}

fn serve(scene: &Scene, wanted: &[IpAddr]) {
    let rows = || scene.agent.json(&["sources"]).unwrap().as_array().unwrap().clone();
    poll::until_true(SHOWN, "the sources that can serve", || {
        let healthy: Vec<IpAddr> = rows()
            .iter()
            .filter(|row| row["state"] == "healthy" && row["pools"][0] == "main")
            .map(|row| row["local"].as_str().unwrap().parse::<IpAddr>().unwrap())
            .filter(IpAddr::is_ipv4)
            .collect();
        healthy.len() == wanted.len() && wanted.iter().all(|one| healthy.contains(one))
    })
    .unwrap();
}

#[test]
fn an_uplink_takes_its_sources_over_to_the_other_and_back_and_both_are_held_then_refused() {
    let scene = scene();
    let all = [sources(0), sources(1)].concat();
    serve(&scene, &all);
    carrier(&scene, 1, false);
    serve(&scene, &sources(0));
    let (report, peers) = run(&scene, 80);
    assert_eq!(
        (report.ok, peers.keys().copied().collect::<Vec<_>>()),
        (80, sources(0).to_vec()),
        "{report:?}"
    );

    carrier(&scene, 0, false);
    serve(&scene, &[]);
    // Held: no word, for a link may come up again.
    let held = || scene.metric("mailsteer_held_total", &["reason=\"pending\""]).unwrap();
    let (before, began) = (held(), Instant::now());
    let waiting = Load { timeout_ms: 60_000, to: vec![receiver4(1)], ..scene.load(100, 10).unwrap() };
    let waiting = waiting.start(&scene.lab.mail).unwrap();
    poll::until_true(SHOWN, "held", || held() >= before + 10.0).unwrap();
    // Refused: the MTA defers.
    let refused =
        || scene.metric("mailsteer_refused_total", &["stream=\"mail\"", "reason=\"exhausted\""]).unwrap();
    poll::until_true(REFUSED, "refused", || refused() >= 10.0).unwrap();
    let report = waiting.finish().unwrap();
    assert_eq!((report.ok, report.failed.values().sum::<u64>()), (0, 10), "{report:?}");
    assert!(began.elapsed() > Duration::from_secs(6), "it was held for a while");
    let (report, _) = run(&scene, 20);
    assert_eq!((report.ok, report.failed.len()), (0, 1), "at once now: {report:?}");

    carrier(&scene, 0, true);
    carrier(&scene, 1, true);
    poll::until_true(SHOWN, "by itself", || {
        let (report, peers) = run(&scene, 40);
        report.ok == 40 && peers.len() == 4
    })
    .unwrap();
    assert_eq!(scene.metric("mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
    scene.close().unwrap();
}

/// Every two seconds, as often as shows that the way back gets longer: 0, 5, 10 s. Two minutes of it are simulated in the core.
#[test]
fn a_link_that_flaps_points_no_connection_at_a_dead_address_and_comes_back_later_each_time() {
    let scene = scene();
    serve(&scene, &[sources(0), sources(1)].concat());
    let running = Load { count: 0, to: (1..=10).map(receiver4).collect(), ..scene.load(50, 1).unwrap() };
    let running = running.start(&scene.lab.mail).unwrap();
    let (began, mut flaps) = (Instant::now(), 0);
    while flaps < 12 {
        carrier(&scene, 1, false);
        // Once the agent has acted, no slot leads there until the link is back.
        poll::until_true(SHOWN, "nobody is pointed there", || !points_there(&scene)).unwrap();
        poll::until(SHOWN, "a second", || {
            assert!(!points_there(&scene), "pointed at a link that is down");
            Ok((began.elapsed() > Duration::from_secs(2 * flaps + 1)).then_some(()))
        })
        .unwrap();
        carrier(&scene, 1, true);
        flaps += 1;
        poll::until(SHOWN, "the second after it", || {
            Ok((began.elapsed() > Duration::from_secs(2 * flaps)).then_some(()))
        })
        .unwrap();
    }
    let events = scene.agent.json_lines(&["events", "-n", "1000"]).unwrap();
    let back =
        events.iter().filter(|row| row["kind"] == "source-eligible" && row["subject"] == "main-3").count();
    assert!(back <= 3, "12 flaps, and it came back {} times", back - 1);
    let why = scene.agent.json(&["sources"]).unwrap();
    let row = why.as_array().unwrap().iter().find(|row| row["name"] == "main-3").unwrap().clone();
    assert!(row["reason"].as_str().unwrap().contains("lost and back several times"), "{row}");
    let report = running.stop().unwrap();
    // What left in the moment before the agent knew may be lost; the rest went by the other uplink.
    let failed: u64 = report.failed.values().sum();
    assert!(failed <= 24 && report.ok > report.attempts * 9 / 10, "{report:?}");
    assert_eq!(scene.metric("mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
    scene.close().unwrap();
}

/// Whether any slot of the table leads to a source of the second uplink, as the kernel says.
fn points_there(scene: &Scene) -> bool {
    slots::lead_to(&scene.lab.mail, |address| sources(1).contains(&address)).unwrap()
}
