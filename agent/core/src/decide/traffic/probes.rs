//! Probes: which are wanted, when, and what those that failed say of a source that nothing else is known of.
//!
//! Owns: the times, and the memory of failures in a row. Must not: make probes, or judge; one that failed says nothing alone,
//! for the receiver that was asked may have died since it answered last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::evidence::Failure;
use super::recent::Pair;
use crate::decide::world::moved;

/// A source gets a probe as often as this at most: a connection without mail is what receivers hold against an address.
const PROBE: SignedDuration = SignedDuration::from_secs(60);
/// A source that had no traffic for as long is asked after.
const IDLE: SignedDuration = SignedDuration::from_hours(1);
/// Failures in a row that are kept of a source: as many as may be asked for (`[safety] failures`).
const KEPT: usize = 20;
/// So many probes in a row, to different receivers, have to fail on the way back before that was the source's fault.
const IN_A_ROW: usize = 2;

/// A probe that should be made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WantedProbe {
    /// From which source: its address on this host.
    pub source: IpAddr,
    /// At which provider; `*`: wherever.
    pub provider: String,
    /// Whom to ask.
    pub destination: IpAddr,
}

/// One that failed: when, whom it asked, what it met.
pub(super) type Failed = (Timestamp, IpAddr, Failure);

/// What was asked, and what came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Probes {
    begun: BTreeMap<Pair, Timestamp>,
    failed: BTreeMap<Pair, Vec<Failed>>,
    /// Since when each source is known.
    known: BTreeMap<IpAddr, Timestamp>,
}

impl Probes {
    /// One was begun.
    pub(super) fn begin(&mut self, pair: &Pair, now: Timestamp) {
        self.begun.insert(pair.clone(), now);
    }

    /// One came as far as the greeting.
    pub(super) fn went_well(&mut self, pair: &Pair) {
        self.failed.remove(pair);
    }

    /// One failed; returns all that did in a row.
    pub(super) fn went_badly(&mut self, pair: &Pair, failed: Failed) -> &[Failed] {
        let all = self.failed.entry(pair.clone()).or_default();
        if all.len() == KEPT {
            all.remove(0);
        }
        all.push(failed);
        all
    }

    /// Whether so many failed in a row that a source on its way back is sent away again.
    pub(super) const fn are_enough(failed: &[Failed]) -> bool {
        failed.len() >= IN_A_ROW
    }

    /// What failed before says nothing of what comes.
    pub(super) fn forget(&mut self, pair: &Pair) {
        self.failed.remove(pair);
    }

    /// When a source that wants probes since then gets the next.
    pub(super) fn due(&self, pair: &Pair, since: Timestamp) -> Timestamp {
        let last = self.begun.get(pair).and_then(|at| at.checked_add(PROBE).ok());
        last.unwrap_or(since).checked_add(jitter(pair.0)).unwrap_or(since)
    }

    /// When a source of which nothing was heard since then gets one; soon again where the last one failed.
    pub(super) fn due_idle(&self, pair: &Pair, heard: Option<Timestamp>) -> Option<Timestamp> {
        let begun = self.begun.get(pair).copied();
        let quiet_since = heard.max(begun).max(self.known.get(&pair.0).copied())?;
        // A thousand sources that fell idle together are asked after over an hour, not at once.
        let spread = jitter(pair.0).checked_mul(360).unwrap_or_default();
        let wait = if self.failed.contains_key(pair) { PROBE + jitter(pair.0) } else { IDLE + spread };
        quiet_since.checked_add(wait).ok()
    }

    /// Which of the receivers that can be asked: another one after each failure.
    pub(super) fn choose(&self, pair: &Pair, receivers: &[IpAddr]) -> Option<IpAddr> {
        let failures = self.failed.get(pair).map_or(0, Vec::len);
        let same_family = receivers.iter().filter(|one| one.is_ipv4() == pair.0.is_ipv4());
        let fitting: Vec<IpAddr> = same_family.copied().collect();
        fitting.get(failures.checked_rem(fitting.len())?).copied()
    }

    /// These sources are known, and no others.
    pub(super) fn know(
        &mut self,
        sources: impl Fn(IpAddr) -> bool,
        all: impl Iterator<Item = IpAddr>,
        now: Timestamp,
    ) {
        self.begun.retain(|(source, _), _| sources(*source));
        self.failed.retain(|(source, _), _| sources(*source));
        self.known.retain(|source, _| sources(*source));
        all.for_each(|source| {
            self.known.entry(source).or_insert(now);
        });
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        let times = self.begun.values_mut().chain(self.known.values_mut());
        times
            .chain(self.failed.values_mut().flatten().map(|(at, ..)| at))
            .for_each(|at| *at = moved(*at, by));
    }
}

/// Up to ten seconds, the same for the same address: sources that fell together do not ask together.
fn jitter(address: IpAddr) -> SignedDuration {
    let bytes = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let mixed = bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    SignedDuration::from_millis(i64::from(mixed % 10_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn pair() -> Pair {
        (SOURCE, "*".to_owned())
    }

    fn failed(second: i64) -> Failed {
        (at(second), SOURCE, Failure::Probe { why: "no answer".into() })
    }

    #[test]
    fn one_a_minute_at_most_and_another_receiver_after_a_failure() {
        let (mut probes, jitter) = (Probes::default(), jitter(SOURCE));
        assert_eq!(probes.due(&pair(), at(0)), at(0) + jitter);
        probes.begin(&pair(), at(20));
        assert_eq!(probes.due(&pair(), at(0)), at(80) + jitter);
        let receivers = ["2001:db8::1", "203.0.113.1", "203.0.113.2"].map(|one| one.parse().unwrap());
        assert_eq!(probes.choose(&pair(), &receivers), Some(receivers[1]), "of the same family");
        assert!(!Probes::are_enough(probes.went_badly(&pair(), failed(21))));
        assert_eq!(probes.choose(&pair(), &receivers), Some(receivers[2]));
        assert!(Probes::are_enough(probes.went_badly(&pair(), failed(90))));
        probes.went_well(&pair());
        assert_eq!(probes.choose(&pair(), &receivers), Some(receivers[1]));
        assert_eq!(probes.choose(&pair(), &receivers[..1]), None);
    }

    #[test]
    fn an_idle_source_is_asked_after_within_two_hours_and_soon_again_when_that_failed() {
        let mut probes = Probes::default();
        assert_eq!(probes.due_idle(&pair(), None), None, "unknown");
        probes.know(|_| true, [SOURCE].into_iter(), at(0));
        let due =
            |probes: &Probes, heard| probes.due_idle(&pair(), heard).unwrap().duration_since(at(0)).as_secs();
        assert!((3_600..=7_200).contains(&due(&probes, None)));
        assert!((3_700..=7_300).contains(&due(&probes, Some(at(100)))));
        probes.begin(&pair(), at(5_000));
        probes.went_badly(&pair(), failed(5_010));
        assert!((5_060..=5_070).contains(&due(&probes, None)));
        probes.know(|_| false, std::iter::empty(), at(5_020));
        assert_eq!(probes.due_idle(&pair(), None), None);
    }
}
