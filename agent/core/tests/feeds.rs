//! What feeds may do: hold a return, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::{HostView, load};
use mailsteer_core::decide::{Command, Event, EventKind, Observation, State, World, desired};
use mailsteer_core::model::{Address, AddressState, Host, Link, Route};
use mailsteer_core::signal::feeds::{FeedEvent, Opinion, Reading};
use mailsteer_core::signal::lists::{Action, ListEvent};
use proptest::prelude::*;

const CONFIG: &str = "mode = \"enforce\"\n[lists]\nresolver = \"127.0.0.1\"\nnames = \"zen.spamhaus.org\"\n\
    [pool.main]\naddresses = [\"203.0.113.10\", \"203.0.113.11\", \"198.51.100.10\", \"198.51.100.11\"]\n\
    [stream.main]\nuid = 1000\npool = \"main\"\n\
    [feed.score]\nkind = \"json\"\nurl = \"https://h.example/{address}\"\npointer = \"/score\"\ngood = 80\nbad = 50\n";
const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn address(last: u8) -> IpAddr {
    [203, 0, 113, last].into()
}

fn world(more: &str) -> World {
    let checked = load("test.toml", &format!("{CONFIG}{more}"), &HostView::default());
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let mut world = World::new(checked.config.unwrap(), at(0));
    world.apply(Observation::Host(host()), at(0));
    world
}

/// All addresses are there, and a way out.
fn host() -> Host {
    let link = Link { index: 2, name: "eth0".into(), up: true, loopback: false, point_to_point: false };
    let on = |address: &str| Address {
        ifindex: 2,
        address: address.parse().unwrap(),
        prefix_len: 32,
        state: AddressState::Ready,
        ours: true,
    };
    let gateway = Some("203.0.113.1".parse().unwrap());
    let route = Route { destination: "0.0.0.0/0".parse().unwrap(), gateway, ifindex: 2, metric: 0 };
    let addresses = ["203.0.113.10", "203.0.113.11", "198.51.100.10", "198.51.100.11"];
    Host { links: vec![link], addresses: addresses.map(on).to_vec(), routes: vec![route] }
}

fn said(opinion: Opinion, of: i64) -> Observation {
    let reading = Reading { address: address(10), at: at(of), opinion, words: format!("{opinion:?}") };
    Observation::Feeds(vec![FeedEvent::Read { feed: "score".to_owned(), readings: vec![reading] }])
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name()).collect()
}

fn state(world: &World) -> &'static str {
    world.belief(address(10)).map_or("healthy", |(_, verdict)| verdict.state.name())
}

/// Isolated everywhere by a list, and off it again a minute later: nothing but a feed keeps it.
fn listed_and_cleared(world: &mut World, from: i64) -> Vec<Event> {
    let list = "zen.spamhaus.org".to_owned();
    let (meaning, action) = ("SBL".to_owned(), Action::Isolate);
    let listed =
        ListEvent::Listed { list: list.clone(), address: address(10), meaning, action, reason: None };
    world.apply(Observation::Lists(vec![listed]), at(from));
    assert_eq!(state(world), "isolated");
    world.apply(Observation::Lists(vec![ListEvent::Cleared { list, address: address(10) }]), at(from + 60))
}

#[test]
fn a_bad_word_of_a_healthy_source_is_said_once_and_moves_nothing() {
    let mut world = world("");
    let before = desired(&world, at(10)).desired;
    assert!(!before.lanes.is_empty() && before.armed, "something is steered");
    let events = world.apply(said(Opinion::Bad, 0), at(10));
    assert_eq!(names(&events), ["feed-bad"]);
    assert!(events[0].kind.is_alarm());
    let words = events[0].kind.to_string();
    assert_eq!(
        words,
        "score says of main-1 (203.0.113.10) as of 2027-01-15: Bad; no share moves for that, and isolated it would not come \
         back yet"
    );
    assert_eq!((world.verdicts().count(), world.bad_words().count()), (0, 1));
    assert_eq!(desired(&world, at(10)).desired, before);
    assert_eq!(names(&world.apply(said(Opinion::Bad, 5), at(20))), [""; 0], "it is known");
    assert_eq!(names(&world.apply(said(Opinion::Good, 6), at(30))), ["feed-better"]);
    assert_eq!(world.bad_words().count(), 0);
}

#[test]
fn who_is_isolated_does_not_come_back_while_the_word_is_bad_and_fresh() {
    let mut world = world("");
    world.apply(said(Opinion::Bad, -DAY), at(0));
    let events = listed_and_cleared(&mut world, 100);
    assert_eq!(names(&events), ["delisted", "return-held"]);
    assert_eq!(state(&world), "isolated");
    // It is looked at again, and said no second time.
    for hour in 1..=47 {
        let due = desired(&world, at(161 + (hour - 1) * 3_600)).next_deadline;
        assert!(due.is_some_and(|due| due <= at(160 + hour * 3_600)), "hour {hour}: {due:?}");
        assert_eq!(names(&world.apply(Observation::Tick, at(160 + hour * 3_600))), [""; 0], "hour {hour}");
        assert_eq!(state(&world), "isolated");
    }
    // Three days after what it is about it counts no more.
    world.apply(Observation::Tick, at(2 * DAY));
    assert_eq!((state(&world), world.bad_words().count()), ("probation", 0));
}

#[test]
fn a_better_word_lets_it_begin_its_way_back_at_once() {
    let mut world = world("");
    world.apply(said(Opinion::Bad, 0), at(0));
    listed_and_cleared(&mut world, 100);
    assert_eq!(state(&world), "isolated");
    let events = world.apply(said(Opinion::Middling, 150), at(200));
    assert_eq!(names(&events), ["feed-better", "verdict"]);
    assert_eq!(state(&world), "probation");
}

#[test]
fn what_is_not_known_holds_nobody() {
    let unknown: [Option<Observation>; 5] = [
        None,
        Some(Observation::Feeds(vec![FeedEvent::Failed { feed: "score".into(), why: "no answer".into() }])),
        Some(said(Opinion::Middling, 0)),
        // Too old, and of a feed that nobody reads.
        Some(said(Opinion::Bad, -3 * DAY)),
        Some(Observation::Feeds(vec![FeedEvent::Read {
            feed: "other".into(),
            readings: vec![Reading {
                address: address(10),
                at: at(0),
                opinion: Opinion::Bad,
                words: "x".into(),
            }],
        }])),
    ];
    for one in unknown {
        let mut world = world("");
        if let Some(one) = one.clone() {
            world.apply(one, at(0));
        }
        listed_and_cleared(&mut world, 100);
        assert_eq!(state(&world), "probation", "{one:?}");
    }
}

#[test]
fn an_opinion_of_one_provider_holds_no_return_elsewhere() {
    let more = "provider = \"big\"\n[provider.big]\nnetworks = \"192.0.2.0/24\"\n";
    let mut world = world(more);
    world.apply(said(Opinion::Bad, 0), at(0));
    listed_and_cleared(&mut world, 100);
    assert_eq!(state(&world), "probation", "it was isolated everywhere, not there");
}

#[test]
fn the_operator_is_not_held_and_a_word_of_tomorrow_is_one_of_now() {
    let mut world = world("");
    world.apply(said(Opinion::Bad, 100 * DAY), at(0));
    listed_and_cleared(&mut world, 100);
    assert_eq!(state(&world), "isolated");
    let resume = Command::Resume { source: "main-1".into(), reason: "mended".into() };
    world.command(resume, at(300)).unwrap();
    assert_eq!(state(&world), "healthy");
    let mut other = self::world("");
    other.apply(said(Opinion::Bad, 100 * DAY), at(0));
    listed_and_cleared(&mut other, 100);
    other.apply(Observation::Tick, at(3 * DAY + 1));
    assert_eq!(state(&other), "probation", "it would have held for a hundred days");
}

#[test]
fn a_restart_forgets_neither_the_word_nor_that_it_holds() {
    let mut world = world("");
    world.apply(said(Opinion::Bad, 0), at(0));
    listed_and_cleared(&mut world, 100);
    let kept = serde_json::to_string(&world.beliefs()).unwrap();
    let mut next = self::world("");
    next.restore_beliefs(serde_json::from_str(&kept).unwrap());
    // What a kept isolation says of lists holds until they are asked again.
    let cleared = ListEvent::Cleared { list: "zen.spamhaus.org".into(), address: address(10) };
    next.apply(Observation::Lists(vec![cleared]), at(DAY));
    assert_eq!(state(&next), "isolated");
    next.apply(Observation::Tick, at(3 * DAY));
    assert_eq!(state(&next), "probation");
}

fn event() -> impl Strategy<Value = FeedEvent> {
    let opinion = prop::sample::select(vec![Opinion::Good, Opinion::Middling, Opinion::Bad]);
    let reading = (8..14u8, -5 * DAY..5 * DAY, opinion).prop_map(|(last, of, opinion)| Reading {
        address: address(last),
        at: at(of),
        opinion,
        words: "x".to_owned(),
    });
    prop_oneof![
        4 => prop::collection::vec(reading, 0..4)
            .prop_map(|readings| FeedEvent::Read { feed: "score".to_owned(), readings }),
        1 => Just(FeedEvent::Failed { feed: "score".to_owned(), why: "no answer".to_owned() }),
        1 => Just(FeedEvent::Back { feed: "score".to_owned() }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever feeds say: nobody is isolated for it, and nothing moves.
    #[test]
    fn no_word_of_a_feed_moves_anything(all in prop::collection::vec((event(), 1..DAY), 1..30)) {
        let mut world = world("");
        let before = desired(&world, at(0)).desired;
        let mut now = 0;
        for (one, wait) in all {
            now += wait;
            world.apply(Observation::Feeds(vec![one]), at(now));
            prop_assert_eq!(world.verdicts().count(), 0);
            prop_assert_eq!(&desired(&world, at(now)).desired, &before);
        }
    }

    /// Whatever feeds say: an isolation that is over is held for the days that a word counts, at most.
    #[test]
    fn nobody_is_held_for_longer_than_a_word_counts(all in prop::collection::vec(event(), 1..10)) {
        let mut world = world("");
        listed_and_cleared(&mut world, 0);
        world.apply(Observation::Feeds(all), at(61));
        listed_and_cleared(&mut world, 100);
        world.apply(Observation::Tick, at(160) + SignedDuration::from_hours(72));
        let isolated = world.verdicts().any(|(_, _, verdict)| matches!(verdict.state, State::Isolated { .. }));
        prop_assert!(!isolated);
    }
}

/// A word for each kind, so that none is without.
#[test]
fn what_is_told_is_a_sentence() {
    let held = EventKind::ReturnHeld {
        source: "main-1".into(),
        address: address(10),
        provider: "*".into(),
        feed: "snds".into(),
        words: "RED".into(),
        until: at(0),
    };
    assert_eq!(
        held.to_string(),
        "main-1 (203.0.113.10) stays isolated at every provider: snds says RED of it; until a better word, or \
         2027-01-15T08:00:00Z, or `mailsteer resume main-1`"
    );
    let failed = EventKind::FeedFailed { feed: "snds".into(), why: "no answer".into() };
    assert_eq!(failed.to_string(), "snds cannot be read, and nothing is done: no answer");
}
