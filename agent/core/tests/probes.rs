//! Probes: who gets them, and what they lead to.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::{HostView, load};
use mailsteer_core::decide::{Event, EventKind, Observation, State, Who, World, desired, explain};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route, Sign, Signal};

const CONFIG: &str = r#"
mode = "enforce"
[pool.main]
addresses = ["192.0.2.11", "198.51.100.11", "203.0.113.11", "203.0.112.11"]
[stream.mail]
uid = 1001
pool = "main"
"#;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn source(n: usize) -> IpAddr {
    ["192.0.2.11", "198.51.100.11", "203.0.113.11", "203.0.112.11"][n].parse().unwrap()
}

fn receiver(n: u8) -> IpAddr {
    IpAddr::from([20, 0, 0, n])
}

fn world() -> World {
    let config = load("test", CONFIG, &HostView::default()).config.unwrap();
    let mut world = World::new(config, at(0));
    let link = Link { index: 2, name: "eth0".into(), up: true, loopback: false, point_to_point: false };
    let address =
        |address| Address { ifindex: 2, address, prefix_len: 32, state: AddressState::Ready, ours: true };
    let route = Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: Some("192.0.2.1".parse().unwrap()),
        ifindex: 2,
        metric: 0,
    };
    let addresses = (0..4).map(|n| address(source(n))).collect();
    world.apply(Observation::Host(Host { links: vec![link], addresses, routes: vec![route] }), at(0));
    world
}

fn signal(n: usize, to: u8, second: i64, sign: Sign) -> Signal {
    Signal { at: at(second), source: source(n), provider: "other".into(), destination: receiver(to), sign }
}

/// Sources 1 to 3 do well from a second on, for so many seconds.
fn siblings_do_well(world: &mut World, from: i64, seconds: i64) {
    for second in from..from + seconds {
        let n = 1 + usize::try_from(second % 3).unwrap();
        let to = u8::try_from(1 + second % 20).unwrap();
        world.apply(Observation::Traffic(vec![signal(n, to, second, Sign::Established)]), at(second));
    }
}

/// Lets time pass until a probe is due from a source, makes it, and lets it meet this; says when that was.
fn probe(world: &mut World, n: usize, from: i64, patience: i64, met: &Sign) -> Option<(i64, Vec<Event>)> {
    probe_among(world, n, (from, patience), met, false)
}

/// The same while siblings have traffic, or not.
fn probe_among(
    world: &mut World,
    n: usize,
    (from, patience): (i64, i64),
    met: &Sign,
    siblings: bool,
) -> Option<(i64, Vec<Event>)> {
    for second in from..from + patience {
        if siblings {
            siblings_do_well(world, second, 1);
        }
        world.apply(Observation::Tick, at(second));
        let wanted = world.probes(at(second)).into_iter().find(|probe| probe.source == source(n));
        let Some(wanted) = wanted else { continue };
        let begun = Observation::Probing { source: wanted.source, provider: wanted.provider };
        world.apply(begun, at(second));
        let met = Signal {
            at: at(second),
            source: wanted.source,
            provider: "other".into(),
            destination: wanted.destination,
            sign: met.clone(),
        };
        return Some((second, world.apply(Observation::Traffic(vec![met]), at(second))));
    }
    None
}

fn to(events: &[Event]) -> Vec<State> {
    let verdict = |event: &Event| match &event.kind {
        EventKind::Verdict { to, .. } => Some(to.clone()),
        _ => None,
    };
    events.iter().filter_map(verdict).collect()
}

fn failed() -> Sign {
    Sign::ProbeFailed { why: "no answer within 10 s".into() }
}

/// Source 0 is refused by three receivers while its siblings do well.
fn isolated() -> World {
    let mut world = world();
    siblings_do_well(&mut world, 0, 20);
    for to in 1..=3 {
        siblings_do_well(&mut world, 20 + i64::from(to), 3);
        let refused = signal(0, to, 20 + i64::from(to), Sign::Refused);
        world.apply(Observation::Traffic(vec![refused]), at(23 + i64::from(to)));
    }
    let is_isolated = |(local, _, verdict): (IpAddr, _, &mailsteer_core::decide::Verdict)| {
        local == source(0) && matches!(verdict.state, State::Isolated { .. })
    };
    assert!(world.verdicts().any(is_isolated));
    world
}

#[test]
fn two_good_probes_come_before_any_mail() {
    let mut world = isolated();
    assert_eq!(world.probes(at(100)), [], "isolated is isolated");
    let (first, events) = probe(&mut world, 0, 1_800, 100, &Sign::ProbeGreeted).unwrap();
    assert_eq!(to(&events), [], "one is not enough");
    assert_eq!(world.belief(source(0)).unwrap().1.portion(), 0);
    assert!(desired(&world, at(first)).next_deadline.is_some_and(|next| next <= at(first + 70)));
    let (second, events) = probe(&mut world, 0, first, 100, &Sign::ProbeGreeted).unwrap();
    assert!(second - first >= 60, "one a minute at most: {first} {second}");
    assert_eq!(to(&events)[0].step(), Some(10), "a little mail: {events:?}");
    let decision = desired(&world, at(second));
    let who = Who { uid: Some(1001), ..Who::default() };
    let answer = explain(&world, &decision.desired, &who, receiver(1));
    let why = answer.sources[0].why_not.clone().unwrap_or_default();
    assert!(why.contains("on its way back at other, 1 % of its share"), "{answer:?}");
    assert!(answer.sources[1].why_not.is_none() && answer.sources[0].share > 0, "{answer:?}");
    assert_eq!(probe(&mut world, 0, second + 1, 600, &failed()), None, "mail tells more");
}

#[test]
fn probes_that_fail_send_it_away_for_longer_and_one_alone_does_not() {
    let mut world = isolated();
    let (first, events) = probe(&mut world, 0, 1_800, 100, &failed()).unwrap();
    assert_eq!(to(&events), []);
    let (second, events) = probe(&mut world, 0, first, 100, &failed()).unwrap();
    let State::Isolated { until, .. } = &to(&events)[0] else { panic!("{events:?}") };
    assert_eq!(until.duration_since(at(second)), SignedDuration::from_hours(1), "twice as long");
}

#[test]
fn an_idle_source_whose_probes_fail_while_siblings_do_well_is_isolated() {
    let mut world = world();
    let mut now = 0;
    let mut verdicts = Vec::new();
    for n in 1..=3 {
        let patience = if n == 1 { 7_300 } else { 80 };
        let (second, events) = probe_among(&mut world, 0, (now, patience), &failed(), true).unwrap();
        now = second + 1;
        verdicts.extend(to(&events));
        assert_eq!(verdicts.iter().filter(|state| state.name() == "isolated").count(), usize::from(n == 3));
    }
    assert!(verdicts.last().is_some_and(|state| matches!(state, State::Isolated { .. })), "{verdicts:?}");
}

#[test]
fn an_idle_host_isolates_nobody_and_one_that_has_traffic_is_not_asked_after() {
    let mut alone = world();
    alone.apply(Observation::Traffic(vec![signal(1, 1, 0, Sign::Established)]), at(0));
    let mut now = 0;
    for _ in 0..6 {
        let Some((second, events)) = probe(&mut alone, 0, now, 7_300, &failed()) else { break };
        assert!(to(&events).iter().all(|state| state.name() != "isolated"), "{events:?}");
        now = second + 1;
    }
    assert!(now > 3_600, "it was asked after");
    let mut busy = world();
    siblings_do_well(&mut busy, 0, 8_000);
    assert!(busy.probes(at(8_000)).iter().all(|probe| probe.source == source(0)));
}
