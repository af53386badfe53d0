//! The preflight: who waits for it, who does not, and what it leads to.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::IpAddr;

use jiff::Timestamp;
use mailsteer_core::config::{Config, HostView, load};
use mailsteer_core::decide::{Command, Event, EventKind, Observation, Reason, World};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route, Sign, Signal};
use mailsteer_core::signal::port25::{Met, Try};

const OLD: &str = "192.0.2.11";
const NEW: &str = "198.51.100.11";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(addresses: &str) -> Config {
    let text = format!(
        "mode = \"enforce\"\n[preflight]\nreceivers = [\"mx1.example.net\", \"mx2.example.net\"]\n\
         [pool.main]\naddresses = [{addresses}]\n[stream.mail]\nuid = 1001\npool = \"main\"\n"
    );
    load("test", &text, &HostView::default()).config.unwrap()
}

fn host() -> Host {
    let link = Link { index: 2, name: "eth0".into(), up: true, loopback: false, point_to_point: false };
    let state = AddressState::Ready;
    let address = |text| Address { ifindex: 2, address: ip(text), prefix_len: 32, state, ours: true };
    let gateway = Some(ip("192.0.2.1"));
    let route = Route { destination: "0.0.0.0/0".parse().unwrap(), gateway, ifindex: 2, metric: 0 };
    Host { links: vec![link], addresses: [OLD, NEW].map(address).into(), routes: vec![route] }
}

fn begun(addresses: &str) -> World {
    let mut world = World::new(config(addresses), at(0));
    world.apply(Observation::Host(host()), at(0));
    world
}

/// An old source that worked, and then a new one beside it.
fn with_a_new_one() -> World {
    let mut world = begun(&format!("{OLD:?}"));
    stood(&mut world, OLD, 1);
    world.apply(Observation::Config(Box::new(config(&format!("{OLD:?}, {NEW:?}")))), at(10));
    world
}

fn stood(world: &mut World, from: &str, second: i64) {
    let (source, destination) = (ip(from), ip("20.0.0.1"));
    let sign = Sign::Established;
    let signal = Signal { at: at(second), source, provider: "other".into(), destination, sign };
    world.apply(Observation::Traffic(vec![signal]), at(second));
}

fn wanted(world: &World, second: i64) -> Vec<IpAddr> {
    world.preflights(at(second)).into_iter().map(|wanted| wanted.source).collect()
}

fn tries(met: &Met, elsewhere: Option<u16>) -> Vec<Try> {
    ["20.0.1.1", "20.0.1.2"].map(|to| Try { receiver: ip(to), met: met.clone(), elsewhere }).into()
}

fn tried(world: &mut World, second: i64, met: &Met, elsewhere: Option<u16>) -> Vec<Event> {
    assert_eq!(wanted(world, second), [ip(NEW)]);
    world.apply(Observation::Trying { source: ip(NEW) }, at(second));
    assert!(wanted(world, second).is_empty(), "one round at a time");
    world.apply(Observation::Tried { source: ip(NEW), tries: tries(met, elsewhere) }, at(second + 1))
}

fn tick(world: &mut World, second: i64) {
    world.apply(Observation::Tick, at(second));
}

fn stands(world: &World) -> Option<&Reason> {
    world.ineligible(ip(NEW))
}

fn says(events: &[Event], what: fn(&EventKind) -> bool) -> bool {
    events.iter().any(|event| what(&event.kind))
}

#[test]
fn a_new_source_beside_one_that_worked_waits_until_it_has_passed() {
    let mut world = with_a_new_one();
    assert_eq!(stands(&world), Some(&Reason::Untried));
    assert_eq!(world.ineligible(ip(OLD)), None);
    let events = tried(&mut world, 11, &Met::Greeting, None);
    assert!(says(&events, |kind| matches!(kind, EventKind::SourceEligible { .. })), "{events:?}");
    assert_eq!(stands(&world), None);
    assert!(wanted(&world, 100_000).is_empty(), "once is enough");
}

#[test]
fn where_nobody_ever_worked_nobody_waits() {
    let mut world = begun(&format!("{OLD:?}, {NEW:?}"));
    assert_eq!((world.ineligible(ip(OLD)), stands(&world)), (None, None));
    assert_eq!(wanted(&world, 0), [ip(OLD), ip(NEW)], "they are tried all the same");
    stood(&mut world, OLD, 5);
    tick(&mut world, 6);
    assert_eq!(stands(&world), None, "and none falls out because another was first");
}

#[test]
fn dead_receivers_are_no_evidence_and_nobody_waits_for_them_for_ever() {
    let mut world = with_a_new_one();
    tried(&mut world, 11, &Met::Silence, None);
    assert_eq!(stands(&world), Some(&Reason::Untried));
    assert!(wanted(&world, 41).is_empty());
    tried(&mut world, 42, &Met::Silence, None);
    assert_eq!(world.next_preflight(), Some(at(73)));
    tick(&mut world, 609);
    assert_eq!(stands(&world), Some(&Reason::Untried));
    tick(&mut world, 610);
    assert_eq!(stands(&world), None);
}

#[test]
fn a_block_that_is_seen_twice_takes_the_source_out_until_the_port_is_open() {
    let mut world = with_a_new_one();
    let blocked = |kind: &EventKind| matches!(kind, EventKind::Port25Blocked { .. });
    let once = tried(&mut world, 11, &Met::Silence, Some(587));
    assert!(!says(&once, blocked) && stands(&world) == Some(&Reason::Untried), "once is an accident");
    let twice = tried(&mut world, 42, &Met::Silence, Some(587));
    assert!(says(&twice, blocked), "{twice:?}");
    assert!(matches!(stands(&world), Some(Reason::PortBlocked { .. })));
    let again = tried(&mut world, 643, &Met::Silence, None);
    assert!(!says(&again, blocked), "said once");
    assert!(matches!(stands(&world), Some(Reason::PortBlocked { .. })));
    let open = tried(&mut world, 674, &Met::Greeting, None);
    assert!(says(&open, |kind| matches!(kind, EventKind::Port25Open { .. })), "{open:?}");
    assert_eq!(stands(&world), None);
}

#[test]
fn what_the_receivers_say_to_others_tells_a_dead_receiver_from_a_dead_source() {
    let mut world = begun(&format!("{OLD:?}, {NEW:?}"));
    world.apply(Observation::Tried { source: ip(OLD), tries: tries(&Met::Greeting, None) }, at(1));
    tried(&mut world, 2, &Met::Silence, None);
    assert_eq!(stands(&world), None, "once is an accident");
    tried(&mut world, 33, &Met::Silence, None);
    assert!(matches!(stands(&world), Some(Reason::PortBlocked { .. })));
}

#[test]
fn mail_that_comes_through_says_more_than_any_try() {
    let mut world = begun(&format!("{OLD:?}, {NEW:?}"));
    stood(&mut world, OLD, 1);
    stood(&mut world, NEW, 1);
    for second in [2, 3, 4] {
        world.apply(
            Observation::Tried { source: ip(NEW), tries: tries(&Met::Silence, Some(587)) },
            at(second),
        );
    }
    assert_eq!(stands(&world), None);
}

#[test]
fn the_operator_knows_better() {
    let mut world = with_a_new_one();
    let resume = Command::Resume { source: NEW.into(), reason: "it works".into() };
    world.command(resume.clone(), at(12)).unwrap();
    assert_eq!(stands(&world), None);
    assert!(world.command(resume, at(13)).is_err(), "there is nothing left to resume");
}

#[test]
fn what_passed_has_passed_after_a_restart_too() {
    let mut world = with_a_new_one();
    tried(&mut world, 11, &Met::Greeting, None);
    let kept = serde_json::to_string(&world.beliefs()).unwrap();
    let mut world = World::new(config(&format!("{OLD:?}, {NEW:?}")), at(20));
    world.restore_beliefs(serde_json::from_str(&kept).unwrap());
    world.apply(Observation::Host(host()), at(20));
    assert_eq!(stands(&world), None);
    assert!(wanted(&world, 30).is_empty());
}

#[test]
fn a_clock_that_is_set_neither_hastens_nor_delays_it() {
    let mut world = with_a_new_one();
    tried(&mut world, 11, &Met::Silence, None);
    let by = jiff::SignedDuration::from_hours(1);
    world.apply(Observation::ClockJumped { by }, at(3_620));
    assert_eq!(stands(&world), Some(&Reason::Untried));
    assert!(wanted(&world, 3_641).is_empty());
    assert_eq!(wanted(&world, 3_642), [ip(NEW)]);
}
