//! Uplinks without Ethernet headers, neighbours and gateway, as ppp, tun and WireGuard make them: steered, guarded
//! and counted as any other, and dialled again under load.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mailsteer_tests::agent;
use mailsteer_tests::host_state::HostState;
use mailsteer_tests::load::Running;
use mailsteer_tests::ordeal::{self, Ordeal, Phase};
use mailsteer_tests::probe::Asker;
use mailsteer_tests::scene::{self, MAIL, eligible, offences};
use mailsteer_tests::topology::{self, Uplink, receiver4, receiver6, uplinks};
use mailsteer_tests::{Agent, Capture, Lab, Options, Receiver, poll, strangers};

/// One uplink with a default route, which needs no entry.
const ONE: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11-192.0.2.12", "2001:db8:a::11-2001:db8:a::12"]
[stream.mail]
uid = 1001
pool = "main"
[stream.containers]
subnet = ["172.22.1.0/24", "fd4d:6169:6c63:6f77::/64"]
pool = "main"
"#;

/// The address that the other end gives the host when it is dialled again.
const OTHER_OWN: Ipv4Addr = Ipv4Addr::new(100, 64, 7, 9);
/// Twice round the pool's four sources of a family.
const ROUNDS: u64 = 8;
const FOLLOWS: Duration = Duration::from_secs(10);
/// The longest that a connection may take: one retransmission of its SYN, after 1 s.
const LIMIT: Duration = Duration::from_millis(1500);

/// A config whose uplink `b`, or both where `all`, is reached without a gateway.
fn without_gateways(config: &str, all: bool) -> String {
    let kept = |line: &&str| !line.starts_with("gateway") || !(all || line.contains("198.51.100.1"));
    config.lines().filter(kept).map(|line| format!("{line}\n")).collect()
}

/// The sources of a family that serve, as `sources` shows them.
fn serving(agent: &Agent) -> BTreeSet<IpAddr> {
    let rows = agent.json(&["sources"]).unwrap();
    let healthy = rows.as_array().unwrap().iter().filter(|row| row["state"] == "healthy");
    healthy.map(|row| row["local"].as_str().unwrap().parse().unwrap()).collect()
}

fn sources_of(uplink: &Uplink) -> BTreeSet<IpAddr> {
    (0..2).flat_map(|n| [uplink.source4(n), uplink.source6(n)]).collect()
}

fn of_family(sources: &BTreeSet<IpAddr>, to: IpAddr) -> BTreeSet<IpAddr> {
    sources.iter().copied().filter(|one| one.is_ipv4() == to.is_ipv4()).collect()
}

fn ifindex(lab: &Lab, interface: &str) -> u64 {
    let link: serde_json::Value =
        serde_json::from_str(&lab.mail.sh(&format!("ip -j link show {interface}")).unwrap()).unwrap();
    link[0]["ifindex"].as_u64().unwrap()
}

#[track_caller]
fn no_complaint(agent: &Agent) {
    let log = agent.log().unwrap();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("announcing")).collect();
    assert_eq!(complaints, Vec::<&str>::new());
    assert_eq!(agent.json(&["status"]).unwrap()["faults"], serde_json::json!([]));
}

/// Every source leaves by its own uplink, both families, from the host and from a container, and answers come back.
fn steered_over(tunnels: usize, strict_rp_filter: bool) {
    let lab = Lab::new(Options { tunnels, containers: 1, strict_rp_filter, ..Options::default() }).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let before = HostState::of(&lab).unwrap();
    let agent = Agent::start(&lab, &without_gateways(scene::CONFIG, tunnels == 2)).unwrap();
    for asker in [Asker::on_host(&lab, MAIL).unwrap(), Asker::in_container(&lab, 0)] {
        for to in [receiver4(1), receiver6(1)] {
            let capture = Capture::start(&lab.world, &["wa", "wb"], 25).unwrap();
            let all: BTreeSet<IpAddr> = uplinks().iter().flat_map(sources_of).collect();
            assert_eq!(asker.sources(&receiver, ROUNDS, to).unwrap(), of_family(&all, to), "{asker:?}");
            let wire = capture.stop().unwrap();
            assert_eq!(offences(&wire), Vec::<String>::new(), "{asker:?} to {to}");
            let wanted: BTreeSet<(String, IpAddr)> = eligible()
                .into_iter()
                .filter(|(source, _)| source.is_ipv4() == to.is_ipv4())
                .map(|(source, far)| (far.to_owned(), source))
                .collect();
            assert_eq!(wire.by_source.keys().cloned().collect::<BTreeSet<_>>(), wanted, "{asker:?}");
        }
    }
    no_complaint(&agent);
    agent.teardown().unwrap();
    drop(agent);
    let after = HostState::of(&lab).unwrap();
    assert_eq!(before.differences(&after), Vec::<String>::new());
    drop(receiver);
    lab.close().unwrap();
}

#[test]
fn two_point_to_point_uplinks_steer_each_source() {
    steered_over(2, false);
}

#[test]
fn so_do_one_ethernet_uplink_and_one_point_to_point() {
    steered_over(1, true);
}

#[track_caller]
fn holds(name: &str, phase: &Phase) {
    eprintln!("{name}: {} connections, {:.0}/s, {:?}", phase.load.ok, phase.load.rate(), phase.counted);
    assert_eq!(phase.broken(LIMIT), Vec::<String>::new(), "{name}");
}

/// Rules that are a stranger's to flush, over two point-to-point uplinks.
fn ordeal(environment: &[(&str, &str)]) -> Ordeal {
    let options = Options { tunnels: 2, ..Options::default() };
    let config = without_gateways(&ordeal::config("never", false), true);
    Ordeal::begin_with(options, |lab| {
        let mut agent = Agent::prepare(lab, Some(&config))?;
        environment.iter().for_each(|(name, value)| agent.set_env(name, value));
        agent.restart()?;
        Ok(agent)
    })
    .unwrap()
}

fn locks_hold(mut ordeal: Ordeal) {
    let kills = ordeal.phase(5, |_, agent, _| agent.restart()).unwrap();
    holds("5 kills", &kills);
    let flushes = ordeal.phase(10, |lab, _, _| strangers::flush(&lab.mail)).unwrap();
    holds("10 flushes", &flushes);
    assert!(flushes.counted.held > 0 && flushes.counted.repairs > 0, "{flushes:?}");
    let live = ordeal.end().unwrap();
    assert_eq!((live.ok, live.attempts), (100, 100), "{live:?}");
}

/// Nothing leaks through the guard, which sees no Ethernet header here, and every connection is counted once.
#[test]
fn both_locks_hold() {
    locks_hold(ordeal(&[]));
}

/// The same as on kernels before 6.6.
#[test]
fn both_locks_hold_by_clsact_filters() {
    locks_hold(ordeal(&[("MAILSTEER_BPF_HOOK", "clsact")]));
}

/// The ten flushes again, without the guard: the others measure something.
#[test]
fn without_the_guard_it_leaks() {
    let mut ordeal = ordeal(&[]);
    let phase = ordeal
        .phase(10, |lab, _, _| {
            ordeal::detach_guard(lab)?;
            strangers::flush(&lab.mail)
        })
        .unwrap();
    assert!(!phase.leaks().is_empty() && phase.counted.wrong > 0, "{phase:?}");
    ordeal.abandon().unwrap();
}

/// Hangs up uplink `b` and dials it again, as pppd does after a carrier's nightly cut: another interface number,
/// another address of the host's own, and no default route.
fn redial(lab: &Lab, between: impl FnOnce()) -> Capture {
    let [_, b] = uplinks();
    let before = ifindex(lab, b.interface);
    lab.hang_up(&b);
    between();
    lab.dial(&b).unwrap();
    // It must see the very first packet.
    let capture = Capture::start(&lab.world, &[b.far], 25).unwrap();
    topology::answer(&lab.mail, &lab.world, &b, OTHER_OWN).unwrap();
    assert_ne!(ifindex(lab, b.interface), before);
    capture
}

struct Scene {
    lab: Lab,
    receiver: Receiver,
    agent: Agent,
}

impl Scene {
    /// An Ethernet uplink with the only default route, and a point-to-point one without.
    fn new() -> Self {
        let options = Options { tunnels: 1, strict_rp_filter: true, ..Options::default() };
        let lab = Lab::new(options).unwrap();
        lab.mail.sh("ip route del default dev upb; ip -6 route del default dev upb").unwrap();
        let receiver = Receiver::start(&lab.world, 25).unwrap();
        let agent = Agent::start(&lab, &without_gateways(scene::CONFIG, false)).unwrap();
        Self { lab, receiver, agent }
    }

    /// Connections with constant data, over both uplinks.
    fn live(&self) -> Running {
        let to = [receiver4(99), receiver6(99)];
        for echo in to {
            let whom = mailsteer_tests::receiver::Whom::To(echo);
            self.receiver.script(whom, mailsteer_tests::receiver::Behaviour::Echo);
        }
        let mut load = Asker::on_host(&self.lab, MAIL).unwrap().load(100, 0, to.to_vec());
        load.live = 16;
        let live = load.start(&self.lab.mail).unwrap();
        poll::until_true(FOLLOWS, "the live connections", || self.receiver.count() >= 16).unwrap();
        live
    }

    fn all_serve_again(&self) {
        let all: BTreeSet<IpAddr> = eligible().into_keys().chain(["192.0.2.15".parse().unwrap()]).collect();
        poll::until_true(FOLLOWS, "every source to serve", || serving(&self.agent) == all).unwrap();
        let asker = Asker::on_host(&self.lab, MAIL).unwrap();
        for to in [receiver4(1), receiver6(1)] {
            let sources = asker.sources(&self.receiver, ROUNDS, to).unwrap();
            assert_eq!(sources, of_family(&eligible().into_keys().collect(), to));
        }
    }

    fn close(self) {
        let Self { lab, receiver, agent } = self;
        drop((agent, receiver));
        lab.close().unwrap();
    }
}

/// While it hangs, its connections are held and not sent by the other uplink; then they go on.
#[test]
fn an_uplink_that_is_dialled_again_gets_its_sources_back() {
    let scene = Scene::new();
    let (lab, asker) = (&scene.lab, Asker::on_host(&scene.lab, MAIL).unwrap());
    let live = scene.live();
    let [a, b] = uplinks();
    let (by_a, receivers) = (Capture::start(&lab.world, &[a.far], 25).unwrap(), [receiver4(1), receiver6(1)]);
    let by_b = redial(lab, || {
        let left = || serving(&scene.agent).is_disjoint(&sources_of(&b));
        poll::until_true(FOLLOWS, "b's sources to be left out", left).unwrap();
        for to in receivers {
            let sources = asker.sources(&scene.receiver, ROUNDS, to).unwrap();
            assert_eq!(sources, of_family(&sources_of(&a), to));
        }
        let held = || scene.agent.json(&["status"]).unwrap()["totals"]["held"].as_u64() > Some(0);
        poll::until_true(FOLLOWS, "b's live connections to be held at a", held).unwrap();
    });
    scene.all_serve_again();
    let live = live.stop().unwrap();
    assert_eq!((live.ok, live.attempts), (16, 16), "{live:?}");
    for capture in [by_a, by_b] {
        assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    }
    let status = scene.agent.json(&["status"]).unwrap();
    let faults: Vec<&str> =
        status["faults"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    assert!(matches!(faults[..], [one] if one.contains("of an uplink that is away")), "{faults:?}");
    assert!(!scene.agent.log().unwrap().contains("announcing"));
    drop(asker);
    scene.close();
}

/// The same while no agent runs: what was there holds, and the next agent finds the new interface.
#[test]
fn an_uplink_that_is_dialled_again_while_the_agent_is_dead() {
    let mut scene = Scene::new();
    let live = scene.live();
    scene.agent.kill().unwrap();
    let by_a = Capture::start(&scene.lab.world, &["wa"], 25).unwrap();
    let by_b = redial(&scene.lab, || {});
    let asker = Asker::on_host(&scene.lab, MAIL).unwrap();
    // The slots are still those of both uplinks: half of these are held, and carried over by the agent's start.
    let load = asker.load(50, 0, vec![receiver4(1), receiver6(1)]).start(&scene.lab.mail).unwrap();
    poll::until_true(FOLLOWS, "connections by a", || scene.receiver.count() >= 16 + ROUNDS as usize).unwrap();
    scene.agent.restart().unwrap();
    let load = load.stop().unwrap();
    assert_eq!(load.ok, load.attempts, "{load:?}");
    scene.all_serve_again();
    let live = live.stop().unwrap();
    assert_eq!((live.ok, live.attempts), (16, 16), "{live:?}");
    for capture in [by_a, by_b] {
        assert_eq!(offences(&capture.stop().unwrap()), Vec::<String>::new());
    }
    drop(asker);
    scene.close();
}

/// The only uplink, found by its default route. While it is away nothing can leave; from its first packet on it is
/// right again, from the host and from a container.
#[test]
fn the_only_uplink_is_dialled_again_under_load() {
    let [a, _] = uplinks();
    let options = Options { uplinks: 1, tunnels: 1, containers: 1, ..Options::default() };
    let lab = Lab::new(options).unwrap();
    let receiver = Receiver::start(&lab.world, 25).unwrap();
    let agent = Agent::start(&lab, ONE).unwrap();
    let (host, container) = (Asker::on_host(&lab, MAIL).unwrap(), Asker::in_container(&lab, 0));
    let receivers = [receiver4(1), receiver6(1)];
    let load = |asker: &Asker, ns| asker.load(200, 0, receivers.to_vec()).start(ns).unwrap();
    let loads = [load(&host, &lab.mail), load(&container, &lab.containers[0])];
    poll::until_true(FOLLOWS, "mail to leave", || receiver.count() > 50).unwrap();
    lab.hang_up(&a);
    poll::until_true(FOLLOWS, "no source to serve", || serving(&agent).is_empty()).unwrap();
    lab.dial(&a).unwrap();
    let capture = Capture::start(&lab.world, &[a.far], 25).unwrap();
    topology::answer(&lab.mail, &lab.world, &a, OTHER_OWN).unwrap();
    lab.mail
        .sh("ip route add default dev upa metric 100; ip -6 route add default dev upa metric 100")
        .unwrap();
    poll::until_true(FOLLOWS, "every source to serve", || serving(&agent) == sources_of(&a)).unwrap();
    let left = receiver.count();
    poll::until_true(FOLLOWS, "mail to leave again", || receiver.count() > left + 50).unwrap();
    for load in loads {
        drop(load.stop().unwrap());
    }
    let wire = capture.stop().unwrap();
    assert_eq!(offences(&wire), Vec::<String>::new());
    for (asker, to) in [&host, &container].into_iter().flat_map(|asker| receivers.map(|to| (asker, to))) {
        assert_eq!(
            asker.sources(&receiver, ROUNDS, to).unwrap(),
            of_family(&sources_of(&a), to),
            "{asker:?}"
        );
    }
    no_complaint(&agent);
    drop((agent, receiver, host, container));
    lab.close().unwrap();
}

/// `init` writes an uplink without a gateway, `check` takes it, and `doctor` has nothing against such a host.
#[test]
fn init_and_doctor_know_such_a_host() {
    let lab = Lab::new(Options { tunnels: 1, plumbed: 2, ..Options::default() }).unwrap();
    let run = |args: &[&str]| {
        let mut command = lab.mail_command(agent::binary().unwrap()).unwrap();
        let answer = command.args(args).output().unwrap();
        assert!(answer.status.success(), "{args:?}: {answer:?}");
        String::from_utf8(answer.stdout).unwrap()
    };
    let text = run(&["init"]);
    let entry = "[uplink.upb]\ninterface = \"upb\"\nprefix = [\"198.51.100.10/32\", ";
    assert!(text.contains(entry) && text.contains("    \"198.51.100.21\",\n"), "{text}");
    let file = lab.dir().join("init.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    run(&["check", file]);
    let findings: serde_json::Value =
        serde_json::from_str(&run(&["doctor", "--config", file, "--json"])).unwrap();
    let routing = findings["findings"].as_array().unwrap().iter().filter(|one| one["group"] == "routing");
    let levels: Vec<&str> = routing.map(|one| one["level"].as_str().unwrap()).collect();
    assert!(levels.len() >= 4 && levels.iter().all(|level| *level == "ok"), "{findings:#}");
    lab.close().unwrap();
}
