//! `mailsteer report`: what each address did today, counted where it happened, and still known after a restart.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::io::Write as _;
use std::process::Stdio;

use mailsteer_tests::scene::SHOWN;
use mailsteer_tests::{Options, Scene, agent, poll};
use serde_json::Value;

const REPLIES: [(&str, &str); 4] = [
    ("accepted", "250 2.0.0 ok"),
    ("deferred", "451 4.3.0 try again later"),
    ("blocked", "550 5.7.1 Service unavailable; client [192.0.2.11] blocked using zen.spamhaus.org"),
    ("bounced", "550 5.1.1 <a@example.com>: Recipient address rejected: User unknown"),
];

fn of(scene: &Scene, name: &str) -> Value {
    let found = scene.agent.json(&["report"]).unwrap();
    found["rows"].as_array().unwrap().iter().find(|row| row["source"] == name).unwrap().clone()
}

/// Reports of one source; complaints too.
fn report(scene: &Scene) {
    let mut lines = String::new();
    for (_, reply) in REPLIES {
        let one = serde_json::json!({
            "destination": "203.0.113.1", "source": "main-1", "stream": "mail", "reply": reply,
        });
        lines += &format!("{one}\n{one}\n");
    }
    lines += "{\"destination\": \"203.0.113.1\", \"source\": \"main-1\", \"stream\": \"mail\", \"complaint\": true}\n";
    let mut command = scene.lab.mail.command(agent::binary().unwrap());
    scene.lab.mail.as_its_root(&mut command);
    command.args(["report-outcome", "--batch", "--json", "--socket"]).arg(scene.agent.socket());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let taken: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(taken["joined"], 9, "{taken}");
}

#[test]
fn a_day_is_counted_by_address_and_outlives_a_restart() {
    let mut scene = Scene::new(Options::default(), "").unwrap();
    let made = scene.load(200, 400).unwrap().run(&scene.lab.mail).unwrap();
    assert_eq!(made.ok, 400, "{made:?}");
    report(&scene);
    assert!(scene.agent.cli(&["suspend", "main-1", "--reason", "test"]).unwrap().status.success());
    let row = poll::until(SHOWN, "the day's counts", || {
        let row = of(&scene, "main-1");
        Ok((row["attempts"] == 50 && row["flips"].as_u64() >= Some(1)).then_some(row))
    })
    .unwrap();
    assert_eq!((&row["established"], &row["public"]), (&50.into(), &"192.0.2.11".into()), "{row}");
    for (what, _) in REPLIES {
        assert_eq!(row[what], 2, "{what}: {row}");
    }
    assert_eq!((&row["complaints"], &row["listed"]), (&1.into(), &0.into()), "{row}");
    let all = scene.agent.json(&["report", "--days", "1"]).unwrap();
    let sum: u64 = all["rows"].as_array().unwrap().iter().map(|row| row["attempts"].as_u64().unwrap()).sum();
    assert_eq!((sum, &all["from"], &all["kept_since"]), (400, &all["to"], &all["to"]), "{all}");

    let stopped = scene.agent.terminate().unwrap();
    assert!(stopped.success(), "{stopped}");
    scene.agent.restart().unwrap();
    assert_eq!(of(&scene, "main-1"), row, "a restart forgets nothing");
    let text = String::from_utf8(scene.agent.cli(&["report", "--days", "92"]).unwrap().stdout).unwrap();
    assert!(text.contains("Nothing is known of before"), "{text}");
    let refused = scene.agent.cli(&["report", "--days", "93"]).unwrap();
    assert!(!refused.status.success() && refused.stdout.is_empty());
    scene.close().unwrap();
}
