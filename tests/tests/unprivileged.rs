//! The agent as its unit runs it: an own user, the unit's capabilities and no others, no new privileges, the unit's
//! system calls. The unit's file system views and memory rules take a running systemd.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::confine::Confinement;
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::probe::Asker;
use mailsteer_tests::scene::{CONFIG, MAIL, METRICS, eligible, offences};
use mailsteer_tests::topology::{receiver4, receiver6};
use mailsteer_tests::unit::Unit;
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll, strangers};

const AGENT: &str = "mailsteer.service";

/// A flush meets the table, and not the flag that makes it skip it.
const OPEN: &str = "[nft]\nown_table = \"never\"\n";

fn lab() -> Lab {
    Lab::new(Options { uplinks: 2, ..Options::default() }).unwrap()
}

fn limits(lab: &Lab, unit: &str) -> Confinement {
    Confinement::of(&Unit::read(unit).unwrap(), lab.dir()).unwrap()
}

/// The addresses that 8 connections of each family leave from.
fn sources(lab: &Lab, receiver: &Receiver) -> BTreeSet<IpAddr> {
    let asker = Asker::on_host(lab, MAIL).unwrap();
    let of = |to| asker.sources(receiver, 8, to).unwrap();
    of(receiver4(1)).into_iter().chain(of(receiver6(1))).collect()
}

fn attempts(agent: &Agent) -> u64 {
    let rows = agent.json(&["sources"]).unwrap();
    rows.as_array().unwrap().iter().map(|row| row["counters"]["attempts"].as_u64().unwrap()).sum()
}

#[test]
fn it_steers_repairs_reloads_adopts_and_tears_down() {
    let lab = lab();
    let before = HostState::of(&lab).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let limits = limits(&lab, AGENT);
    let all: BTreeSet<IpAddr> = eligible().into_keys().collect();
    let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(&format!("{CONFIG}{OPEN}"))).unwrap();
    agent.confine(limits.clone());
    agent.restart().unwrap();
    assert_eq!(limits.differences(agent.pid().unwrap()).unwrap(), Vec::<String>::new());
    assert_eq!(sources(&lab, &receiver), all);
    let told = agent.log().unwrap();
    assert!(!told.contains("which process uses a connection is not told"), "{told}");

    strangers::flush(&lab.mail).unwrap();
    assert_eq!(sources(&lab, &receiver), all, "repaired");
    poll::until_true(Duration::from_secs(5), "the repair to be counted", || {
        agent.metric(METRICS, "mailsteer_table_repairs_total", &[]).unwrap() >= 1.0
    })
    .unwrap();

    let fewer = CONFIG.replace("\"192.0.2.11-192.0.2.12\", ", "\"192.0.2.12\", ");
    agent.reload(&format!("{fewer}{OPEN}")).unwrap();
    let one_less: BTreeSet<IpAddr> =
        all.iter().copied().filter(|one| *one != IpAddr::from([192, 0, 2, 11])).collect();
    assert_eq!(sources(&lab, &receiver), one_less, "reloaded");
    agent.reload(&format!("{CONFIG}{OPEN}")).unwrap();

    agent.kill().unwrap();
    assert_eq!(sources(&lab, &receiver), all, "without an agent");
    agent.restart().unwrap();
    assert_eq!(limits.differences(agent.pid().unwrap()).unwrap(), Vec::<String>::new());
    // Five times 16 connections, counted by the maps that the second process found.
    assert_eq!(sources(&lab, &receiver), all, "after a restart");
    poll::until_true(Duration::from_secs(5), "every connection to be counted, once", || {
        attempts(&agent) == 80
    })
    .unwrap();
    assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    let log = agent.log().unwrap();
    assert!(!log.contains("ermitted") && !log.contains("announcing"), "{log}");

    agent.teardown().unwrap();
    assert_eq!(before.differences(&HostState::of(&lab).unwrap()), Vec::<String>::new());
    drop(agent);
    drop(receiver);
    lab.close().unwrap();
}

/// The oneshot has other limits, and leaves what the agent then finds.
#[test]
fn boot_puts_up_both_locks_and_the_agent_takes_over() {
    let lab = lab();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    agent.confine(limits(&lab, "mailsteer-boot.service"));
    let boot = agent.boot().unwrap();
    assert!(boot.status.success(), "{}", String::from_utf8_lossy(&boot.stderr));
    let table = lab.mail.sh("nft list tables").unwrap();
    assert!(table.contains("inet mailsteer"), "{table}");
    agent.confine(limits(&lab, AGENT));
    agent.restart().unwrap();
    assert_eq!(sources(&lab, &receiver), eligible().into_keys().collect());
    assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    drop(agent);
    drop(receiver);
    lab.close().unwrap();
}

/// What docs/capabilities.md says of each: taken away, it is missed, and the agent says where. Without a guard that is
/// required nothing starts; where none is, `without_ebpf.rs` has what becomes of it.
#[test]
fn each_capability_is_needed() {
    let unit = Unit::read(AGENT).unwrap();
    let missed = [
        ("CAP_NET_ADMIN", "nf_tables failed (it takes CAP_NET_ADMIN)"),
        ("CAP_BPF", "cannot load the eBPF object"),
        ("CAP_PERFMON", "the kernel refused the eBPF program"),
        ("CAP_NET_RAW", "announcing 192.0.2.11 on upa: not permitted"),
    ];
    let named: BTreeSet<&str> = missed.iter().map(|(capability, _)| *capability).collect();
    assert_eq!(unit.words("AmbientCapabilities"), named);
    for (capability, said) in missed {
        let lab = lab();
        let config = format!("{CONFIG}[guard]\nebpf = \"required\"\n");
        let mut agent = Agent::prepare(&lab, Some(&config)).unwrap();
        agent.confine(limits(&lab, AGENT).without(capability));
        let started = agent.restart();
        // Without announcements everything else works: neighbours learn a new address when it first asks them.
        assert_eq!(started.is_ok(), capability == "CAP_NET_RAW", "{capability}: {started:?}");
        let heard = agent.log().unwrap();
        drop(agent);
        assert!(heard.contains(said), "{capability}: {heard}");
        lab.close().unwrap();
    }
}

/// Without eBPF there is still nothing to be done without the right to the network.
#[test]
fn without_the_right_to_the_network_nothing_starts() {
    let lab = lab();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    agent.confine(limits(&lab, AGENT).without("CAP_NET_ADMIN"));
    assert!(agent.restart().is_err());
    let heard = agent.log().unwrap();
    assert!(heard.contains("nf_tables failed (it takes CAP_NET_ADMIN)"), "{heard}");
    drop(agent);
    lab.close().unwrap();
}
