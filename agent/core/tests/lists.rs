//! DNS lists that lie, die and come back: what must never be taken for a listing, and how soon a true one is.

#![expect(clippy::unwrap_used, reason = "helpers of tests stop at what should not happen")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::signal::lists::{
    Action, Answer, DEFAULT, List, ListEvent, ListTable, Lists, Pace, Query, Reading, What,
};
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn table() -> ListTable {
    let checked = ListTable::load("config/lists.toml", DEFAULT);
    assert!(checked.problems.is_empty(), "{:#?}", checked.problems);
    checked.table.unwrap()
}

fn list(name: &str) -> List {
    table().lists.into_iter().find(|list| list.name == name).unwrap()
}

fn code(text: &str) -> Answer {
    Answer::Addresses(vec![text.parse().unwrap()])
}

/// What a list answers at a time.
type Behaviour = dyn Fn(&Query, i64) -> Answer;

fn honest(listed: Option<i64>, until: i64) -> impl Fn(&Query, i64) -> Answer {
    move |query, second| match query.what {
        What::Test(true) => code("127.0.0.2"),
        What::Test(false) => Answer::NoSuchName,
        What::Address(address) => {
            let on = listed.is_some_and(|from| second >= from && second < until);
            if on && address == IpAddr::from([192, 0, 2, 1]) { code("127.0.0.2") } else { Answer::NoSuchName }
        }
    }
}

const PACE: Pace = Pace { interval: SignedDuration::from_mins(10), per_minute: 600 };

fn addresses(count: u8) -> BTreeSet<IpAddr> {
    (1..=count).map(|n| IpAddr::from([192, 0, 2, n])).collect()
}

/// Runs for as long, answering at once; every event with its second.
fn run(lists: Vec<List>, count: u8, seed: u64, behaviour: &Behaviour, seconds: i64) -> Vec<(i64, ListEvent)> {
    let mut machine = Lists::new(lists, addresses(count), [], PACE, (seed, at(0)));
    let mut events = vec![];
    let mut second = 0;
    while second < seconds {
        for query in machine.due(at(second)) {
            let answer = behaviour(&query, second);
            let reason = query.reason.then(|| "words".to_owned());
            events.extend(
                machine
                    .answered(&query, &answer, reason, at(second))
                    .into_iter()
                    .map(|event| (second, event)),
            );
        }
        assert!(machine.next_deadline().is_some(), "it would never ask again");
        second += 1;
    }
    events
}

fn listings(events: &[(i64, ListEvent)]) -> Vec<i64> {
    let listed = events.iter().filter(|(_, event)| matches!(event, ListEvent::Listed { .. }));
    listed.map(|(second, _)| *second).collect()
}

#[test]
fn a_true_listing_is_found_within_an_interval_and_35_s_and_cleared_after_three_clean_cycles() {
    for seed in 0..200 {
        let from = 700 + i64::try_from(seed).unwrap() * 7;
        let events = run(vec![list("zen.spamhaus.org")], 40, seed, &honest(Some(from), from + 3_000), 9_000);
        let found = listings(&events);
        assert_eq!(found.len(), 1, "{events:?}");
        assert!(
            found[0] >= from + 30 && found[0] <= from + 600 + 35,
            "listed at {from}, found at {}",
            found[0]
        );
        let cleared = events.iter().find(|(_, event)| matches!(event, ListEvent::Cleared { .. })).unwrap().0;
        assert!(cleared >= from + 3_000 + 2 * 540 && cleared <= from + 3_000 + 3 * 600 + 10, "{cleared}");
        let reason = events.iter().any(|(_, event)| {
            matches!(event, ListEvent::Listed { reason: Some(_), action: Action::Isolate, .. })
        });
        assert!(reason, "{events:?}");
    }
}

/// Each with what it says, and the words that the operator reads.
#[test]
fn lists_that_lie_list_nobody_and_are_set_aside_with_what_to_do() {
    let cases: [(&str, &str, Box<Behaviour>); 9] = [
        ("open resolver", "name a resolver of your own", Box::new(|_, _| code("127.255.255.254"))),
        ("quota", "too many queries", Box::new(|_, _| code("127.255.255.255"))),
        ("SERVFAIL", "SERVFAIL", Box::new(|_, _| Answer::Failed("SERVFAIL".to_owned()))),
        ("time-out", "no answer", Box::new(|_, _| Answer::Failed("no answer in 5 s".to_owned()))),
        ("wildcard", "lists everything", Box::new(|_, _| code("127.0.0.2"))),
        ("rewritten NXDOMAIN", "answers anything", Box::new(|_, _| code("203.0.113.80"))),
        ("127.0.0.1", "never a listing", Box::new(|_, _| code("127.0.0.1"))),
        ("gone", "does not list its test point", Box::new(|_, _| Answer::NoSuchName)),
        ("unknown code", "not in the table", Box::new(|_, _| code("127.0.0.77"))),
    ];
    for (case, words, behaviour) in cases {
        let events = run(vec![list("zen.spamhaus.org")], 5, 1, &behaviour, 4_000);
        assert!(listings(&events).is_empty(), "{case}: {events:?}");
        let [(_, ListEvent::SetAside { why, .. })] = events.as_slice() else { panic!("{case}: {events:?}") };
        assert!(why.contains(words), "{case}: {why}");
    }
}

/// Test points right, addresses wrong: only part of the resolver's answers is rewritten, or the quota ends in mid-round.
#[test]
fn what_an_address_gets_is_read_as_strictly() {
    for (lie, words) in [
        (code("127.0.0.1"), "never a listing"),
        (code("127.255.255.255"), "too many queries"),
        (code("198.51.100.1"), "answers anything"),
        (Answer::Failed("SERVFAIL".to_owned()), "SERVFAIL"),
        (
            Answer::Addresses(vec!["127.0.0.2".parse().unwrap(), "127.255.255.254".parse().unwrap()]),
            "resolver",
        ),
        (Answer::Addresses(vec!["::1".parse().unwrap()]), "no code"),
    ] {
        let good = honest(None, 0);
        let behaviour = move |query: &Query, second| match query.what {
            What::Address(_) => lie.clone(),
            What::Test(_) => good(query, second),
        };
        let events = run(vec![list("zen.spamhaus.org")], 5, 3, &behaviour, 4_000);
        let [(_, ListEvent::Unknown { why, .. })] = events.as_slice() else { panic!("{events:?}") };
        assert!(why.contains(words), "{why}");
    }
}

/// It dies between its test points and the addresses: the confirmation asks the test points again.
#[test]
fn a_list_that_dies_in_mid_round_lists_nobody() {
    let (good, dead) = (honest(None, 0), std::cell::Cell::new(false));
    let behaviour = move |query: &Query, second: i64| {
        if second >= 500 && matches!(query.what, What::Address(_)) {
            dead.set(true);
        }
        if dead.get() { code("127.0.0.2") } else { good(query, second) }
    };
    let events = run(vec![list("zen.spamhaus.org")], 5, 3, &behaviour, 6_000);
    assert!(listings(&events).is_empty(), "{events:?}");
    assert!(events.iter().any(|(_, event)| matches!(event, ListEvent::SetAside { .. })), "{events:?}");
}

#[test]
fn a_list_comes_back_after_two_good_rounds() {
    let good = honest(Some(0), i64::MAX);
    let behaviour = move |query: &Query, second| {
        if second < 1_000 { Answer::Failed("SERVFAIL".to_owned()) } else { good(query, second) }
    };
    let events = run(vec![list("zen.spamhaus.org")], 2, 5, &behaviour, 6_000);
    let kinds: Vec<&ListEvent> = events.iter().map(|(_, event)| event).collect();
    let [ListEvent::SetAside { .. }, ListEvent::Back { .. }, ListEvent::Listed { .. }] = kinds.as_slice()
    else {
        panic!("{events:?}")
    };
    assert!(events[1].0 >= 1_000 + 540, "{events:?}");
}

#[test]
fn the_budget_holds_and_a_round_ends() {
    let pace = Pace { interval: SignedDuration::from_mins(1), per_minute: 60 };
    let mut machine = Lists::new(table().defaults(), addresses(200), [], pace, (9, at(0)));
    let (mut asked, behaviour) = (vec![], honest(None, 0));
    for second in 0..3_600 {
        let due = machine.due(at(second));
        asked.push(due.len());
        for query in due {
            machine.answered(&query, &behaviour(&query, second), None, at(second));
        }
    }
    let most = asked.windows(60).map(|minute| minute.iter().sum::<usize>()).max().unwrap();
    assert!(most <= 62, "{most} queries in a minute");
    assert!(asked.iter().sum::<usize>() > 3_500, "the budget is used");
}

#[test]
fn policy_listings_warn_and_allow_lists_say_nothing() {
    let zen = list("zen.spamhaus.org");
    assert!(matches!(zen.read(&code("127.0.0.11")), Reading::Listed { action: Action::Warn, .. }));
    let two = Answer::Addresses(vec![Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::new(127, 0, 0, 9).into()]);
    let Reading::Listed { meaning, action: Action::Isolate } = zen.read(&two) else { panic!() };
    assert!(meaning.contains("SBL") && meaning.contains("DROP"), "{meaning}");
    assert_eq!(list("score.senderscore.com").read(&code("127.0.4.88")), Reading::Score(88));
    let allowed = |query: &Query, _| match query.what {
        What::Test(false) => Answer::NoSuchName,
        _ => code("127.0.10.2"),
    };
    assert!(run(vec![list("list.dnswl.org")], 2, 1, &allowed, 2_000).is_empty());
}

#[test]
fn a_key_stands_in_the_zone_and_what_is_wrong_with_a_table_is_said_at_its_place() {
    let dqs = list("zen.dq.spamhaus.net");
    assert!(dqs.wants_key());
    assert_eq!(dqs.with_key("abc").zone, "abc.zen.dq.spamhaus.net");
    let wrong = table().find("zen.spamhaus.com").unwrap_err();
    assert!(wrong.contains("zen.spamhaus.org"), "{wrong:?}");
    let text = "[list.a]\nfoo = 1\nchecked = '2026-11'\nsource = 's'\n[list.a.code]\n'10.0.0.2' = { meaning = 'x', action = 'isolate' }\n'127.0.0.2' = { meaning = 'x' }\n'127.0.0.3' = { meaning = 'x', action = 'kill' }\n[list.b]\nchecked = '2026'\n";
    let checked = ListTable::load("mine.toml", text);
    let found: Vec<_> =
        checked.problems.iter().map(|problem| (problem.code, problem.labels[0].line)).collect();
    let wanted = [
        ("unknown-key", 2),
        ("code-invalid", 6),
        ("missing-key", 7),
        ("unknown-value", 8),
        ("missing-key", 9),
        ("missing-key", 9),
        ("month-invalid", 10),
    ];
    assert_eq!(found, wanted);
    assert!(table().stale(jiff::civil::date(2026, 11, 25)).is_empty());
    assert!(!table().stale(jiff::civil::date(2028, 1, 1)).is_empty());
}

/// An address whose registration only was amiss begins to send spam, and later only the registration is left.
#[test]
fn a_listing_that_gets_worse_isolates_and_one_that_gets_better_clears() {
    let behaviour = |query: &Query, second: i64| match query.what {
        What::Test(true) => code("127.0.0.2"),
        What::Test(false) => Answer::NoSuchName,
        What::Address(address) if address != IpAddr::from([192, 0, 2, 1]) => Answer::NoSuchName,
        What::Address(_) => {
            let policy = "127.0.0.11".parse().unwrap();
            let both = vec![policy, "127.0.0.2".parse().unwrap()];
            Answer::Addresses(if (2_000..5_000).contains(&second) { both } else { vec![policy] })
        }
    };
    let events = run(vec![list("zen.spamhaus.org")], 3, 5, &behaviour, 9_000);
    let kinds: Vec<(&str, Option<Action>)> = events
        .iter()
        .map(|(_, event)| match event {
            ListEvent::Listed { action, .. } => ("listed", Some(*action)),
            ListEvent::Cleared { .. } => ("cleared", None),
            _ => ("other", None),
        })
        .collect();
    let wanted = [
        ("listed", Some(Action::Warn)),
        ("listed", Some(Action::Isolate)),
        ("cleared", None),
        ("listed", Some(Action::Warn)),
    ];
    assert_eq!(kinds, wanted, "{events:?}");
    assert!(events[1].0 >= 2_030 && events[1].0 <= 2_635, "{events:?}");
}

/// Some addresses time out and others are clean, round after round: that is said once.
#[test]
fn answers_that_say_nothing_now_and_then_are_said_once() {
    let good = honest(None, 0);
    let behaviour = move |query: &Query, second: i64| match query.what {
        What::Address(IpAddr::V4(address)) if address.octets()[3] % 2 == 0 => {
            Answer::Failed("time-out".to_owned())
        }
        _ => good(query, second),
    };
    let events = run(vec![list("zen.spamhaus.org")], 8, 5, &behaviour, 9_000);
    assert_eq!(events.len(), 1, "{events:?}");
}

/// An address leaves the config while it is asked: nothing of it is kept.
#[test]
fn what_is_watched_no_more_is_forgotten_whatever_is_still_answered() {
    let mut machine = Lists::new(vec![list("zen.spamhaus.org")], addresses(2), [], PACE, (1, at(0)));
    let mut asked = vec![];
    for second in 0..60 {
        for query in machine.due(at(second)) {
            match query.what {
                What::Address(_) => asked.push(query),
                What::Test(listed) => {
                    let answer = if listed { code("127.0.0.2") } else { Answer::NoSuchName };
                    machine.answered(&query, &answer, None, at(second));
                }
            }
        }
    }
    assert_eq!(asked.len(), 2);
    machine.watch(BTreeSet::new());
    for query in asked {
        assert!(machine.answered(&query, &code("127.0.0.2"), None, at(61)).is_empty());
    }
    assert!(
        machine.due(at(200)).iter().all(|query| matches!(query.what, What::Test(_))),
        "nobody is confirmed"
    );
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::NoSuchName),
        any::<u32>().prop_map(|bits| Answer::Addresses(vec![Ipv4Addr::from(bits).into()])),
        any::<u8>().prop_map(|last| Answer::Addresses(vec![Ipv4Addr::new(127, 255, 255, last).into()])),
        "[a-z]{1,8}".prop_map(Answer::Failed),
    ]
}

proptest! {
    /// Whoever answers at random, with every test point wrong in some round before a listing could be confirmed, lists nobody;
    /// and what is kept does not grow.
    #[test]
    fn a_list_whose_test_points_are_wrong_lists_nobody(answers in prop::collection::vec(any_answer(), 1..40), seed: u64) {
        let behaviour = move |query: &Query, second: i64| match query.what {
            What::Test(false) => code("127.0.0.2"),
            _ => answers[usize::try_from(second).unwrap() % answers.len()].clone(),
        };
        let events = run(vec![list("zen.spamhaus.org")], 3, seed, &behaviour, 4_000);
        prop_assert!(listings(&events).is_empty());
    }
}
