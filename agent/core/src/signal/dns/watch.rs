//! When the checks are run, and what counts as changed.
//!
//! Owns: the schedule, and what was said last of each check. Must not: look anything up, know a clock, or bar anybody.
//!
//! A check changes only when two runs in a row that know something of it agree, the second some minutes after the first: servers
//! of one zone differ for a while after each change. What is unknown neither counts nor interrupts (invariant 4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::judge::{Check, Outcome};
use super::survey::Report;

/// A change is looked at again after this, or after an interval where that is shorter.
const CONFIRM: SignedDuration = SignedDuration::from_mins(5);

/// What a check is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A source, by its public address.
    Source(IpAddr),
    /// A domain.
    Domain(String),
}

/// What changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DnsEvent {
    /// A check fails, seen twice.
    Lost {
        /// Of what.
        subject: Subject,
        /// The check.
        check: Check,
        /// What is wrong.
        what: String,
    },
    /// It holds again, seen twice.
    Restored {
        /// Of what.
        subject: Subject,
        /// The check.
        check: Check,
    },
}

/// What is known of one check.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Seen {
    /// Whether it holds, as far as two runs agreed or none ever disagreed.
    holds: Option<bool>,
    /// The last run said otherwise.
    doubted: bool,
}

/// The machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Watch {
    interval: SignedDuration,
    seen: BTreeMap<(Subject, Check), Seen>,
    due: Timestamp,
}

impl Watch {
    /// `lost`: what is known to fail from before.
    #[must_use]
    pub fn new(
        interval: SignedDuration,
        lost: impl IntoIterator<Item = (Subject, Check)>,
        now: Timestamp,
    ) -> Self {
        let seen = lost.into_iter().map(|lost| (lost, Seen { holds: Some(false), doubted: false }));
        Self { interval, seen: seen.collect(), due: now }
    }

    /// When the next run is due.
    #[must_use]
    pub const fn due(&self) -> Timestamp {
        self.due
    }

    /// Takes a run in, and says what it changed. `jitter`, from 0 to 1000: so that hosts do not run in step.
    pub fn took(&mut self, report: &Report, jitter: u16, now: Timestamp) -> Vec<DnsEvent> {
        let sources = report
            .sources
            .iter()
            .flat_map(|row| row.checks.iter().map(|checked| (Subject::Source(row.address), checked)));
        let domains = report
            .domains
            .iter()
            .flat_map(|row| row.checks.iter().map(|checked| (Subject::Domain(row.name.clone()), checked)));
        let all: Vec<_> = sources.chain(domains).collect();
        self.seen.retain(|(subject, check), _| all.iter().any(|(s, c)| s == subject && c.check == *check));
        let (mut events, mut doubts) = (vec![], false);
        for (subject, checked) in all {
            let seen = self.seen.entry((subject.clone(), checked.check)).or_default();
            let holds = match checked.outcome {
                Outcome::Ok => true,
                Outcome::Failed => false,
                Outcome::Unknown => {
                    doubts |= seen.doubted;
                    continue;
                }
            };
            // What was never said to fail needs no second look to hold.
            if seen.holds == Some(holds) || (seen.holds.is_none() && holds) {
                *seen = Seen { holds: Some(holds), doubted: false };
                continue;
            }
            if !seen.doubted {
                seen.doubted = true;
                doubts = true;
                continue;
            }
            *seen = Seen { holds: Some(holds), doubted: false };
            let check = checked.check;
            events.push(if holds {
                DnsEvent::Restored { subject, check }
            } else {
                DnsEvent::Lost { subject, check, what: checked.what.clone() }
            });
        }
        self.due = self.next(doubts, jitter, now);
        events
    }

    fn next(&self, doubts: bool, jitter: u16, now: Timestamp) -> Timestamp {
        // Earlier by up to a tenth, never later: so long a fault waits at most.
        let earlier = self.interval / 10_000 * i32::from(jitter.min(1000));
        let wait = self.interval - earlier;
        now.checked_add(if doubts { wait.min(CONFIRM) } else { wait }).unwrap_or(now)
    }
}
