//! More of everything than a usual day brings, under load: steering stays as it was, the agent answers, and nothing
//! is left open in it.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mailsteer_tests::poll;
use mailsteer_tests::scene::{Scene, offences};
use mailsteer_tests::topology::Options;

/// What a gRPC client says first (RFC 9113 section 3.4), with an empty SETTINGS frame; then it says nothing more.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const LONG: Duration = Duration::from_secs(30);

fn descriptors(scene: &Scene) -> usize {
    let pid = scene.agent.pid().unwrap();
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Load goes on while `storm` rages; every connection gets through, from where it should.
fn weathered(scene: &Scene, storm: impl FnOnce()) {
    let capture = scene.capture().unwrap();
    let running = scene.load(100, 500).unwrap().start(&scene.lab.mail).unwrap();
    storm();
    let report = running.finish().unwrap();
    assert_eq!(report.ok, 500, "{report:?}");
    assert_eq!(offences(&capture.stop().unwrap()), [] as [String; 0]);
    poll::until_true(LONG, "status to say that all is well", || {
        scene.status().unwrap().starts_with("every message leaves where it should")
    })
    .unwrap();
}

#[test]
fn a_thousand_clients_at_once() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let before = descriptors(&scene);
    weathered(&scene, || {
        let mut clients: Vec<UnixStream> =
            (0..1000).map(|_| UnixStream::connect(scene.agent.socket()).unwrap()).collect();
        for client in &mut clients {
            client.write_all(PREFACE).unwrap();
        }
        poll::until_true(LONG, "a thousand clients to be let in", || descriptors(&scene) >= before + 1000)
            .unwrap();
        for _ in 0..20 {
            assert_eq!(scene.agent.json(&["status"]).unwrap()["headline"]["level"], "ok");
        }
    });
    poll::until_true(LONG, "what they opened to be closed", || descriptors(&scene) <= before + 2).unwrap();
    scene.close().unwrap();
}

#[test]
fn two_thousand_changes_of_the_network_in_a_burst() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let before = descriptors(&scene);
    let mut changes = String::new();
    for n in 0..1000 {
        let address = format!("10.99.{}.{}/32", n / 250, n % 250 + 1);
        write!(changes, "address add {address} dev lo\naddress del {address} dev lo\n").unwrap();
    }
    let file = scene.lab.dir().join("changes");
    std::fs::write(&file, changes).unwrap();
    weathered(&scene, || drop(scene.lab.mail.sh(&format!("ip -batch {}", file.display())).unwrap()));
    assert!(descriptors(&scene) <= before + 2, "nothing is left open");
    scene.close().unwrap();
}
