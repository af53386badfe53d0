//! What becomes of live connections when their source loses its slots, by the agent itself, in each of the three ways.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::load::{Load, Running};
use mailsteer_tests::poll;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{CONFIG, SHOWN, Scene};
use mailsteer_tests::topology::{Options, receiver4, receiver6};

/// Long enough for everything that these tests wait for.
const HELD: Duration = Duration::from_secs(60);
/// So much later than the connection stands that the kernel's clock tells who spoke last.
const TICKS: Duration = Duration::from_millis(50);
/// Of each kind: two from each of the four sources of each family.
const EACH: u64 = 16;

fn config(on_flip: &str) -> String {
    CONFIG.replacen("uid = 1001\n", &format!("uid = 1001\non_flip = \"{on_flip}\"\n"), 1)
}

/// Connections that are held, the receiver's word being the last one, or awaited.
fn held(scene: &Scene, n: u8) -> Running {
    let ms = u64::try_from(HELD.as_millis()).unwrap();
    let to = vec![receiver4(n), receiver6(n.into())];
    Load { to, hold_ms: ms, timeout_ms: 2 * ms, ..scene.load(400, EACH).unwrap() }
        .start(&scene.lab.mail)
        .unwrap()
}

/// Open connections to one receiver, by the address that they come from.
fn open(scene: &Scene, n: u8) -> BTreeMap<IpAddr, usize> {
    let to = [receiver4(n), receiver6(n.into())];
    let mut open = BTreeMap::new();
    for connection in scene.receiver.connections() {
        if connection.open && to.contains(&connection.to) {
            *open.entry(connection.peer.ip()).or_default() += 1;
        }
    }
    open
}

fn suspend(scene: &Scene, source: &str) {
    assert!(scene.agent.cli(&["suspend", source, "--reason", "test"]).unwrap().status.success());
}

fn ended(scene: &Scene) -> f64 {
    scene.metric("mailsteer_live_ended_total", &[]).unwrap()
}

#[test]
fn live_connections_finish_or_are_closed_when_idle_or_are_cut() {
    let scene = Scene::new(Options::default(), "").unwrap();
    for (n, behaviour) in [(1, Behaviour::Slow(TICKS)), (2, Behaviour::Silent)] {
        scene.receiver.script(Whom::To(receiver4(n)), behaviour.clone());
        scene.receiver.script(Whom::To(receiver6(n.into())), behaviour);
    }
    // One after the other: each draws every source twice.
    let stand = |count: u64| {
        poll::until_true(SHOWN, "all stand", || scene.receiver.count() as u64 == count).unwrap();
    };
    let idle = held(&scene, 1);
    stand(EACH);
    let busy = held(&scene, 2);
    stand(2 * EACH);
    let all = open(&scene, 1);
    assert_eq!((all.len(), all.values().sum::<usize>()), (8, 16), "{all:?}");
    assert_eq!(open(&scene, 2), all);
    let without = |gone: &[&str]| -> BTreeMap<IpAddr, usize> {
        let gone: Vec<IpAddr> = gone.iter().map(|address| address.parse().unwrap()).collect();
        all.iter().filter(|(address, _)| !gone.contains(address)).map(|(&a, &n)| (a, n)).collect()
    };

    suspend(&scene, "main-1");
    suspend(&scene, "main-5");
    assert_eq!(scene.metric("mailsteer_connections_total", &["outcome=\"reset\""]).unwrap(), 0.0);
    assert_eq!((ended(&scene), open(&scene, 1)), (0.0, all.clone()), "by default they finish");

    // Said later, it goes for those too that lost their source before.
    scene.agent.reload(&config("close-idle")).unwrap();
    let gone = ["192.0.2.11", "2001:db8:a::11"];
    poll::until_true(SHOWN, "the idle ones are closed", || open(&scene, 1) == without(&gone)).unwrap();
    assert_eq!(open(&scene, 2), all, "the receiver owes an answer there");
    assert_eq!(ended(&scene), 4.0);

    scene.agent.reload(&config("cut")).unwrap();
    poll::until_true(SHOWN, "the busy ones are cut", || open(&scene, 2) == without(&gone)).unwrap();
    suspend(&scene, "main-3");
    let more = ["192.0.2.11", "2001:db8:a::11", "198.51.100.21"];
    poll::until_true(SHOWN, "at once", || {
        open(&scene, 1) == without(&more) && open(&scene, 2) == without(&more)
    })
    .unwrap();
    assert_eq!(ended(&scene), 12.0);
    assert!(scene.events().unwrap().contains("4 live ones were ended"), "{}", scene.events().unwrap());
    assert_eq!(scene.metric("mailsteer_wrong_source_total", &[]).unwrap(), 0.0);
    drop((idle, busy));
    scene.close().unwrap();
}
