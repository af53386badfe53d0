//! The preflight: a hoster's block of port 25 is told from dead receivers, by `doctor` and by the agent, and a new source
//! carries mail only once its port 25 was seen to be open.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::agent::{Agent, binary};
use mailsteer_tests::lab::Lab;
use mailsteer_tests::load::Load;
use mailsteer_tests::poll;
use mailsteer_tests::receiver::Receiver;
use mailsteer_tests::topology::{Options, receiver4, uplinks};

/// Two rounds that nobody answers (10 s each), the 30 s between, and some.
const TWO_ROUNDS: Duration = Duration::from_secs(90);
const STEERED: u32 = 1001;
/// The hoster's rules: what comes from the second source to port 25 is dropped.
const BLOCK: &str = "table inet hoster {
    chain way { type filter hook prerouting priority raw
        ip saddr 192.0.2.12 tcp dport 25 drop
    }
}";

/// Sources 0 to n, adopted: `doctor` can only try what is there.
fn config(n: u8, receivers: [u8; 2]) -> String {
    let source = |n| format!("\"{}\"", uplinks()[0].source4(n));
    let sources: Vec<String> = (0..n).map(source).collect();
    let [one, two] = receivers.map(receiver4);
    format!(
        "mode = \"enforce\"\n[host]\naddresses = \"adopt\"\n[preflight]\nreceivers = [\"{one}\", \"{two}\"]\n\
         [pool.main]\naddresses = [{}]\n[stream.mail]\nuid = {STEERED}\npool = \"main\"\n",
        sources.join(", ")
    )
}

fn lab() -> Lab {
    let lab = Lab::new(Options { uplinks: 1, plumbed: 3, ..Options::default() }).unwrap();
    lab.world.nft(BLOCK).unwrap();
    lab
}

/// What `doctor` says of port 25: level and words.
fn doctor(lab: &Lab, config: &str) -> Vec<(String, String)> {
    let file = lab.dir().join("doctor.toml");
    std::fs::write(&file, config).unwrap();
    let output = lab
        .mail
        .command(binary().unwrap())
        .args(["--json", "doctor", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap().iter();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let of_port25 = findings.filter(|finding| finding["check"] == "port25");
    of_port25.map(|finding| (text(finding, "level"), text(finding, "what"))).collect()
}

#[test]
fn the_doctor_tells_a_hosters_block_from_receivers_that_are_dead() {
    let lab = lab();
    let smtp = Receiver::start(&lab.world, 25).unwrap();
    let submission = Receiver::start(&lab.world, 587).unwrap();
    let found = doctor(&lab, &config(3, [90, 91]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].0 == "bad" && found[0].1.contains("main-2"), "{found:?}");
    assert!(found[0].1.contains("answers at port 587"), "{found:?}");
    assert!(found[1].0 == "ok" && found[1].1.contains("open from 2 sources"), "{found:?}");
    smtp.stop().unwrap();
    submission.stop().unwrap();

    // Nobody is there at all.
    lab.world.nft("table inet dead { chain in { type filter hook prerouting priority -350; ip daddr 203.0.113.0/24 drop; }; }").unwrap();
    let found = doctor(&lab, &config(1, [90, 91]));
    assert!(found.len() == 1 && found[0].0 == "note" && found[0].1.contains("answers anybody"), "{found:?}");
    lab.close().unwrap();
}

#[test]
fn a_new_source_carries_mail_once_its_port_25_is_open() {
    let lab = lab();
    let smtp = Receiver::start(&lab.world, 25).unwrap();
    let submission = Receiver::start(&lab.world, 587).unwrap();
    let agent = Agent::start(&lab, &config(1, [90, 91])).unwrap();
    send(&lab, 20);
    agent.reload(&config(3, [90, 91])).unwrap();
    let stands = |name: &str, word: &str| {
        let rows = agent.json(&["sources"]).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().to_string();
        row.contains(word)
    };
    let waited = poll::until_true(TWO_ROUNDS, "main-3 has passed", || {
        !stands("main-3", "being tried") && stands("main-2", "being tried")
    });
    waited.unwrap();
    poll::until_true(TWO_ROUNDS, "main-2 is seen to be blocked", || stands("main-2", "port 25 is blocked"))
        .unwrap();
    send(&lab, 60);
    let from = |n: u8| {
        let source: IpAddr = uplinks()[0].source4(n);
        let mail = |to: IpAddr| ![90, 91].map(receiver4).contains(&to);
        smtp.connections().iter().filter(|one| one.peer.ip() == source && mail(one.to)).count()
    };
    assert_eq!((from(0), from(1), from(2)), (20 + 30, 0, 30));
    let events = String::from_utf8(agent.cli(&["events"]).unwrap().stdout).unwrap();
    assert!(events.contains("main-2 (192.0.2.12): port 25 is blocked on the way out"), "{events}");
    // The operator knows better, and the hoster has opened it.
    lab.world.sh("nft delete table inet hoster").unwrap();
    assert!(agent.cli(&["resume", "main-2", "--reason", "opened"]).unwrap().status.success());
    send(&lab, 60);
    assert_eq!((from(0), from(1), from(2)), (20 + 30 + 20, 20, 30 + 20));
    drop(agent);
    smtp.stop().unwrap();
    submission.stop().unwrap();
    lab.close().unwrap();
}

/// Connections of the stream, to receivers that are not the preflight's; all come through.
fn send(lab: &Lab, count: u64) {
    let uid = lab.mail.uid(STEERED);
    let to = (1..=10).map(receiver4).collect();
    let cgroup = Some(lab.cgroup().unwrap().to_owned());
    let load = Load { rate: 100, count, uid, gid: uid, to, cgroup, ..Load::default() };
    let report = load.start(&lab.mail).unwrap().finish().unwrap();
    assert_eq!(report.ok, count, "{report:?}");
}
