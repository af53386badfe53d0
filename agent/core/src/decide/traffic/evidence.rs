//! Whose fault it is, from what was seen: a pure function of the evidence, so that a stored verdict can be judged again.
//!
//! Owns: the test. Must not: keep state, or know what follows from a finding.
//!
//! **The test.** Outcomes of one source at one provider are added up in the order in which they were seen, as a
//! sequential likelihood-ratio test that starts again at zero (CUSUM; Page 1954): a failure weighs `ln(p1 / p0)`, a
//! success `ln((1 - p1) / (1 - p0))`, and the sum never falls below zero. `p0` = 1 %: of a working source's connections to
//! receivers that live, so many fail at most; with 5 % of all packets lost, two SYNs in a row get no answer in 0.5 % of
//! cases. `p1` = 50 %. The sum that isolates is that of three failures one after the other (`[safety] failures`), or more
//! among successes: by chance once in 100,000. Where others failed at the same provider about when this one did, `p0` of
//! that failure is their share of failures: what all meet weighs nothing, also when it is over and all do well again. A
//! failure near which no other source had traffic weighs half: nobody can tell whose it was.
//!
//! **What counts.** Each receiver once in the window, so that one dead receiver comes to nothing. Silence of a receiver of
//! which nobody had an answer in the last ten minutes is no evidence, for many addresses that mail is sent to are dead. A
//! receiver that failed a sibling as well, and none succeeded there since, is at fault itself.
//!
//! **A handshake is no greeting.** Where a source's connections fail after they stood for a while, connections that have
//! not stood twice as long count for nothing yet, its own and others': else a receiver that greets everybody with 421 after
//! five seconds is well to all but whom it told first.
//!
//! **Against whom.** Of other sources those are the measure that did well at least as often as they failed, if there are
//! any: most of a pool may fall at once. A sum that is reached counts only if siblings did well at the same provider since
//! the first of the failures began: three connections at least, and more than failed. So a dead provider, a dead uplink of
//! the whole host or a resolver that is away isolate nobody. A source without siblings there is isolated by the receivers'
//! own words alone, a greeting of 5xx from each: whether they would greet others so cannot be told then, and sending on
//! makes it worse.
//!
//! **How often that is wrong.** In the simulation (4 sources, 5 connections a second each, 3 providers; 2026-11-25), in 800
//! source hours, which are 14 million connections, of each kind:
//!
//! | what fails by chance | isolations of innocent sources | per source hour |
//! |---|---|---|
//! | 5 % of packets, each way: one connection in a hundred is silent | 1 | 0.001 |
//! | 1 % of connections are refused | 14 | 0.018 |
//!
//! Each is of one source at one provider. Again: `MAILSTEER_HOURS=800 cargo test -p mailsteer-core --test simulation
//! false_alarms -- --nocapture`. In 10,000 random worlds with dead receivers and providers, outages, loss and refusals it
//! was none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::signal::dns::Check;

/// So many of a working source's connections fail.
const P0: f64 = 0.01;
/// So many of a failing one's.
const P1: f64 = 0.5;
/// What a success takes away: `ln(0.99 / 0.5)`.
const SUCCESS: f64 = 0.683;
/// What may be missing of so many whole failures: less than one success takes away.
const SLACK: f64 = 0.25;
/// So many of the siblings' connections have to have done well.
const SIBLINGS: u32 = 3;
/// A SYN is silent 1.3 s after it left: the second one leaves after 1 s and has 300 ms; and some for scheduling.
const SILENCE: SignedDuration = SignedDuration::from_millis(1_500);

/// How a connection failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "failure")]
pub enum Failure {
    /// Two SYNs got no answer.
    Silent,
    /// The SYN was answered by a reset.
    Refused,
    /// The SYN was answered by an ICMP error.
    Unreachable,
    /// A reset ended it before any greeting.
    Reset,
    /// The greeting was 4xx or 5xx.
    Greeted {
        /// Its code.
        code: u16,
        /// How its text begins.
        text: String,
    },
    /// It is on a DNS list.
    Listed {
        /// The list.
        list: String,
        /// What its codes mean, and the list's own words if it has any.
        meaning: String,
    },
    /// It fails a DNS check that the config requires.
    Dns {
        /// The check.
        check: Check,
        /// What is wrong.
        what: String,
    },
    /// Receivers said so to its mail.
    Replied {
        /// The last reply.
        words: String,
        /// The rule that spoke.
        rule: String,
        /// They asked to slow down.
        slow: bool,
    },
    /// A probe from it came to nothing.
    Probe {
        /// What it met.
        why: String,
    },
}

impl Failure {
    /// Whether the receiver itself said no: not our reading of what did not come.
    #[must_use]
    pub const fn is_explicit(&self) -> bool {
        matches!(self, Self::Refused | Self::Greeted { .. } | Self::Replied { .. })
    }

    /// What it lasts until, where that is no time.
    #[must_use]
    pub const fn lasts(&self) -> Option<&'static str> {
        match self {
            Self::Listed { .. } => Some("until it is on no list"),
            Self::Dns { .. } => Some("until its DNS is right"),
            _ => None,
        }
    }

    /// When its connection began at the latest, if it was seen to fail then.
    pub(super) fn began(&self, seen: Timestamp) -> Timestamp {
        let before = if *self == Self::Silent { SILENCE } else { SignedDuration::ZERO };
        seen.checked_sub(before).unwrap_or(seen)
    }

    /// The word for it in metrics and answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Greeted { .. } => "greeting",
            Self::Listed { .. } => "listed",
            Self::Dns { .. } => "dns",
            Self::Replied { slow: true, .. } => "slow-down",
            Self::Replied { .. } => "reply",
            Self::Probe { .. } => "probe",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent => f.write_str("its connections get no answer"),
            Self::Refused => f.write_str("its connections are refused"),
            Self::Unreachable => f.write_str("routers say that receivers cannot be reached from it"),
            Self::Reset => f.write_str("its connections are reset before any greeting"),
            Self::Replied { words, slow: true, .. } => {
                write!(f, "receivers ask it to slow down: \"{words}\"")
            }
            Self::Replied { words, .. } => write!(f, "receivers refuse it: \"{words}\""),
            Self::Listed { list, meaning } => write!(f, "it is on {list} ({meaning})"),
            Self::Dns { check, what } => write!(f, "it fails the DNS check {}: {what}", check.as_str()),
            Self::Probe { why } => write!(f, "probes from it come to nothing: {why}"),
            Self::Greeted { code, text } => write!(f, "receivers greet it with \"{code} {text}\""),
        }
    }
}

/// One connection's outcome, as evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// When it was seen.
    pub at: Timestamp,
    /// The receiver.
    pub destination: IpAddr,
    /// How it failed; `None`: it did well.
    pub failure: Option<Failure>,
    /// Whether the receiver is known to be well, so that a failure is not its own.
    pub receiver_well: bool,
    /// What other sources met at the provider about when this one failed.
    #[serde(default)]
    pub others: Others,
}

/// What other sources met within some seconds: those that mostly did well, or all where none did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Others {
    /// Connections that did well.
    pub well: u32,
    /// Connections that failed.
    pub failed: u32,
}

impl Others {
    /// Whether most of it was well.
    const fn do_well(&self) -> bool {
        self.well >= self.failed && self.well > 0
    }

    /// One more connection.
    pub(super) const fn count(&mut self, well: bool) {
        *(if well { &mut self.well } else { &mut self.failed }) += 1;
    }

    /// All that those met who mostly did well; all that everybody met where nobody did.
    pub(super) fn those_that_do_well(by_source: BTreeMap<IpAddr, Self>) -> Self {
        let some = by_source.values().any(Self::do_well);
        let counted = by_source.into_values().filter(|met| !some || met.do_well());
        counted.fold(Self::default(), Self::plus)
    }

    /// Both.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { well: self.well + other.well, failed: self.failed + other.failed }
    }
}

impl Outcome {
    /// What a failure adds to the sum: `ln(P1 / p0)`.
    fn weight(&self) -> f64 {
        let Others { well, failed } = self.others;
        let all = f64::from(well) + f64::from(failed);
        if all == 0.0 {
            return (P1 / P0).ln() / 2.0;
        }
        (P1 / (f64::from(failed) / all).max(P0)).ln().max(0.0)
    }
}

/// What the siblings met at the same provider since the failures began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Siblings {
    /// Whether there are any that had traffic there at all.
    pub any: bool,
    /// Connections that did well.
    pub well: u32,
    /// Connections that failed.
    pub failed: u32,
}

impl Siblings {
    const fn do_well(self) -> bool {
        self.well >= SIBLINGS && self.well > self.failed
    }
}

/// All that a verdict rests on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// The source: its address on this host.
    pub source: IpAddr,
    /// The provider.
    pub provider: String,
    /// Its outcomes there in the window, oldest first.
    pub outcomes: Vec<Outcome>,
    /// Its siblings'.
    pub siblings: Siblings,
    /// How many failures in a row isolate, as the config had it.
    #[serde(default = "three")]
    pub failures: u32,
}

/// What it was before the config could say it.
const fn three() -> u32 {
    3
}

/// What the evidence shows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "finding")]
pub enum Finding {
    /// Nothing.
    Well,
    /// Something may be wrong.
    Suspect {
        /// The last failure.
        cause: Failure,
    },
    /// The source is at fault.
    Guilty {
        /// The last failure.
        cause: Failure,
    },
}

/// Judges.
#[must_use]
pub fn judge(evidence: &Evidence) -> Finding {
    let sum = add_up(&evidence.outcomes);
    let Some(cause) = sum.cause.clone() else { return Finding::Well };
    let proven = if evidence.siblings.any { evidence.siblings.do_well() } else { sum.words };
    // Who does well again has failed no more than everybody does who was cut off for a while.
    let fails_still = evidence.outcomes.last().is_some_and(|last| last.failure.is_some());
    let whole = |failures: u32| f64::from(failures) * (P1 / P0).ln() - SLACK;
    if sum.weight >= whole(evidence.failures) && proven && fails_still {
        Finding::Guilty { cause }
    } else if sum.weight >= whole(evidence.failures.saturating_sub(1)) {
        Finding::Suspect { cause }
    } else {
        Finding::Well
    }
}

/// Outcomes, added up.
pub(super) struct Sum {
    weight: f64,
    /// The last failure that counted.
    cause: Option<Failure>,
    /// Whether all that counted were greetings of 5xx.
    words: bool,
    /// When the first that counted began.
    pub(super) since: Option<Timestamp>,
}

pub(super) fn add_up(outcomes: &[Outcome]) -> Sum {
    let nothing = || Sum { weight: 0.0, cause: None, words: true, since: None };
    let (mut sum, mut counted) = (nothing(), BTreeSet::new());
    for outcome in outcomes {
        match &outcome.failure {
            None => {
                sum.weight -= SUCCESS;
                if sum.weight <= 0.0 {
                    (sum, counted) = (nothing(), BTreeSet::new());
                }
            }
            Some(failure) if outcome.receiver_well && counted.insert(outcome.destination) => {
                sum.weight += outcome.weight();
                sum.words &= matches!(failure, Failure::Greeted { code: 500.., .. });
                sum.since.get_or_insert(failure.began(outcome.at));
                sum.cause = Some(failure.clone());
            }
            Some(_) => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn outcome(second: i64, receiver: u8, failure: Option<Failure>) -> Outcome {
        let destination = IpAddr::from([198, 51, 100, receiver]);
        Outcome {
            at: at(second),
            destination,
            failure,
            receiver_well: true,
            others: Others { well: 4, failed: 0 },
        }
    }

    fn evidence(outcomes: Vec<Outcome>, siblings: Siblings) -> Evidence {
        let (source, provider) = (IpAddr::from([192, 0, 2, 1]), "other".into());
        Evidence { source, provider, outcomes, siblings, failures: 3 }
    }

    const WELL: Siblings = Siblings { any: true, well: 3, failed: 1 };

    fn silent(receivers: &[u8]) -> Vec<Outcome> {
        receivers.iter().map(|&n| outcome(i64::from(n), n, Some(Failure::Silent))).collect()
    }

    #[test]
    fn three_receivers_isolate_and_two_make_suspect() {
        let finds = |outcomes| judge(&evidence(outcomes, WELL));
        assert_eq!(finds(silent(&[1, 2, 3])), Finding::Guilty { cause: Failure::Silent });
        assert_eq!(finds(silent(&[1, 2])), Finding::Suspect { cause: Failure::Silent });
        assert_eq!(finds(silent(&[1])), Finding::Well);
        assert_eq!(finds(silent(&[1, 1, 1, 1, 1])), Finding::Well, "one dead receiver");
    }

    #[test]
    fn as_many_failures_as_the_config_says() {
        let finds =
            |receivers: &[u8], failures| judge(&Evidence { failures, ..evidence(silent(receivers), WELL) });
        assert!(matches!(finds(&[1, 2], 2), Finding::Guilty { .. }));
        assert!(matches!(finds(&[1, 2, 3, 4], 5), Finding::Suspect { .. }));
        assert!(matches!(finds(&[1, 2, 3, 4, 5], 5), Finding::Guilty { .. }));
    }

    #[test]
    fn successes_speak_for_the_source() {
        let mut outcomes = silent(&[1, 2]);
        outcomes.extend((4..16).map(|n| outcome(4, n, None)));
        outcomes.push(outcome(20, 20, Some(Failure::Silent)));
        assert_eq!(judge(&evidence(outcomes, WELL)), Finding::Well);
        let mut outcomes = silent(&[1, 2, 3, 4, 5]);
        outcomes.push(outcome(20, 6, None));
        assert!(matches!(judge(&evidence(outcomes, WELL)), Finding::Suspect { .. }), "it does well again");
    }

    #[test]
    fn silence_takes_siblings_that_do_well_and_words_stand_alone() {
        let refused =
            |n: u8| outcome(i64::from(n), n, Some(Failure::Greeted { code: 554, text: "no".into() }));
        let nobody = Siblings::default();
        let all_fail = Siblings { any: true, well: 3, failed: 3 };
        assert!(matches!(judge(&evidence(silent(&[1, 2, 3]), nobody)), Finding::Suspect { .. }));
        assert!(matches!(judge(&evidence(silent(&[1, 2, 3]), all_fail)), Finding::Suspect { .. }));
        let said = || vec![refused(1), refused(2), refused(3)];
        assert!(matches!(judge(&evidence(said(), nobody)), Finding::Guilty { .. }));
        assert!(matches!(judge(&evidence(said(), all_fail)), Finding::Suspect { .. }));
    }

    #[test]
    fn a_receiver_that_is_at_fault_itself_counts_for_nothing() {
        let mut outcomes = silent(&[1, 2, 3]);
        outcomes[1].receiver_well = false;
        assert!(matches!(judge(&evidence(outcomes, WELL)), Finding::Suspect { .. }));
    }

    #[test]
    fn what_others_met_too_weighs_little_or_nothing() {
        let among = |well, failed| {
            let mut outcomes = silent(&[1, 2, 3, 4]);
            outcomes.iter_mut().for_each(|one| one.others = Others { well, failed });
            judge(&evidence(outcomes, WELL))
        };
        assert!(matches!(among(20, 0), Finding::Guilty { .. }));
        assert!(matches!(among(60, 1), Finding::Guilty { .. }));
        assert_eq!(among(9, 3), Finding::Well);
        assert_eq!(among(0, 5), Finding::Well);
        assert!(matches!(among(0, 0), Finding::Suspect { .. }), "four, each of half the weight");
    }

    #[test]
    fn evidence_that_was_stored_is_judged_the_same() {
        let evidence = evidence(silent(&[1, 2, 3]), WELL);
        let text = serde_json::to_string(&evidence).unwrap();
        assert_eq!(judge(&serde_json::from_str(&text).unwrap()), judge(&evidence));
    }
}
