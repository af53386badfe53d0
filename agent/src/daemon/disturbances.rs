//! Strangers' doings, as the counters show them: a notrack rule, a NAT before ours, a flushed conntrack table.
//!
//! Owns: which counter stands for which doing, and when one has begun and is over. Each is told once when it begins,
//! and stands in `status` until nothing of it was counted for a minute. Must not: count, or keep what it knows: the
//! counters do.

use std::time::{Duration, Instant};

use super::counts::Counts;
use crate::state::Outcome;

/// After so long without another count it is over.
const QUIET: Duration = Duration::from_secs(60);

/// What a counter's rising means.
struct Doing {
    count: fn(&Counts) -> u64,
    /// What is seen, after the number.
    seen: &'static str,
    /// Where an operator finds the cause.
    look: &'static str,
}

const DOINGS: [Doing; 6] = [
    Doing {
        count: |counts| counts.total(Outcome::RefusedUntracked),
        seen: "connections refused because conntrack does not follow them, so no source can be set",
        look: "look for a notrack rule: `nft list ruleset`, `iptables -t raw -S`",
    },
    Doing {
        count: |counts| counts.total(Outcome::RefusedMidstream),
        seen: "packets of live connections refused because their conntrack entries were lost",
        look: "somebody flushed conntrack (`conntrack -F`), or its table overflowed",
    },
    Doing {
        count: |counts| counts.total(Outcome::HeldWrongTranslation),
        seen: "packets held because another NAT rule gave them an address before mailsteer could",
        look: "look for masquerade or snat in a postrouting chain of a priority below 90: `nft list ruleset`",
    },
    Doing {
        count: |counts| counts.total(Outcome::HeldWrongAddress),
        seen: "packets held by the guard because they would leave with another address than their source's",
        look: "look for NAT rules that are not mailsteer's: `nft list ruleset`",
    },
    Doing {
        count: |counts| counts.total(Outcome::HeldWrongUplink),
        seen: "packets held by the guard because they would leave by another uplink than their source's",
        look: "connections of an uplink that is away go on when it is back; else look for routing rules that are not \
               mailsteer's: `ip rule`",
    },
    Doing {
        count: |counts| counts.total(Outcome::Unfollowed),
        seen: "connections could not be followed, so what became of them is not counted",
        look: "look for programs at the uplinks' egress: `bpftool net`",
    },
];

#[derive(Clone, Copy, Debug)]
struct Going {
    before: u64,
    last: Instant,
}

/// What is known of each doing: its last count, and whether it goes on.
#[derive(Debug, Default)]
pub(super) struct Disturbances {
    counted: Option<[u64; DOINGS.len()]>,
    going: [Option<Going>; DOINGS.len()],
}

impl Disturbances {
    /// Takes in a reading, and returns in words what has begun. The first reading is where counting starts: what an
    /// earlier agent saw was told by it.
    pub(super) fn take_in(&mut self, counts: &Counts, now: Instant) -> Vec<String> {
        let reading = DOINGS.each_ref().map(|doing| (doing.count)(counts));
        let Some(counted) = self.counted.replace(reading) else { return Vec::new() };
        let mut begun = Vec::new();
        for (place, doing) in DOINGS.iter().enumerate() {
            let (before, count) = (counted[place], reading[place]);
            if count <= before {
                continue;
            }
            match &mut self.going[place] {
                Some(going) if now.duration_since(going.last) < QUIET => going.last = now,
                going => {
                    *going = Some(Going { before, last: now });
                    begun.push(doing.words(count - before));
                }
            }
        }
        begun
    }

    /// What goes on now, in words.
    pub(super) fn now(&self, now: Instant) -> Vec<String> {
        let counted = self.counted.unwrap_or_default();
        let places = DOINGS.iter().zip(self.going).zip(counted);
        let words = |((doing, going), count): ((&Doing, Option<Going>), u64)| {
            let going = going.filter(|going| now.duration_since(going.last) < QUIET)?;
            Some(doing.words(count.saturating_sub(going.before)))
        };
        places.filter_map(words).collect()
    }
}

impl Doing {
    fn words(&self, count: u64) -> String {
        format!("{count} {}: {}", self.seen, self.look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(untracked: u64, wrong: u64) -> Counts {
        Counts::of([
            (None, "mail", Outcome::RefusedUntracked, untracked),
            (None, "", Outcome::HeldWrongTranslation, wrong),
        ])
    }

    #[test]
    fn a_doing_is_told_once_and_stands_until_it_is_quiet() {
        let (mut known, start) = (Disturbances::default(), Instant::now());
        assert!(known.take_in(&counts(7, 0), start).is_empty(), "an earlier agent told these");
        assert!(known.now(start).is_empty());
        let told = known.take_in(&counts(9, 0), start);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("2 connections refused because conntrack"), "{told:?}");
        assert!(known.take_in(&counts(10, 0), start + QUIET / 2).is_empty(), "told before");
        assert!(known.now(start + QUIET)[0].starts_with("3 connections"));
        assert!(known.now(start + QUIET * 2).is_empty(), "over");
        assert_eq!(known.take_in(&counts(11, 0), start + QUIET * 2).len(), 1, "begun again");
    }

    #[test]
    fn doings_do_not_mix() {
        let (mut known, start) = (Disturbances::default(), Instant::now());
        known.take_in(&counts(0, 0), start);
        known.take_in(&counts(0, 4), start);
        let now = known.now(start);
        assert_eq!(now.len(), 1);
        assert!(now[0].contains("another NAT rule"), "{now:?}");
    }
}
