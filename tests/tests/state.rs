//! What outlives the agent, and what the disk may do to it: nothing of it reaches steering.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mailsteer_tests::agent::METRICS;
use mailsteer_tests::load::Running;
use mailsteer_tests::probe::Asker;
use mailsteer_tests::topology::{receiver4, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll};
use nix::mount::{MsFlags, mount};
use rusqlite::{Connection, OpenFlags};

const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14"]
[stream.mail]
uid = 1001
pool = "main"
"#;
const STEERED: u32 = 1001;
/// How soon a disk that takes writes again is noticed: it is tried every two seconds, and told as often.
const NOTICED: Duration = Duration::from_secs(15);
/// What may be lost when the power fails (invariant 6).
const BOUND: Duration = Duration::from_secs(10);

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

    fn state(&self) -> PathBuf {
        self.lab.dir().join("agent/state")
    }

    /// A small file system of its own as the state directory.
    fn small_disk(&self) {
        fs::create_dir_all(self.state()).unwrap();
        let size = Some("size=8m,mode=0700");
        mount(Some("mailsteer-lab"), &self.state(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
    }

    fn remount(&self, flags: MsFlags) {
        let flags = MsFlags::MS_REMOUNT | flags;
        mount(None::<&str>, &self.state(), None::<&str>, flags, None::<&str>).unwrap();
    }

    fn connect(&self, count: u64) {
        let asker = Asker::on_host(&self.lab, STEERED).unwrap();
        assert_eq!(asker.sources(&self.receiver, count, receiver4(1)).unwrap(), pool());
    }

    fn close(self, agent: Agent) {
        drop(agent);
        self.receiver.stop().unwrap();
        self.lab.close().unwrap();
    }
}

/// Steered load beside what is done to the disk, with all that leaves looked at.
struct Load {
    running: Running,
    capture: Capture,
    before: usize,
}

/// Connections that a load makes at least, in the first second or two.
const ENOUGH: u64 = 50;

impl Load {
    fn start(place: &Place) -> Self {
        let before = place.receiver.count();
        let capture = Capture::start(&place.lab.world, &["wa"], 25).unwrap();
        let to = (2..=9).map(receiver4).collect();
        let load = Asker::on_host(&place.lab, STEERED).unwrap().load(50, 0, to);
        Self { running: load.start(&place.lab.mail).unwrap(), capture, before }
    }

    /// Nothing was refused, and nothing left by another address than the pool's.
    fn stop(self, place: &Place) {
        poll::until_true(NOTICED, "enough connections", || {
            place.receiver.count() as u64 >= self.before as u64 + ENOUGH + 20
        })
        .unwrap();
        let report = self.running.stop().unwrap();
        assert!(report.attempts >= ENOUGH && report.ok == report.attempts, "{report:?}");
        let wire = self.capture.stop().unwrap();
        assert_eq!(wire.lost, 0);
        let seen: BTreeSet<IpAddr> = wire.by_source.keys().map(|(_, source)| *source).collect();
        assert!(seen.is_subset(&pool()) && !seen.is_empty(), "{seen:?}");
    }
}

fn pool() -> BTreeSet<IpAddr> {
    (0..4).map(|n| uplinks()[0].source4(n)).collect()
}

fn attempts(agent: &Agent) -> u64 {
    let rows = agent.json(&["sources"]).unwrap();
    rows.as_array().unwrap().iter().map(|row| row["counters"]["attempts"].as_u64().unwrap()).sum()
}

fn counted(agent: &Agent, wanted: u64) {
    let counted =
        poll::until_true(NOTICED, "every connection to be counted, once", || attempts(agent) == wanted);
    assert!(counted.is_ok(), "{} of {wanted}", attempts(agent));
    let metric = agent.metric(METRICS, "mailsteer_connections_total", &["outcome=\"attempted\""]).unwrap();
    assert!((metric - wanted as f64).abs() < f64::EPSILON, "{metric} exported of {wanted}");
}

/// Numbers and kinds of all events, oldest first.
fn events(agent: &Agent) -> Vec<(u64, String)> {
    let rows = agent.json_lines(&["events", "-n", "1000"]).unwrap();
    let event =
        |row: &serde_json::Value| (row["number"].as_u64().unwrap(), row["kind"].as_str().unwrap().to_owned());
    rows.iter().map(event).collect()
}

fn faults(agent: &Agent) -> String {
    agent.json(&["status"]).unwrap()["faults"].to_string()
}

fn state_ok(agent: &Agent, wanted: bool) {
    let wanted = if wanted { 1.0 } else { 0.0 };
    poll::until_true(NOTICED, &format!("mailsteer_state_ok of {wanted}"), || {
        (agent.metric(METRICS, "mailsteer_state_ok", &[]).unwrap() - wanted).abs() < f64::EPSILON
    })
    .unwrap();
}

/// A fault that is said by `status` with `words`, by the metric, by an event and in the log.
fn said(agent: &Agent, words: &[&str]) {
    state_ok(agent, false);
    let faults = faults(agent);
    let log = agent.log().unwrap();
    for words in words {
        assert!(faults.contains(words), "{words}: {faults}");
        assert!(log.contains(words), "{words}: {log}");
    }
    let told = poll::until_true(NOTICED, "the event", || {
        events(agent).last().is_some() && events(agent).iter().any(|(_, kind)| kind == "state-failed")
    });
    assert!(told.is_ok(), "{:?}", events(agent));
}

fn recovered(agent: &Agent) {
    state_ok(agent, true);
    assert!(!faults(agent).contains("in memory only"), "{}", faults(agent));
    poll::until_true(NOTICED, "the event", || {
        events(agent).iter().any(|(_, kind)| kind == "state-recovered")
    })
    .unwrap();
}

fn suspend(agent: &Agent) -> String {
    let answer = agent.cli(&["suspend", "main-1", "--reason", "listed"]).unwrap();
    assert!(answer.status.success(), "{answer:?}");
    String::from_utf8(answer.stdout).unwrap()
}

fn suspended(agent: &Agent) -> bool {
    agent.json(&["status"]).unwrap()["suspended"][0]["source"] == "main-1"
}

/// The database as an operator may open it beside the agent.
fn database(state: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(state.join("mailsteer.db"), flags).unwrap()
}

/// What a power cut leaves of us: files. Pins, programs, table and their counts are gone.
fn lose_power(place: &Place, agent: &mut Agent) {
    agent.kill().unwrap();
    fs::remove_dir_all(place.lab.bpffs().join("mailsteer")).unwrap();
    place.lab.mail.sh("nft delete table inet mailsteer").unwrap();
}

#[test]
fn counts_and_events_go_on_after_sigkill_and_after_a_power_cut() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    place.connect(8);
    counted(&agent, 8);
    suspend(&agent);
    assert!(agent.cli(&["resume", "main-1", "--reason", "delisted"]).unwrap().status.success());
    let before = events(&agent);
    agent.kill().unwrap();
    place.connect(8);
    agent.restart().unwrap();
    counted(&agent, 16);
    let after = events(&agent);
    assert_eq!(after[..before.len()], before[..], "events and their numbers are as they were");
    assert!(after.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0), "{after:?}");
    // An orderly stop loses nothing, whatever comes after it.
    assert!(agent.terminate().unwrap().success());
    lose_power(&place, &mut agent);
    agent.restart().unwrap();
    counted(&agent, 16);
    place.connect(8);
    counted(&agent, 24);
    // The power may fail any time: what was counted 10 s ago is on the disk.
    let on_disk = || {
        let sql = "SELECT sum(count) FROM counters WHERE outcome = 'attempted' AND stream = 'mail'";
        database(&agent.state()).query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    poll::until_true(BOUND, "24 connections on the disk", || on_disk() == 24).unwrap();
    lose_power(&place, &mut agent);
    agent.restart().unwrap();
    counted(&agent, 24);
    place.connect(4);
    counted(&agent, 28);
    let open = agent.json(&["sources"]).unwrap()[0]["counters"]["open"].clone();
    assert_eq!(open, 0, "connections of before a power cut are not open for ever");
    place.close(agent);
}

#[test]
fn a_full_disk_is_said_and_steering_goes_on() {
    let place = Place::new();
    place.small_disk();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    place.connect(8);
    counted(&agent, 8);
    let load = Load::start(&place);
    let filler = place.state().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let answer = suspend(&agent);
    assert!(answer.contains("in effect, but not on the disk yet"), "{answer}");
    said(&agent, &["in memory only", "No space left on device", "make room on its file system"]);
    // Also an agent that finds it full steers, counts on, and knows what was kept.
    agent.restart().unwrap();
    said(&agent, &["No space left on device"]);
    load.stop(&place);
    assert!(attempts(&agent) >= 8 + ENOUGH, "{}", attempts(&agent));
    suspend(&agent);
    fs::remove_file(&filler).unwrap();
    recovered(&agent);
    let counts = attempts(&agent);
    agent.restart().unwrap();
    assert!(suspended(&agent), "what was said meanwhile was written");
    counted(&agent, counts);
    place.close(agent);
}

#[test]
fn a_read_only_directory_is_said_and_steering_goes_on() {
    let place = Place::new();
    place.small_disk();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    place.connect(8);
    counted(&agent, 8);
    suspend(&agent);
    assert!(agent.terminate().unwrap().success());
    place.remount(MsFlags::MS_RDONLY);
    let load = Load::start(&place);
    agent.restart().unwrap();
    said(&agent, &["in memory only", "Read-only file system", "mount it writable again"]);
    assert!(suspended(&agent), "what was kept can be read");
    let answer = agent.cli(&["resume", "main-1", "--reason", "delisted"]).unwrap();
    assert!(String::from_utf8(answer.stdout).unwrap().contains("not on the disk yet"));
    place.remount(MsFlags::empty());
    recovered(&agent);
    load.stop(&place);
    let counts = attempts(&agent);
    assert!(counts >= 8 + ENOUGH, "{counts}");
    agent.restart().unwrap();
    assert!(!suspended(&agent));
    counted(&agent, counts);
    place.close(agent);
}

#[test]
fn a_damaged_database_is_moved_aside_and_said() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    place.connect(8);
    counted(&agent, 8);
    suspend(&agent);
    assert!(agent.terminate().unwrap().success());
    let file = place.state().join("mailsteer.db");
    let mut bytes = fs::read(&file).unwrap();
    let third = bytes.len() / 3;
    bytes[third..2 * third].fill(0xa5);
    fs::write(&file, bytes).unwrap();
    let load = Load::start(&place);
    agent.restart().unwrap();
    let faults = faults(&agent);
    assert!(faults.contains("was damaged") && faults.contains("mailsteer.db.damaged-"), "{faults}");
    assert!(
        suspended(&agent) || faults.contains("suspend again what must not send"),
        "a suspension is kept, or its loss is said: {faults}"
    );
    assert!(events(&agent).iter().any(|(_, kind)| kind == "state-damaged"));
    state_ok(&agent, true);
    load.stop(&place);
    let aside = fs::read_dir(place.state()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(aside.into_iter().any(|name| name.to_string_lossy().starts_with("mailsteer.db.damaged-")));
    // The kernel still has what was counted, and the new database goes on from there.
    let counts = attempts(&agent);
    assert!(counts >= 8 + ENOUGH, "{counts}");
    agent.restart().unwrap();
    counted(&agent, counts);
    assert!(self::faults(&agent).contains("was damaged"), "it is said for a day, over restarts");
    place.close(agent);
}

#[test]
fn a_newer_schema_ends_the_start_and_the_locks_stand() {
    let place = Place::new();
    let mut agent = Agent::start(&place.lab, CONFIG).unwrap();
    place.connect(8);
    assert!(agent.terminate().unwrap().success());
    let newer = Connection::open(place.state().join("mailsteer.db")).unwrap();
    newer.execute("UPDATE meta SET written_by = '9.9.9'", []).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let load = Load::start(&place);
    let refused = agent.second().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{text}");
    for words in ["schema 99, made by mailsteer 9.9.9", "Install 9.9.9", "both locks stand", "mv "] {
        assert!(text.contains(words), "{words}: {text}");
    }
    place.connect(8);
    load.stop(&place);
    // One command that was named: it is moved away, and a new one is begun.
    let aside = place.lab.dir().join("aside");
    fs::create_dir(&aside).unwrap();
    for entry in fs::read_dir(place.state()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("mailsteer.db") {
            fs::rename(entry.path(), aside.join(entry.file_name())).unwrap();
        }
    }
    agent.restart().unwrap();
    assert!(attempts(&agent) > 16, "the kernel has what was counted");
    place.close(agent);
}
