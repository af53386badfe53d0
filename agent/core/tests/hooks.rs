//! Which hook is told of which event, and how often.
#![expect(clippy::unwrap_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::config::{Config, HostView, load};
use mailsteer_core::decide::EventKind;
use mailsteer_core::hook::Hooks;
use mailsteer_core::signal::lists::Action;
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn config(text: &str) -> Config {
    let checked = load("test.toml", text, &HostView::default());
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    checked.config.unwrap()
}

fn hooks(text: &str) -> Hooks {
    let mut hooks = Hooks::default();
    hooks.set(&config(text).hooks);
    hooks
}

fn listed(source: &str) -> EventKind {
    EventKind::Listed {
        source: source.to_owned(),
        address: "203.0.113.1".parse().unwrap(),
        list: "zen".to_owned(),
        meaning: "SBL".to_owned(),
        action: Action::Isolate,
    }
}

fn delisted(source: &str) -> EventKind {
    EventKind::Delisted {
        source: source.to_owned(),
        address: "203.0.113.1".parse().unwrap(),
        list: "zen".to_owned(),
    }
}

const TWO: &str = "[hook.pager]\nurl = \"https://pager.example.com/\"\n[hook.log]\ncommand = [\"/bin/log\", \"-x\"]\n\
                   events = [\"listed\", \"delisted\"]\nrepeat_minutes = 0\n";

#[test]
fn trouble_goes_to_who_asked_for_nothing_special_and_the_rest_to_who_asked_for_it() {
    let mut hooks = hooks(TWO);
    let to = |event: &EventKind, hooks: &mut Hooks| {
        hooks.route(event, at(0)).to.iter().map(|(place, _)| *place).collect::<Vec<_>>()
    };
    assert_eq!(to(&listed("a"), &mut hooks), [0, 1]);
    assert_eq!(to(&delisted("a"), &mut hooks), [1], "an end is no trouble");
    assert_eq!(to(&EventKind::ConfigRefused { errors: 1 }, &mut hooks), [0]);
    assert_eq!(to(&EventKind::StateRecovered, &mut hooks), [0usize; 0]);
}

#[test]
fn the_same_is_told_once_in_a_while_and_the_next_says_how_many_were_left_out() {
    let mut hooks = hooks(TWO);
    assert_eq!(hooks.route(&listed("a"), at(0)).to, [(0, 0), (1, 0)]);
    for second in [1, 300, 599] {
        let routed = hooks.route(&listed("a"), at(second));
        assert_eq!((routed.to, routed.left_out), (vec![(1, 0)], vec![0]), "{second}");
    }
    assert_eq!(hooks.route(&listed("b"), at(599)).to, [(0, 0), (1, 0)], "another subject");
    assert_eq!(hooks.route(&listed("a"), at(600)).to, [(0, 3), (1, 0)]);
    assert_eq!(hooks.route(&listed("a"), at(601)).to, [(1, 0)]);
}

#[test]
fn a_config_that_keeps_a_hook_keeps_what_it_was_told() {
    let mut hooks = hooks(TWO);
    hooks.route(&listed("a"), at(0));
    hooks.set(
        &config(
            "[hook.new]\nurl = \"http://127.0.0.1/\"\n[hook.pager]\nurl = \"https://pager.example.com/\"\n",
        )
        .hooks,
    );
    let routed = hooks.route(&listed("a"), at(5));
    assert_eq!((routed.to, routed.left_out), (vec![(0, 0)], vec![1]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes when: every event is told or counted as left out, never both, and of one thing never two within the time.
    #[test]
    fn nothing_is_lost_and_nothing_told_twice(steps in prop::collection::vec((0..2_000i64, 0..6_000u32), 1..300)) {
        let mut hooks = hooks("[hook.h]\nurl = \"https://h.example/\"\n");
        let (mut now, mut last) = (0, BTreeMap::<u32, i64>::new());
        let (mut told, mut left_out, mut said) = (0u64, 0u64, 0u64);
        for (wait, subject) in &steps {
            now += wait;
            let routed = hooks.route(&listed(&(subject % 3).to_string()), at(now));
            prop_assert_eq!(routed.to.len() + routed.left_out.len(), 1);
            if let [(0, before)] = routed.to[..] {
                told += 1;
                said += before;
                let earlier = last.insert(subject % 3, now);
                prop_assert!(earlier.is_none_or(|earlier| now - earlier >= SignedDuration::from_mins(10).as_secs()));
            } else {
                left_out += 1;
            }
        }
        prop_assert_eq!(told + left_out, steps.len() as u64);
        prop_assert!(said <= left_out);
    }
}

#[test]
fn a_flood_of_subjects_is_told_rather_than_kept_back() {
    let mut hooks = hooks("[hook.h]\nurl = \"https://h.example/\"\n");
    for n in 0..5_000 {
        assert_eq!(hooks.route(&listed(&n.to_string()), at(0)).to, [(0, 0)], "{n}");
    }
}
