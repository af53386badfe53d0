//! Two locks: whatever happens to the table or the agent, nothing leaves with a wrong address, nothing fails, and
//! everything is counted once.
//!
//! Every line is absolute: no packet, no connection. 530 connections a second and the data of 100 live ones meet
//! each series of ten events: a gap of 1 ms in one of them holds 2 or 3 packets, and leaks them without the guard.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::SocketAddr;
use std::time::Duration;

use mailsteer_tests::agent::Agent;
use mailsteer_tests::ordeal::{Ordeal, Phase, config, detach_guard};
use mailsteer_tests::strangers;

const EVENTS: usize = 10;
/// The longest that a connection may take: one retransmission of its SYN, after 1 s.
const LIMIT: Duration = Duration::from_millis(1500);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9925);

fn tell(name: &str, phase: &Phase) {
    let Phase { load, received, counted, .. } = phase;
    let times = format!("p50 {:.1}, p99 {:.1}, max {:.1} ms", load.p50_ms, load.p99_ms, load.max_ms);
    eprintln!(
        "{name}: {} connections, {:.0}/s, {times}; {received} received, {counted:?}",
        load.ok,
        load.rate()
    );
}

#[track_caller]
fn holds(name: &str, phase: &Phase) {
    tell(name, phase);
    assert_eq!(phase.broken(LIMIT), Vec::<String>::new(), "{name}");
}

/// Both report as many repairs as there were, and the events name who made them necessary.
#[track_caller]
fn repaired_after_nft(agent: &Agent, repairs: u64) {
    let counted = agent.metric(METRICS, "mailsteer_table_repairs_total", &[]).unwrap();
    assert_eq!(counted, repairs as f64);
    let events = agent.json_lines(&["events", "-n", "1000"]).unwrap();
    let repaired: Vec<_> = events.iter().filter(|row| row["kind"] == "table-repaired").collect();
    assert_eq!(repaired.len() as u64, repairs, "{events:#?}");
    for row in repaired {
        let evidence = &row["evidence"];
        let pid = evidence["pid"].as_str().and_then(|pid| pid.parse::<u32>().ok());
        assert!(evidence["program"] == "nft" && pid.is_some(), "{row:#}");
    }
}

#[track_caller]
fn lived_through(ordeal: Ordeal) {
    let live = ordeal.end().unwrap();
    eprintln!("live: {live:?}");
    assert_eq!((live.ok, live.attempts), (100, 100), "{live:?}");
}

/// The table is not owned, so that strangers' flushes and edits bite: the guard holds until the repair.
#[test]
fn a_table_open_to_strangers() {
    let mut ordeal = Ordeal::begin("never").unwrap();
    let kills = ordeal.phase(EVENTS, |_, agent, _| agent.restart()).unwrap();
    holds("10 kills", &kills);
    assert_eq!((kills.counted.held, kills.counted.repairs), (0, 0), "{kills:?}");
    let reloads = ordeal.phase(EVENTS, |_, agent, n| agent.reload(&config("never", n % 2 == 0))).unwrap();
    holds("10 reloads", &reloads);
    assert_eq!((reloads.counted.held, reloads.counted.repairs), (0, 0), "{reloads:?}");
    let flushes = ordeal.phase(EVENTS, |lab, _, _| strangers::flush(&lab.mail)).unwrap();
    holds("10 flushes", &flushes);
    let first = flushes.counted.repairs;
    // Those that come while one is being repaired are repaired with it.
    assert!((1..=10).contains(&first) && flushes.counted.held > 0, "{flushes:?}");
    let edits = ordeal.phase(EVENTS, |lab, _, n| strangers::edit(&lab.mail, n)).unwrap();
    holds("10 edits", &edits);
    let repairs = edits.counted.repairs;
    assert!((1..=10).contains(&(repairs - first)) && edits.counted.held > 0, "{edits:?}");
    repaired_after_nft(&ordeal.agent, repairs);
    lived_through(ordeal);
}

/// The table is owned: a flush skips it, an edit is refused, and nothing is even held.
#[test]
fn a_table_of_our_own() {
    let mut ordeal = Ordeal::begin("auto").unwrap();
    let mut refused = 0;
    let meddling = ordeal
        .phase(EVENTS, |lab, _, n| {
            refused += usize::from(strangers::edit(&lab.mail, n).is_err());
            strangers::flush(&lab.mail)
        })
        .unwrap();
    holds("10 flushes and 10 edits, owned", &meddling);
    assert_eq!((refused, meddling.counted.held, meddling.counted.repairs), (EVENTS, 0, 0), "{meddling:?}");
    let kills = ordeal.phase(EVENTS, |_, agent, _| agent.restart()).unwrap();
    holds("10 kills, owned", &kills);
    assert_eq!((kills.counted.held, kills.counted.repairs), (0, 0), "{kills:?}");
    lived_through(ordeal);
}

/// What a unit goes through on a host: stops and starts, reloads by signal, starts that fail, and a boot at which
/// nothing but the oneshot runs.
#[test]
fn the_ends_and_beginnings_of_an_agent() {
    let mut ordeal = Ordeal::begin("never").unwrap();
    let stops = ordeal.phase(EVENTS, |_, agent, _| stop(agent).and_then(|()| agent.restart())).unwrap();
    holds("10 stops and starts", &stops);
    let signals = ordeal
        .phase(EVENTS, |_, agent, n| {
            agent.write_config(&config("never", n % 2 == 0))?;
            agent.hang_up()
        })
        .unwrap();
    holds("10 reloads by SIGHUP", &signals);
    let failed = ordeal
        .phase(EVENTS, |_, agent, n| {
            stop(agent)?;
            agent.write_config("mode = \"enforced\"\n")?;
            let said = agent.second()?;
            anyhow::ensure!(!said.status.success(), "it started: {said:?}");
            agent.write_config(&config("never", n % 2 == 0))?;
            agent.restart()
        })
        .unwrap();
    holds("10 starts that fail", &failed);
    let boots = ordeal
        .phase(EVENTS, |_, agent, n| {
            if n == 0 {
                stop(agent)?;
            }
            let said = agent.boot()?;
            anyhow::ensure!(said.status.success(), "{said:?}");
            // Counts are read from an agent.
            if n + 1 == EVENTS { agent.restart() } else { Ok(()) }
        })
        .unwrap();
    holds("10 boots by the oneshot alone", &boots);
    for phase in [&stops, &signals, &failed, &boots] {
        assert_eq!((phase.counted.held, phase.counted.repairs), (0, 0), "{phase:?}");
    }
    lived_through(ordeal);
}

fn stop(agent: &mut Agent) -> anyhow::Result<()> {
    let ended = agent.terminate()?;
    anyhow::ensure!(ended.success(), "{ended}");
    Ok(())
}

/// One lock alone: the rules are gone and nobody is there to write them. The guard holds all of it until the agent is
/// back, and then everything is delivered.
#[test]
fn a_flush_while_the_agent_is_dead() {
    let mut ordeal = Ordeal::begin("never").unwrap();
    let phase = ordeal
        .phase(1, |lab, agent, _| {
            agent.kill()?;
            strangers::flush(&lab.mail)?;
            agent.restart()
        })
        .unwrap();
    tell("a flush while the agent is dead", &phase);
    assert_eq!(phase.broken(Duration::from_secs(8)), Vec::<String>::new());
    assert!(phase.counted.held > 0, "{phase:?}");
    lived_through(ordeal);
}

/// The run of ten flushes again, without the guard: the other tests measure something.
#[test]
fn without_the_guard_it_leaks() {
    let mut ordeal = Ordeal::begin("never").unwrap();
    let phase = ordeal
        .phase(EVENTS, |lab, _, _| {
            // The repair puts the guard back, before the rules.
            detach_guard(lab)?;
            strangers::flush(&lab.mail)
        })
        .unwrap();
    tell("10 flushes without the guard", &phase);
    let leaks = phase.leaks();
    eprintln!("{leaks:#?}");
    assert!(!leaks.is_empty(), "{phase:?}");
    assert!(phase.counted.wrong > 0, "what leaks is counted: {:?}", phase.counted);
    ordeal.abandon().unwrap();
}
