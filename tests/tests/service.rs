//! The agent under a service manager: what it tells, what SIGHUP does, and what a boot leaves before any agent runs.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use mailsteer_tests::agent::Agent;
use mailsteer_tests::capture::Capture;
use mailsteer_tests::lab::Lab;
use mailsteer_tests::load::{Load, Report};
use mailsteer_tests::mmdb;
use mailsteer_tests::poll;
use mailsteer_tests::receiver::Receiver;
use mailsteer_tests::topology::{Options, receiver4, uplinks};

const STEERED: u32 = 1001;
const LONG: Duration = Duration::from_secs(15);
const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.14"]
[stream.mail]
uid = 1001
pool = "main"
"#;
const BROKEN: &str = "mode = \"enforce\"\n[pool.main]\naddreses = [\"192.0.2.11\"]\n";

fn lab() -> Lab {
    Lab::new(Options { uplinks: 1, ipv6: false, ..Options::default() }).unwrap()
}

fn sources(count: u8) -> BTreeSet<IpAddr> {
    (0..count).map(|n| uplinks()[0].source4(n)).collect()
}

fn connect(lab: &Lab, count: u64) -> Report {
    let load = Load {
        rate: 100,
        count,
        uid: STEERED,
        gid: STEERED,
        to: vec![receiver4(1)],
        timeout_ms: 2000,
        cgroup: Some(lab.cgroup().unwrap().to_owned()),
        ..Load::default()
    };
    load.run(&lab.mail).unwrap()
}

/// The addresses that these connections come from.
fn seen_from(lab: &Lab, receiver: &Receiver, count: u64) -> BTreeSet<IpAddr> {
    let before = receiver.count();
    let report = connect(lab, count);
    assert_eq!(report.ok, count, "{report:?}");
    receiver.connections().iter().skip(before).map(|connection| connection.peer.ip()).collect()
}

/// What a service manager hears.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn new(lab: &Lab, agent: &mut Agent) -> Self {
        let path = lab.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // As a service manager's: whoever it is, it is told apart by its credentials.
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        agent.set_env("NOTIFY_SOCKET", path);
        Self { socket, heard: Vec::new() }
    }

    /// Listens until a line is heard that was not heard yet; forgets what came before it.
    fn hears(&mut self, what: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(at) = self.heard.iter().position(|line| line.starts_with(what)) {
                return self.heard.drain(..=at).next_back().unwrap();
            }
            assert!(Instant::now() < deadline, "no {what}: {:?}", self.heard);
            let mut buffer = [0; 4096];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                self.heard.extend(text.lines().map(str::to_owned));
            }
        }
    }
}

#[test]
fn the_service_manager_hears_of_every_turn() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    let mut ear = Ear::new(&lab, &mut agent);
    agent.set_env("WATCHDOG_USEC", "1000000");
    agent.restart().unwrap();
    ear.hears("STATUS=every message leaves where it should");
    ear.hears("READY=1");
    // From the loop, twice a second, whether anything happens or not.
    for _ in 0..4 {
        ear.hears("WATCHDOG=1");
    }

    agent.write_config(&CONFIG.replace("-192.0.2.14", "-192.0.2.12")).unwrap();
    agent.hang_up().unwrap();
    ear.hears("RELOADING=1");
    assert!(ear.hears("MONOTONIC_USEC=").len() > "MONOTONIC_USEC=".len());
    ear.hears("READY=1");
    assert_eq!(seen_from(&lab, &receiver, 8), sources(2), "the new config is in force");

    agent.write_config(BROKEN).unwrap();
    agent.hang_up().unwrap();
    ear.hears("READY=1");
    assert_eq!(seen_from(&lab, &receiver, 8), sources(2), "a bad one changes nothing");
    let error = agent.json(&["status"]).unwrap()["config"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("addreses"), "{error}");
    assert!(agent.log().unwrap().contains("SIGHUP: "), "{}", agent.log().unwrap());

    assert!(agent.terminate().unwrap().success());
    ear.hears("STOPPING=1");
    assert_eq!(seen_from(&lab, &receiver, 8), sources(2), "both locks stay");
    drop((agent, receiver));
    lab.close().unwrap();
}

/// From the boot to the agent: guard and rules stand before anything runs that could send.
#[test]
fn after_a_boot_mail_is_steered_before_the_agent_runs() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let capture = Capture::start(&lab.world, &["wa"], 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    let said = agent.boot().unwrap();
    assert!(said.status.success(), "{said:?}");
    assert_eq!(seen_from(&lab, &receiver, 8), sources(4));
    agent.restart().unwrap();
    assert_eq!(seen_from(&lab, &receiver, 8), sources(4));
    // Counted by the guard's own maps, with no agent there.
    let counted = || {
        let rows = agent.json(&["sources"]).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["counters"]["attempts"].as_u64().unwrap()).sum::<u64>()
    };
    poll::until_true(LONG, "16 connections to be counted", || counted() == 16).unwrap();
    let wire = capture.stop().unwrap();
    assert_eq!(wire.others(&sources(4).into_iter().collect::<Vec<_>>()), [] as [String; 0]);
    drop((agent, receiver));
    lab.close().unwrap();
}

/// What is not there yet at the boot is waited for: held, and steered once it is there and the agent runs.
#[test]
fn a_boot_before_the_network_holds() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let capture = Capture::start(&lab.world, &["wa"], 25).unwrap();
    lab.mail.sh("ip link set upa down; ip link set upa name late0").unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    let said = agent.boot().unwrap();
    assert!(said.status.success(), "{said:?}");
    lab.mail.sh("ip link set late0 name upa; ip link set upa up").unwrap();
    lab.mail.sh("ip route add default via 192.0.2.1 dev upa").unwrap();
    let report = connect(&lab, 2);
    assert_eq!(report.failed.get("timeout"), Some(&2), "no agent yet: {report:?}");
    assert!(capture.stop().unwrap().by_source.is_empty(), "nothing has left");
    agent.restart().unwrap();
    assert_eq!(seen_from(&lab, &receiver, 8), sources(4));
    drop((agent, receiver));
    lab.close().unwrap();
}

#[test]
fn a_boot_with_a_broken_config_takes_the_last_good_one() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(BROKEN)).unwrap();
    let said = agent.boot().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(!said.status.success() && text.contains("addreses"), "{text}");
    assert!(text.contains("there is no other config to start from"), "{text}");

    agent.write_config(CONFIG).unwrap();
    agent.restart().unwrap();
    agent.teardown().unwrap();
    drop(agent.terminate());
    agent.write_config(BROKEN).unwrap();
    let said = agent.boot().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && text.contains("last in force"), "{text}");
    assert_eq!(seen_from(&lab, &receiver, 8), sources(4));
    drop((agent, receiver));
    lab.close().unwrap();
}

/// Without it German recipients' mail would be the next stream's, or no lock would stand at all.
#[test]
fn a_boot_with_a_broken_database_of_countries_takes_the_last_good_one() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let database = lab.dir().join("countries.mmdb");
    fs::write(&database, mmdb::database(&[("203.0.113.0/24", "DE")])).unwrap();
    let config = format!(
        "mode = \"enforce\"\n[countries]\ndatabase = \"{}\"\n[pool.german]\naddresses = [\"192.0.2.13-192.0.2.14\"]\n\
         [pool.main]\naddresses = [\"192.0.2.11-192.0.2.12\"]\n\
         [stream.german]\nuid = 1001\ndestination_country = [\"DE\"]\npool = \"german\"\n\
         [stream.mail]\nuid = 1001\npool = \"main\"\n",
        database.display()
    );
    let mut agent = Agent::prepare(&lab, Some(&config)).unwrap();
    agent.restart().unwrap();
    let german = seen_from(&lab, &receiver, 8);
    assert_eq!(german, sources(4).into_iter().skip(2).collect());
    agent.teardown().unwrap();
    drop(agent.terminate());
    fs::write(&database, "no database").unwrap();
    let said = agent.boot().unwrap();
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && text.contains("last in force"), "{text}");
    assert_eq!(seen_from(&lab, &receiver, 8), german);
    drop((agent, receiver));
    lab.close().unwrap();
}
