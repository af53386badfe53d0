//! Without eBPF: one lock, which steers, verifies and counts by itself, and an agent that says so.
//!
//! Most of it runs as root of a user namespace of its own, which is nobody outside and may load no eBPF, as in a
//! container of unprivileged hosting; the rest as the unit's user, with a capability less.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mailsteer_tests::confine::Confinement;
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::ordeal::{Ordeal, Phase, config};
use mailsteer_tests::probe::Asker;
use mailsteer_tests::receiver::{Behaviour, Whom};
use mailsteer_tests::scene::{CONFIG, LONE, MAIL, METRICS, SHOWN, eligible, offences};
use mailsteer_tests::topology::{receiver4, receiver6, uplinks};
use mailsteer_tests::unit::Unit;
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, Scene, poll, strangers};

/// A hosted container, with two uplinks.
const HOSTED: Options = Options {
    uplinks: 2,
    tunnels: 0,
    ipv6: true,
    containers: 0,
    remapped: 0,
    plumbed: 0,
    strict_rp_filter: false,
    unprivileged: true,
};
/// One retransmission of a SYN, after 1 s.
const LIMIT: Duration = Duration::from_millis(1500);
/// Users of one more stream, whose pool draws by destination.
const HABIT: u32 = 1003;
const STICKY: &str = r#"
[pool.habit]
addresses = ["192.0.2.31-192.0.2.34", "2001:db8:a::31-2001:db8:a::34"]
balance = "sticky"
[stream.habit]
uid = 1003
pool = "habit"
"#;
/// A flush meets the table, and not the flag that makes it skip it.
const OPEN: &str = "[nft]\nown_table = \"never\"\n";

fn sources(lab: &Lab, receiver: &Receiver) -> BTreeSet<IpAddr> {
    let asker = Asker::on_host(lab, MAIL).unwrap();
    let of = |to| asker.sources(receiver, 8, to).unwrap();
    of(receiver4(1)).into_iter().chain(of(receiver6(1))).collect()
}

fn all() -> BTreeSet<IpAddr> {
    eligible().into_keys().collect()
}

fn attempts(agent: &Agent) -> u64 {
    agent.json(&["status"]).unwrap()["totals"]["attempts"].as_u64().unwrap()
}

/// Counts of each source are those of the receivers.
fn counted_as_received(scene: &Scene, received: &BTreeMap<IpAddr, u64>) {
    let counted = || -> BTreeMap<IpAddr, u64> {
        let rows = scene.agent.json(&["sources"]).unwrap();
        let of = |row: &serde_json::Value| {
            let counters = &row["counters"];
            assert_eq!(counters["partial"], true, "{row}");
            assert_eq!(counters["attempts"], counters["established"], "{row}");
            (row["public"].as_str().unwrap().parse().unwrap(), counters["attempts"].as_u64().unwrap())
        };
        rows.as_array().unwrap().iter().map(of).filter(|(_, attempts)| *attempts > 0).collect()
    };
    poll::until_true(SHOWN, "counts as the receivers have them", || counted() == *received)
        .unwrap_or_else(|e| assert_eq!(counted(), *received, "{e}"));
}

#[track_caller]
fn says_one_lock(agent: &Agent, why: &str) {
    let status = agent.json(&["status"]).unwrap();
    let sentence = status["headline"]["sentence"].as_str().unwrap();
    assert!(sentence.starts_with("one lock only: there is no eBPF guard ("), "{sentence}");
    assert!(sentence.contains(why), "{sentence}");
    assert_eq!(status["headline"]["level"], "attention", "{status}");
    let text = String::from_utf8(agent.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("1 of 2") && text.contains("not seen   single connections"), "{text}");
    assert!(agent.log().unwrap().contains("one lock only: there is no eBPF guard"));
    let metrics = agent.metrics(METRICS).unwrap();
    let value = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(value("mailsteer_locks "), Some("1"));
    for unseen in ["mailsteer_guard_armed ", "mailsteer_wrong_source_total{", "outcome=\"unanswered\""] {
        assert!(!metrics.contains(unseen), "{unseen} would say more than is known");
    }
}

#[test]
fn it_steers_counts_and_says_what_it_does_not_see() {
    let scene = Scene::new(HOSTED, STICKY).unwrap();
    scene.receiver.script(Whom::All, Behaviour::BannerClose);
    says_one_lock(&scene.agent, "");
    let capture = scene.capture().unwrap();
    let load = scene.load(200, 400).unwrap();
    let report = load.run(&scene.lab.mail).unwrap();
    assert_eq!(report.ok, 400, "{report:?}");
    let shares = scene.receiver.by_peer();
    assert!(shares.keys().copied().eq(all()), "{shares:?}");
    assert!(shares.values().all(|count| (49..=51).contains(count)), "in turn: {shares:?}");
    // The same destination, the same source.
    let habit = Asker::on_host(&scene.lab, HABIT).unwrap();
    let to: Vec<IpAddr> = (1..=20).flat_map(|n| [receiver4(n), receiver6(n.into())]).collect();
    let chosen: Vec<_> = to.iter().map(|to| habit.sources(&scene.receiver, 3, *to).unwrap()).collect();
    assert!(chosen.iter().all(|sources| sources.len() == 1), "{chosen:?}");
    assert!(chosen.iter().flatten().collect::<BTreeSet<_>>().len() >= 6, "not all the same: {chosen:?}");
    let wire = capture.stop().unwrap();
    let (habits, rest): (Vec<_>, Vec<_>) =
        offences(&wire).into_iter().partition(|one| one.starts_with("192.0.2.3") || one.contains("a::3"));
    assert_eq!(rest, Vec::<String>::new());
    assert!(habits.iter().all(|one| one.contains("on wa")), "{habits:?}");
    counted_as_received(&scene, &scene.receiver.by_peer());
    // One that the world refuses, and one that the rules refuse.
    scene
        .lab
        .world
        .nft(
            "table inet w { chain in { type filter hook input priority 0
        ip daddr 203.0.113.101 tcp dport 25 reject with tcp reset
        }
        }",
        )
        .unwrap();
    let asker = Asker::on_host(&scene.lab, MAIL).unwrap();
    assert_eq!(asker.connect(10, vec![receiver4(101)]).unwrap().ok, 0);
    let lone = Asker::on_host(&scene.lab, LONE).unwrap();
    assert_eq!(lone.connect(10, vec![receiver6(1)]).unwrap().ok, 0);
    let outcomes = scene.outcomes().unwrap();
    assert_eq!((outcomes["refused"], outcomes["attempted"]), (10, 400 + 120 + 10), "{outcomes:?}");
    let refused = scene.metric("mailsteer_refused_total", &["reason=\"no_ipv6_source\""]).unwrap();
    assert!((refused - 10.0).abs() < f64::EPSILON, "{refused}");
    // Single connections are nobody's to tell, but for the one that `try` makes itself.
    let said = scene.agent.cli(&["connections"]).unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && text.contains("recorded by eBPF programs"), "{text}");
    let tried = scene.agent.cli(&["try", "--stream", "mail", &receiver4(1).to_string()]).unwrap();
    let text = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert!(tried.status.success() && text.contains("as wanted"), "{text}");
    let rows = String::from_utf8(scene.agent.cli(&["sources"]).unwrap().stdout).unwrap();
    assert!(rows.contains("-: not seen without eBPF"), "{rows}");
    drop((habit, asker, lone));
    scene.close().unwrap();
}

#[track_caller]
fn holds(name: &str, phase: &Phase) {
    eprintln!("{name}: {} connections, {:.0}/s; {:?}", phase.load.ok, phase.load.rate(), phase.counted);
    assert_eq!(phase.broken(LIMIT), Vec::<String>::new(), "{name}");
    assert_eq!((phase.counted.held, phase.counted.repairs), (0, 0), "{name}: {phase:?}");
}

/// The table is owned while the agent lives. Nobody flushes it while it is dead: that is what two locks are for.
#[test]
fn deaths_ends_reloads_and_a_strangers_flush_move_nothing() {
    let mut ordeal = Ordeal::begin_with(HOSTED, |lab| Agent::start(lab, &config("auto", false))).unwrap();
    // It finds another config each time, with one source and one stream more that come before all others: numbers have
    // to be found again, since living connections bear them, and not given out anew.
    let more = "[pool.first]\naddresses = [\"192.0.2.5\", \"2001:db8:a::5\"]\n\
                [stream.first]\nuid = 1009\npool = \"first\"\n";
    let kills = ordeal
        .phase(6, |_, agent, n| {
            agent.kill()?;
            let more = if n % 2 == 0 { more } else { "" };
            agent.write_config(&format!("{}{more}", config("auto", n % 2 == 0)))?;
            agent.restart()
        })
        .unwrap();
    holds("6 kills, with another config", &kills);
    let ends = ordeal
        .phase(3, |_, agent, _| {
            assert!(agent.terminate()?.success());
            agent.restart()
        })
        .unwrap();
    holds("3 stops", &ends);
    let reloads = ordeal.phase(6, |_, agent, n| agent.reload(&config("auto", n % 2 == 0))).unwrap();
    holds("6 reloads", &reloads);
    let mut refused = 0;
    let meddling = ordeal
        .phase(6, |lab, _, n| {
            refused += usize::from(strangers::edit(&lab.mail, n).is_err());
            strangers::flush(&lab.mail)
        })
        .unwrap();
    holds("6 flushes and 6 edits, owned", &meddling);
    assert_eq!(refused, 6);
    let live = ordeal.end().unwrap();
    assert_eq!((live.ok, live.attempts), (100, 100), "{live:?}");
}

/// What one lock cannot do: until the repair the mail goes wherever it would without mailsteer. The repair comes within
/// the second, and how long it took is said and counted.
#[test]
fn a_flush_of_an_open_table_is_repaired_within_the_second_and_said() {
    let scene = Scene::new(HOSTED, OPEN).unwrap();
    let repairs = || scene.agent.metric(METRICS, "mailsteer_table_repairs_total", &[]).unwrap();
    for n in 1..=5 {
        assert_eq!(sources(&scene.lab, &scene.receiver), all());
        let before = attempts(&scene.agent);
        strangers::flush(&scene.lab.mail).unwrap();
        poll::until_true(Duration::from_secs(1), "the repair", || repairs() >= f64::from(n)).unwrap();
        let capture = scene.capture().unwrap();
        assert_eq!(sources(&scene.lab, &scene.receiver), all(), "repaired");
        assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
        // What was read before the flush stays, and what came after it is added.
        assert_eq!(attempts(&scene.agent), before + 16);
    }
    let events = scene.agent.json_lines(&["events", "-n", "1000"]).unwrap();
    let repaired: Vec<_> = events.iter().filter(|row| row["kind"] == "table-repaired").collect();
    assert_eq!(repaired.len(), 5, "{events:#?}");
    for row in repaired {
        let text = row["text"].as_str().unwrap();
        assert!(text.contains("ms in which nothing held mail (one lock only)"), "{text}");
        assert!(row["evidence"]["unguarded_ms"].as_str().unwrap().parse::<u64>().unwrap() < 1000, "{row}");
    }
    let open = scene.agent.metric(METRICS, "mailsteer_unguarded_seconds_total", &[]).unwrap();
    assert!(open > 0.0 && open < 5.0, "{open}");
    scene.close().unwrap();
}

/// The same counts after a kill, whoever counted what happened meanwhile; and numbers stay with their connections.
#[test]
fn a_boot_puts_up_the_rules_and_what_they_count_is_the_agents() {
    let lab = Lab::new(HOSTED).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let before = HostState::of(&lab).unwrap();
    let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    let boot = agent.boot().unwrap();
    let said = String::from_utf8_lossy(&boot.stderr).into_owned() + &String::from_utf8_lossy(&boot.stdout);
    assert!(boot.status.success() && said.contains("one lock only"), "{said}");
    // Held until the addresses are ready, which the next run sees.
    agent.restart().unwrap();
    assert_eq!(sources(&lab, &receiver), all());
    agent.kill().unwrap();
    assert!(agent.boot().unwrap().status.success());
    assert_eq!(sources(&lab, &receiver), all(), "with the rules alone");
    agent.restart().unwrap();
    assert_eq!(sources(&lab, &receiver), all());
    poll::until_true(SHOWN, "every connection to be counted, once", || attempts(&agent) == 48).unwrap();
    assert!(agent.terminate().unwrap().success());
    assert_eq!(sources(&lab, &receiver), all(), "steered after its end");
    agent.restart().unwrap();
    poll::until_true(SHOWN, "those of the time between, too", || attempts(&agent) == 64).unwrap();
    assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    says_one_lock(&agent, "");
    agent.teardown().unwrap();
    drop(agent);
    assert_eq!(before.differences(&HostState::of(&lab).unwrap()), Vec::<String>::new());
    assert!(!lab.bpffs().join("mailsteer").exists(), "nothing is pinned");
    drop(receiver);
    lab.close().unwrap();
}

fn limits(lab: &Lab) -> Confinement {
    Confinement::of(&Unit::read("mailsteer.service").unwrap(), lab.dir()).unwrap()
}

/// What the kernel refuses, it refuses at one place or another: with the maps, or with the programs, when maps are
/// pinned already. Neither is left behind, or the next start would take it for an earlier agent's.
#[test]
fn a_service_without_one_of_the_two_capabilities_runs_with_one_lock() {
    for (capability, why) in [("CAP_BPF", "map"), ("CAP_PERFMON", "program")] {
        let lab = Lab::new(Options::default()).unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
        agent.confine(limits(&lab).without(capability));
        let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
        for n in 1..=2 {
            agent.restart().unwrap();
            says_one_lock(&agent, why);
            assert_eq!(sources(&lab, &receiver), all());
            poll::until_true(SHOWN, "the counts", || attempts(&agent) == n * 16).unwrap();
        }
        // Its own directory was made for it.
        let left: Vec<_> = std::fs::read_dir(lab.bpffs().join("mailsteer")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
        drop(agent);
        drop(receiver);
        lab.close().unwrap();
    }
}

/// An armed guard of an earlier agent would hold what this one changes, and nobody could tell it.
#[test]
fn where_a_guard_stands_no_agent_starts_beside_it() {
    let lab = Lab::new(Options::default()).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let mut agent = Agent::prepare(&lab, Some(CONFIG)).unwrap();
    agent.confine(limits(&lab));
    agent.restart().unwrap();
    assert_eq!(sources(&lab, &receiver), all());
    let rules = || lab.mail.sh("nft -s list table inet mailsteer").unwrap();
    agent.kill().unwrap();
    let stood = rules();
    let fewer = CONFIG.replace("\"192.0.2.11-192.0.2.12\", ", "\"192.0.2.12\", ");
    let off = format!("{fewer}[guard]\nebpf = \"off\"\n");
    for (config, without, said) in [
        (&fewer, "CAP_BPF", "go back to the version that ran before"),
        (&fewer, "CAP_PERFMON", "go back to the version that ran before"),
        (&off, "CAP_SYS_ADMIN", "`mailsteer teardown` first"),
    ] {
        agent.write_config(config).unwrap();
        agent.confine(limits(&lab).without(without));
        let failed = agent.second().unwrap();
        let text = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success() && text.contains(said), "{without}: {text}");
        assert_eq!(rules(), stood, "{without}");
        assert_eq!(sources(&lab, &receiver), all(), "both locks work as they did");
    }
    agent.write_config(CONFIG).unwrap();
    agent.confine(limits(&lab));
    agent.restart().unwrap();
    assert!(!agent.log().unwrap().contains("one lock only"));
    let locks = agent.metric(METRICS, "mailsteer_locks", &[]).unwrap();
    assert!((locks - 2.0).abs() < f64::EPSILON, "{locks}");
    drop(agent);
    drop(receiver);
    lab.close().unwrap();
}

#[test]
fn where_a_guard_is_required_or_a_stream_needs_it_there_is_no_start_without() {
    let lab = Lab::new(HOSTED).unwrap();
    let own: BTreeSet<IpAddr> = uplinks().iter().take(1).map(|uplink| uplink.own4.into()).collect();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let by_cgroup = format!("{CONFIG}[stream.slice]\ncgroup = \"mta.slice\"\npool = \"main\"\n");
    let required = format!("{CONFIG}[guard]\nebpf = \"required\"\n");
    for (config, said) in [(&required, "permitted"), (&by_cgroup, "stream slice is matched by its cgroup")] {
        let agent = Agent::prepare(&lab, Some(config)).unwrap();
        let failed = agent.second().unwrap();
        let text = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert!(!failed.status.success() && text.contains(said), "{text}");
        assert!(
            !agent.state().join("last-good.toml").exists(),
            "a boot does not start from what never steered"
        );
        let asker = Asker::on_host(&lab, MAIL).unwrap();
        assert_eq!(asker.sources(&receiver, 4, receiver4(1)).unwrap(), own, "nothing was changed");
    }
    let agent = Agent::start(&lab, CONFIG).unwrap();
    let error = agent.reload(&by_cgroup).unwrap_err().to_string();
    assert!(error.contains("stream slice is matched by its cgroup"), "{error}");
    assert_eq!(sources(&lab, &receiver), all(), "the earlier config steers");
    drop(agent);
    drop(receiver);
    lab.close().unwrap();
}
