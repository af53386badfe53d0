//! What is believed outlives the agent, and the way back begins with probes.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::load::Load;
use mailsteer_tests::poll;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{SHOWN, Scene};
use mailsteer_tests::topology::{Options, receiver4};
use rusqlite::Connection;

const VICTIM: &str = "192.0.2.11";

fn victim() -> IpAddr {
    VICTIM.parse().unwrap()
}

fn to() -> Vec<IpAddr> {
    (1..=24).map(receiver4).collect()
}

fn state(scene: &Scene) -> String {
    let rows = scene.agent.json(&["sources"]).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["local"] == VICTIM).unwrap().clone();
    row["state"].as_str().unwrap().to_owned()
}

/// Lets the isolation end in a few seconds, as if half an hour had passed.
fn hurry(scene: &Scene) {
    let database = Connection::open(scene.agent.state().join("mailsteer.db")).unwrap();
    let text: String = database.query_row("SELECT beliefs FROM beliefs", [], |row| row.get(0)).unwrap();
    let mut beliefs: serde_json::Value = serde_json::from_str(&text).unwrap();
    let verdict =
        beliefs["verdicts"].as_array_mut().unwrap().iter_mut().find(|one| one[0] == VICTIM).unwrap();
    verdict[2]["state"]["until"] = (jiff::Timestamp::now() + Duration::from_secs(8)).to_string().into();
    database.execute("UPDATE beliefs SET beliefs = ?1", [beliefs.to_string()]).unwrap();
}

#[test]
fn an_isolation_outlives_the_agent_and_ends_with_a_probe_before_any_mail() {
    let mut scene = Scene::new(Options::default(), "").unwrap();
    scene.receiver.script(Whom::All, Behaviour::BannerClose);
    let load = |count| Load { to: to(), ..scene.load(200, count).unwrap() };
    let some = load(96);
    some.run(&scene.lab.mail).unwrap();
    scene.receiver.script(Whom::Peer(victim()), Behaviour::Refuse("554 5.7.1 listed".into()));
    poll::until_true(SHOWN * 2, "isolated", || {
        some.run(&scene.lab.mail).unwrap();
        state(&scene) == "isolated"
    })
    .unwrap();
    let events = scene.agent.json_lines(&["events", "-n", "1000"]).unwrap();
    let verdict = events
        .iter()
        .find(|row| row["kind"] == "verdict" && row["evidence"]["to"].to_string().contains("isolated"));
    let replay = scene.agent.json(&["replay", &verdict.unwrap()["number"].to_string()]).unwrap();
    assert_eq!(
        (&replay["finding"]["finding"], &replay["same"]),
        (&"guilty".into(), &true.into()),
        "{replay}"
    );
    // The state database has it a moment later.
    let kept = || {
        let database = Connection::open(scene.agent.state().join("mailsteer.db")).unwrap();
        let text: Result<String, _> = database.query_row("SELECT beliefs FROM beliefs", [], |row| row.get(0));
        text.is_ok_and(|text| text.contains(VICTIM))
    };
    poll::until_true(SHOWN, "kept", kept).unwrap();

    scene.agent.kill().unwrap();
    hurry(&scene);
    scene.receiver.script(Whom::Peer(victim()), Behaviour::BannerClose);
    scene.agent.relaunch().unwrap();
    assert_eq!(state(&scene), "isolated", "whoever starts the agent anew has not mended the address");
    scene.receiver.forget();
    let running = Load { to: to(), count: 0, ..scene.load(50, 1).unwrap() }.start(&scene.lab.mail).unwrap();
    // Until the first good probe, and a second comes a minute later, nothing else comes from it.
    let from_victim = || scene.receiver.connections().iter().filter(|one| one.peer.ip() == victim()).count();
    poll::until_true(Duration::from_secs(30), "a probe", || from_victim() > 0).unwrap();
    assert_eq!(state(&scene), "probation");
    let report = running.stop().unwrap();
    assert_eq!((from_victim(), report.failed.len()), (1, 0), "{report:?}: {}", scene.events().unwrap());
    scene.close().unwrap();
}
