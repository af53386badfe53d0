//! When a check counts as changed.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use mailsteer_core::signal::dns::{Check, DnsEvent, Outcome, Report, Subject, Watch};
use proptest::prelude::*;

use super::world::{good, report};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn address() -> IpAddr {
    "192.0.2.11".parse().unwrap()
}

/// The good world with the SPF check of one source so.
fn with(outcome: Outcome) -> Report {
    let mut report = report(&good());
    for checked in report.sources[0].checks.iter_mut().filter(|one| one.check == Check::Spf) {
        checked.outcome = outcome;
        checked.what = "the reason".into();
    }
    report
}

fn lost() -> DnsEvent {
    DnsEvent::Lost { subject: Subject::Source(address()), check: Check::Spf, what: "the reason".into() }
}

fn restored() -> DnsEvent {
    DnsEvent::Restored { subject: Subject::Source(address()), check: Check::Spf }
}

#[test]
fn a_failure_counts_when_it_is_seen_again_some_minutes_later() {
    let mut watch = Watch::new(HOUR, [], at(0));
    assert_eq!(watch.due(), at(0));
    assert_eq!(watch.took(&with(Outcome::Ok), 0, at(0)), []);
    assert_eq!(watch.due(), at(3600));
    assert_eq!(watch.took(&with(Outcome::Failed), 0, at(3600)), []);
    assert_eq!(watch.due(), at(3600 + 300));
    assert_eq!(watch.took(&with(Outcome::Failed), 0, at(3900)), [lost()]);
    assert_eq!(watch.due(), at(3900 + 3600));
    assert_eq!(watch.took(&with(Outcome::Failed), 0, at(7500)), [], "it is said once");
    assert_eq!(watch.took(&with(Outcome::Ok), 0, at(11_100)), []);
    assert_eq!(watch.took(&with(Outcome::Ok), 0, at(11_400)), [restored()]);
}

#[test]
fn a_moment_and_what_is_unknown_count_for_nothing() {
    let mut watch = Watch::new(HOUR, [], at(0));
    for (second, outcome) in [
        (0, Outcome::Failed),
        (300, Outcome::Ok),
        (600, Outcome::Failed),
        (900, Outcome::Unknown),
        (1200, Outcome::Ok),
        (1500, Outcome::Unknown),
        (1800, Outcome::Unknown),
    ] {
        assert_eq!(watch.took(&with(outcome), 0, at(second)), [], "{second}");
    }
    watch.took(&with(Outcome::Failed), 0, at(2000));
    watch.took(&with(Outcome::Unknown), 0, at(2300));
    assert_eq!(watch.due(), at(2600), "it is looked at again soon, since a doubt is open");
    assert_eq!(watch.took(&with(Outcome::Failed), 0, at(2600)), [lost()]);
    assert_eq!(watch.took(&with(Outcome::Unknown), 0, at(2900)), [], "a failed lookup restores nobody");
}

#[test]
fn who_failed_before_the_agent_began_has_to_be_seen_well_twice() {
    let mut watch = Watch::new(HOUR, [(Subject::Source(address()), Check::Spf)], at(0));
    assert_eq!(watch.took(&with(Outcome::Ok), 0, at(0)), []);
    assert_eq!(watch.took(&with(Outcome::Ok), 0, at(300)), [restored()]);
    let mut watch = Watch::new(HOUR, [(Subject::Source(address()), Check::Spf)], at(0));
    assert_eq!(watch.took(&with(Outcome::Failed), 0, at(0)), [], "that is known");
}

#[test]
fn runs_come_early_by_a_tenth_at_most_and_confirm_within_a_short_interval() {
    let mut watch = Watch::new(HOUR, [], at(0));
    watch.took(&with(Outcome::Ok), 1000, at(0));
    assert_eq!(watch.due(), at(3240));
    let mut watch = Watch::new(SignedDuration::from_mins(1), [], at(0));
    watch.took(&with(Outcome::Failed), 0, at(0));
    assert_eq!(watch.due(), at(60));
}

proptest! {
    /// Invariant 4: runs in which something is unknown change nothing that those without them would not.
    #[test]
    fn unknown_changes_nothing(runs in prop::collection::vec(0_u8..3, 0..40)) {
        let outcome = |word: u8| [Outcome::Ok, Outcome::Failed, Outcome::Unknown][usize::from(word)];
        let told = |runs: &[u8]| {
            let mut watch = Watch::new(HOUR, [], at(0));
            runs.iter().flat_map(|word| watch.took(&with(outcome(*word)), 0, at(0))).collect::<Vec<_>>()
        };
        let known: Vec<u8> = runs.iter().copied().filter(|word| *word < 2).collect();
        prop_assert_eq!(told(&runs), told(&known));
    }
}
