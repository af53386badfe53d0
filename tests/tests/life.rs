//! The agent's own life: starts, reloads, ends, and what stays when it is gone.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mailsteer_tests::host_state::HostState;
use mailsteer_tests::load::Load;
use mailsteer_tests::probe::Asker;
use mailsteer_tests::topology::{receiver4, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll, strangers};

const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14"]
[stream.mail]
uid = 1001
pool = "main"
"#;

/// The same with the uplink named and nothing put on the host.
const ADOPTS: &str = r#"
mode = "enforce"
[host]
addresses = "adopt"
[uplink.a]
interface = "upa"
gateway = "192.0.2.1"
prefix = "192.0.2.0/25"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14"]
[stream.mail]
uid = 1001
pool = "main"
"#;

const STEERED: u32 = 1001;
/// Where metrics are served by default.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9925);

struct Place {
    lab: Lab,
    receiver: Receiver,
}

impl Place {
    fn new() -> Self {
        let lab = Lab::new(Options { uplinks: 1, ipv6: false, ..Options::default() }).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        Self { lab, receiver }
    }

    fn sources(&self, count: u64) -> BTreeSet<IpAddr> {
        Asker::on_host(&self.lab, STEERED).unwrap().sources(&self.receiver, count, receiver4(1)).unwrap()
    }

    /// One attempt that does not wait for what is held: `None` when it got through, or what became of it.
    fn attempt(&self) -> Option<String> {
        let load = Asker::on_host(&self.lab, STEERED).unwrap().load(100, 1, vec![receiver4(1)]);
        let report = Load { timeout_ms: 300, ..load }.run(&self.lab.mail).unwrap();
        report.failed.into_keys().next()
    }

    fn close(self) {
        drop(self.receiver);
        self.lab.close().unwrap();
    }
}

fn pool() -> BTreeSet<IpAddr> {
    (0..4).map(|n| uplinks()[0].source4(n)).collect()
}

/// Connections that the agent has counted, over all sources.
fn attempts(agent: &Agent) -> u64 {
    let rows = agent.json(&["sources"]).unwrap();
    rows.as_array().unwrap().iter().map(|row| row["counters"]["attempts"].as_u64().unwrap()).sum()
}

fn counted(agent: &Agent, wanted: u64) {
    poll::until_true(Duration::from_secs(5), "every connection to be counted, once", || {
        attempts(agent) == wanted
    })
    .unwrap();
}

/// Metrics are read from the kernel every two seconds.
fn at_least_one(agent: &Agent, metric: &str, labels: &[&str]) {
    poll::until_true(Duration::from_secs(5), metric, || {
        agent.metric(METRICS, metric, labels).unwrap() >= 1.0
    })
    .unwrap();
}

#[test]
fn without_a_config_it_observes() {
    let place = Place::new();
    let agent = Agent::launch(&place.lab, None).unwrap();
    let status = agent.json(&["status"]).unwrap();
    assert_eq!(
        (&status["headline"]["level"], &status["config"]["file"]),
        (&"ok".into(), &serde_json::Value::Null)
    );
    assert_eq!(status["locks"]["guard_armed"], false);
    let own: IpAddr = uplinks()[0].own4.into();
    assert_eq!(place.sources(5), [own].into());
    poll::until_true(Duration::from_secs(5), "5 connections to be counted", || {
        agent.json(&["status"]).unwrap()["totals"]["established"] == 5
    })
    .unwrap();
    drop(agent);
    place.close();
}

#[test]
fn what_is_not_there_yet_is_waited_for() {
    let place = Place::new();
    // The interface, its addresses and its routes come after the agent, as when a host boots.
    place.lab.mail.sh("ip link set upa down; ip link set upa name late0").unwrap();
    let agent = Agent::launch(&place.lab, Some(&ADOPTS.replace("\"adopt\"", "\"plumb\""))).unwrap();
    place.lab.mail.sh("ip link set late0 name upa; ip link set upa up").unwrap();
    place.lab.mail.sh("ip route add default via 192.0.2.1 dev upa").unwrap();
    assert_eq!(place.sources(8), pool());
    drop(agent);
    place.close();
}

#[test]
fn what_does_not_come_is_held_first_and_then_refused() {
    let place = Place::new();
    let capture = Capture::start(&place.lab.world, &["wa"], 25).unwrap();
    let agent = Agent::launch(&place.lab, Some(ADOPTS)).unwrap();
    assert_eq!(place.attempt().as_deref(), Some("timeout"), "held at first");
    at_least_one(&agent, "mailsteer_held_total", &[]);
    // The agent waits 8 s for what may be on its way.
    poll::until_true(Duration::from_secs(20), "it to be refused", || {
        place.attempt().is_some_and(|error| error != "timeout")
    })
    .unwrap();
    at_least_one(&agent, "mailsteer_refused_total", &["stream=\"mail\"", "reason=\"exhausted\""]);
    assert!(capture.stop().unwrap().by_source.is_empty(), "nothing has left");
    // And it is steered as soon as one comes.
    place.lab.mail.sh("ip address add 192.0.2.12/32 dev upa").unwrap();
    poll::until_true(Duration::from_secs(5), "it to be steered", || place.attempt().is_none()).unwrap();
    assert_eq!(place.sources(3), [uplinks()[0].source4(1)].into());
    drop(agent);
    place.close();
}

#[test]
fn a_second_agent_is_refused() {
    let place = Place::new();
    let agent = Agent::start(&place.lab, CONFIG).unwrap();
    let second = agent.second().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another agent runs"), "{said}");
    assert!(!said.contains("nobody follows"), "the other one does: {said}");
    assert_eq!(place.sources(8), pool(), "the first one goes on");
    drop(agent);
    place.close();
}

#[test]
fn a_bad_config_changes_nothing_and_says_why() {
    let place = Place::new();
    let agent = Agent::start(&place.lab, CONFIG).unwrap();
    assert!((agent.metric(METRICS, "mailsteer_config_ok", &[]).unwrap() - 1.0).abs() < f64::EPSILON);
    let error = agent.reload(&CONFIG.replace("pool = \"main\"", "pool = \"mian\"")).unwrap_err().to_string();
    assert!(error.contains("mian"), "{error}");
    let status = agent.json(&["status"]).unwrap();
    assert!(status["config"]["error"].as_str().unwrap().contains("mian"), "{status}");
    assert!(agent.metric(METRICS, "mailsteer_config_ok", &[]).unwrap() < f64::EPSILON);
    assert_eq!(place.sources(8), pool());
    agent.reload(&CONFIG.replace("-192.0.2.14", "-192.0.2.12")).unwrap();
    assert!((agent.metric(METRICS, "mailsteer_config_ok", &[]).unwrap() - 1.0).abs() < f64::EPSILON);
    assert_eq!(place.sources(4), pool().into_iter().take(2).collect());
    drop(agent);
    place.close();
}

#[test]
fn both_locks_stay_when_it_ends_and_a_restart_adopts_the_counters() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    assert_eq!(place.sources(8), pool());
    counted(&agent, 8);
    assert!(agent.terminate().unwrap().success());
    assert_eq!(place.sources(8), pool(), "steered without an agent");
    agent.restart().unwrap();
    counted(&agent, 16);
    assert_eq!(place.sources(8), pool());
    counted(&agent, 24);
    // Without an agent and without the table, the guard holds alone.
    assert!(agent.terminate().unwrap().success());
    strangers::flush(&place.lab.mail).unwrap();
    place.lab.mail.sh("nft delete table inet mailsteer 2>/dev/null || true").unwrap();
    let capture = Capture::start(&place.lab.world, &["wa"], 25).unwrap();
    assert_eq!(place.attempt().as_deref(), Some("timeout"));
    assert!(capture.stop().unwrap().by_source.is_empty(), "held");
    agent.restart().unwrap();
    assert_eq!(place.sources(8), pool());
    drop(agent);
    place.close();
}

/// Another version has other pins. Its own are moved to where another version's would be: only the number differs.
fn as_another_version(lab: &Lab) {
    let pins = lab.bpffs().join("mailsteer");
    let own = std::fs::read_dir(&pins).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(own, pins.join("v4242")).unwrap();
}

#[test]
fn an_upgrade_to_another_map_layout_takes_over_without_a_gap() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    assert_eq!(place.sources(8), pool());
    counted(&agent, 8);
    agent.kill().unwrap();
    as_another_version(&place.lab);
    assert_eq!(place.sources(8), pool(), "the other version's stands");
    // Under load, so that a moment without a guard or with two that disagree would show.
    let capture = Capture::start(&place.lab.world, &["wa"], 25).unwrap();
    let load = Asker::on_host(&place.lab, STEERED).unwrap().load(200, 400, vec![receiver4(1)]);
    let running = load.start(&place.lab.mail).unwrap();
    agent.restart().unwrap();
    let report = running.finish().unwrap();
    assert_eq!(report.ok, 400, "{report:?}");
    let wire = capture.stop().unwrap();
    assert_eq!(wire.others(&pool().into_iter().collect::<Vec<_>>()), [] as [String; 0]);
    counted(&agent, 8 + 8 + 400);
    let left: Vec<_> = std::fs::read_dir(place.lab.bpffs().join("mailsteer")).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing of the other version is left: {left:?}");
    let open = agent.json(&["sources"]).unwrap();
    assert!(open.as_array().unwrap().iter().all(|row| row["counters"]["open"] == 0), "{open}");
    drop(agent);
    place.close();
}

#[test]
fn a_start_that_fails_leaves_what_stands_and_says_the_way_back() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    agent.kill().unwrap();
    as_another_version(&place.lab);
    // An object that no kernel loads.
    let bad = place.lab.dir().join("bad.o");
    std::fs::write(&bad, b"no object").unwrap();
    agent.set_env("MAILSTEER_BPF_OBJECT", bad);
    let said = agent.second().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("go back to the version that ran before"), "{text}");
    assert_eq!(place.sources(8), pool(), "the other version's rules and guard work");
    let capture = Capture::start(&place.lab.world, &["wa"], 25).unwrap();
    strangers::flush(&place.lab.mail).unwrap();
    place.lab.mail.sh("nft delete table inet mailsteer 2>/dev/null || true").unwrap();
    assert_eq!(place.attempt().as_deref(), Some("timeout"), "its guard holds");
    assert!(capture.stop().unwrap().by_source.is_empty());
    drop(agent);
    place.close();
}

#[test]
fn a_suspension_survives_sigkill() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    assert!(agent.cli(&["suspend", "main-1", "--reason", "listed"]).unwrap().status.success());
    let others: BTreeSet<IpAddr> = pool().into_iter().skip(1).collect();
    assert_eq!(place.sources(6), others);
    agent.kill().unwrap();
    assert_eq!(place.sources(6), others, "nobody is there, and it holds");
    agent.restart().unwrap();
    let status = agent.json(&["status"]).unwrap();
    assert_eq!(
        (&status["suspended"][0]["source"], &status["suspended"][0]["reason"]),
        (&"main-1".into(), &"listed".into())
    );
    assert_eq!(place.sources(6), others);
    assert!(agent.cli(&["resume", "main-1", "--reason", "delisted"]).unwrap().status.success());
    assert_eq!(place.sources(8), pool());
    drop(agent);
    place.close();
}

#[test]
fn on_hold_nothing_moves_by_itself_not_even_over_sigkill() {
    let place = Place::new();
    for n in 0..4 {
        place.lab.mail.sh(&format!("ip address add {}/32 dev upa", uplinks()[0].source4(n))).unwrap();
    }
    let mut agent = Agent::start(&place.lab, ADOPTS).unwrap();
    assert_eq!(place.sources(8), pool());
    assert!(agent.cli(&["hold", "--reason", "work on the switch"]).unwrap().status.success());
    let gone = uplinks()[0].source4(0);
    place.lab.mail.sh(&format!("ip address del {gone}/32 dev upa")).unwrap();
    // A quarter of the connections was its share, and stays it: refused, and not moved.
    let refused = |agent: &Agent| {
        let load = Asker::on_host(&place.lab, STEERED).unwrap().load(200, 60, vec![receiver4(1)]);
        let before = place.receiver.count();
        let report = load.run(&place.lab.mail).unwrap();
        let peers = place.receiver.connections();
        let peers: BTreeSet<IpAddr> = peers.iter().skip(before).map(|c| c.peer.ip()).collect();
        assert!(!peers.contains(&gone), "{peers:?}");
        assert!(agent.pid().is_none() || agent.json(&["status"]).unwrap()["hold"].is_object());
        report.failed.get("EHOSTUNREACH").copied().unwrap_or_default()
    };
    poll::until_true(Duration::from_secs(10), "its share to be refused", || refused(&agent) == 15).unwrap();
    agent.kill().unwrap();
    assert_eq!(refused(&agent), 15);
    agent.restart().unwrap();
    // What an agent has not seen since its start is waited for at first.
    poll::until_true(Duration::from_secs(20), "it to be refused still", || refused(&agent) == 15).unwrap();
    assert!(agent.cli(&["hold", "--end", "--reason", "done"]).unwrap().status.success());
    assert_eq!(place.sources(9), pool().into_iter().filter(|source| *source != gone).collect());
    drop(agent);
    place.close();
}

#[test]
fn teardown_leaves_nothing_with_and_without_an_agent() {
    let place = Place::new();
    let before = HostState::of(&place.lab).unwrap();
    let own: IpAddr = uplinks()[0].own4.into();
    // Policy routing too, so that there are rules, routes and kernel parameters to put back.
    let config = ADOPTS.replace("\"adopt\"", "\"plumb\"");
    for runs in [true, false] {
        let mut agent = Agent::start(&place.lab, &config).unwrap();
        assert_eq!(place.sources(8), pool());
        if !runs {
            agent.kill().unwrap();
        }
        agent.teardown().unwrap();
        drop(agent);
        let after = HostState::of(&place.lab).unwrap();
        assert_eq!(before.differences(&after), Vec::<String>::new(), "with an agent: {runs}");
        assert_eq!(place.sources(2), [own].into());
    }
    place.close();
}
