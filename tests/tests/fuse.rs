//! What became of messages, reported to the agent: joined to the connection that carried them, and the fuse that blows.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use mailsteer_tests::scene::{METRICS, SHOWN, offences};
use mailsteer_tests::{Options, Scene, agent, poll};
use serde_json::Value;

/// IPv4 sources of the pool `main`, by name.
const FIRST: &str = "192.0.2.11";
const GOOD: &str = "250 2.0.0 ok";
const UNKNOWN_USER: &str = "550 5.1.1 <a@example.com>: Recipient address rejected: User unknown";

/// Reports as JSON lines; what the command says of them.
fn report(scene: &Scene, lines: &str) -> Value {
    let mut command = scene.lab.mail.command(agent::binary().unwrap());
    scene.lab.mail.as_its_root(&mut command);
    command.args(["report-outcome", "--batch", "--json", "--socket"]).arg(scene.agent.socket());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Established connections of the stream `mail` from IPv4 sources, newest last.
fn rows(scene: &Scene, count: usize) -> Vec<Value> {
    poll::until(SHOWN, "the connections' rows", || {
        let rows: Vec<Value> = scene
            .rows(1_000)?
            .into_iter()
            .filter(|row| row["outcome"] == "established" && row["stream"] == "mail")
            .filter(|row| row["wanted_address"].as_str().is_some_and(|address| !address.contains(':')))
            .collect();
        Ok((rows.len() >= count).then_some(rows))
    })
    .unwrap()
}

/// How the stream's IPv4 slots are shared out, as the agent explains a connection, in per cent.
fn shares(scene: &Scene) -> BTreeMap<String, f64> {
    let told = scene.agent.json(&["explain", "--uid", "1001", "203.0.113.1"]).unwrap();
    let told = if told.is_array() { told[0].clone() } else { told };
    let sources = told["sources"].as_array().unwrap().clone();
    let share =
        |row: &Value| (row["address"].as_str().unwrap().to_owned(), row["share"].as_f64().unwrap() * 100.0);
    sources.iter().map(share).collect()
}

#[test]
fn bounces_are_joined_to_their_source_and_its_share_is_refused_and_not_moved() {
    let scene = Scene::new(Options::default(), "").unwrap();
    let made = scene.load(300, 600).unwrap().run(&scene.lab.mail).unwrap();
    assert_eq!(made.ok, 600, "{made:?}");
    let before = shares(&scene);

    // Each connection carried a message; of those from the first source five in a hundred come back.
    let (mut lines, mut of_first, mut bounced) = (String::new(), 0, 0);
    let rows = rows(&scene, 300);
    for row in rows.iter().cycle().take(rows.len() * 4) {
        let first = row["wanted_address"] == FIRST;
        let bad = first && {
            of_first += 1;
            of_first % 20 == 0
        };
        bounced += u32::from(bad);
        let reply = if bad { UNKNOWN_USER } else { GOOD };
        let one = serde_json::json!({
            "destination": row["destination"], "local_port": row["local_port"], "reply": reply,
        });
        writeln!(lines, "{one}").unwrap();
    }
    assert!(of_first >= 200 && bounced >= 10, "{of_first} {bounced}");
    // What belongs to no steered connection says nothing, and what is no reply is refused with a reason.
    lines += "{\"destination\": \"203.0.113.250\", \"reply\": \"550 5.1.1 unknown\"}\n";
    lines += "{\"destination\": \"203.0.113.1\", \"source\": \"main-1\", \"stream\": \"mail\", \"reply\": \"refused\"}\n";
    let taken = report(&scene, &lines);
    assert_eq!(taken["joined"].as_u64().unwrap(), rows.len() as u64 * 4, "{taken}");
    assert_eq!((taken["ambiguous"].as_u64(), taken["unknown"].as_u64()), (Some(0), Some(1)), "{taken}");
    assert!(taken["refused"][0].as_str().unwrap().contains("is no reply"), "{taken}");

    poll::until(SHOWN, "the fuse to blow", || {
        Ok(scene.events()?.contains("the fuse of mail at main-1 (192.0.2.11) is blown").then_some(()))
    })
    .unwrap();
    let after = poll::until(SHOWN, "its share to be nobody's", || {
        let after = shares(&scene);
        Ok((after[FIRST] == 0.0).then_some(after))
    })
    .unwrap();
    for (source, share) in before.iter().filter(|(source, _)| *source != FIRST) {
        assert!((after[source] - share).abs() < 0.01, "{source} took some of it: {before:?} {after:?}");
    }
    assert_eq!(scene.metric("mailsteer_fuse_blown", &["stream=\"mail\""]).unwrap(), 1.0);
    let bounces = scene.metric("mailsteer_replies_total", &["class=\"not-the-address\""]).unwrap();
    assert_eq!(bounces, f64::from(bounced));
    assert_eq!(
        scene.agent.metric(METRICS, "mailsteer_replies_unjoined_total", &["why=\"unknown\""]).unwrap(),
        1.0
    );

    // On the wire: nothing leaves from it, its share is refused as `fuse`, and the siblings carry no more than before.
    let capture = scene.capture().unwrap();
    let made = scene.load(300, 600).unwrap().run(&scene.lab.mail).unwrap();
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), [""; 0]);
    assert!(wire.by_source.keys().all(|(_, source)| source.to_string() != FIRST));
    let refused = scene.metric("mailsteer_refused_total", &["stream=\"mail\"", "reason=\"fuse\""]).unwrap();
    assert_eq!(refused, 75.0, "a quarter of 300 IPv4 connections: {made:?}");
    assert_eq!(made.ok, 525, "{made:?}");

    let resumed = scene.agent.cli(&["resume", "main-1", "--reason", "list cleaned"]).unwrap();
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(shares(&scene), before);
    scene.close().unwrap();
}

#[test]
fn what_came_back_before_a_restart_counts_after_it() {
    let mut scene = Scene::new(Options::default(), "").unwrap();
    let reports = |good: usize, bad: usize| {
        let one = |reply: &str| {
            let report = serde_json::json!({
                "destination": "203.0.113.1", "source": "main-1", "stream": "mail", "reply": reply,
            });
            format!("{report}\n")
        };
        one(GOOD).repeat(good) + &one(UNKNOWN_USER).repeat(bad)
    };
    let blown = |scene: &Scene| scene.metric("mailsteer_fuse_blown", &["stream=\"mail\""]).unwrap();
    assert_eq!(report(&scene, &reports(141, 9))["joined"], 150);
    scene.agent.terminate().unwrap();
    scene.agent.restart().unwrap();
    assert_eq!(report(&scene, &reports(49, 0))["joined"], 49);
    // Nine of 199 are too few attempts; the next one is the tenth of 200.
    assert_eq!(blown(&scene), 0.0, "{}", scene.events().unwrap());
    assert_eq!(report(&scene, &reports(0, 1))["joined"], 1);
    poll::until_true(SHOWN, "the fuse to blow", || blown(&scene) == 1.0).unwrap();
    let events = scene.events().unwrap();
    assert!(events.contains("10 bounces of 200 attempts"), "{events}");
    scene.close().unwrap();
}
