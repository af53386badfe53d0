//! What each of the kernel's counters counts.
//!
//! Owns: the meter of each field of a map and of each counter of the table. Must not: read them.

use std::collections::BTreeMap;

use mailsteer_core::model::LaneId;
use mailsteer_ebpf::{CounterKey, Counters, HELD_REASONS};

use crate::nftnl::{Counter, PairSet};
use crate::observe::nft;
use crate::state::{Meter, Outcome};

/// The guard's reasons, in the order of `mailsteer_ebpf::Held`.
pub(super) const HELD: [Outcome; HELD_REASONS as usize] = [
    Outcome::HeldNoMark,
    Outcome::HeldWrongAddress,
    Outcome::HeldWrongUplink,
    Outcome::HeldUnreadable,
    Outcome::HeldUndeclared,
];
/// The reasons for which a packet with a wrong address is stopped.
pub(super) const STOPPED: [Outcome; 3] =
    [Outcome::HeldWrongAddress, Outcome::HeldWrongUplink, Outcome::HeldWrongTranslation];

/// A count of no lane.
pub(super) const fn nobody(outcome: Outcome) -> Meter {
    Meter { lane: 0, source: 0, outcome }
}

pub(super) fn connections(counted: &BTreeMap<CounterKey, Counters>) -> impl Iterator<Item = (Meter, u64)> {
    counted.iter().flat_map(|(key, counters)| {
        let lane = u8::try_from(key.lane).unwrap_or_default();
        let meter = move |outcome| Meter { lane, source: key.source, outcome };
        [
            (meter(Outcome::Attempted), counters.attempts),
            (meter(Outcome::Established), counters.established),
            (meter(Outcome::Refused), counters.refused),
            (meter(Outcome::Unreachable), counters.unreachable),
            (meter(Outcome::Reset), counters.reset),
            (meter(Outcome::Unanswered), counters.unanswered),
            (meter(Outcome::Closed), counters.closed),
            (meter(Outcome::BytesOut), counters.bytes_out),
            (meter(Outcome::BytesIn), counters.bytes_in),
            (meter(Outcome::Wrong), counters.wrong),
            (meter(Outcome::Retransmits), counters.retransmits),
        ]
    })
}

/// What the table counts of each lane and source, where no eBPF program does.
pub(super) fn pairs(table: &nft::Counts) -> impl Iterator<Item = (Meter, u64)> {
    let sets = table.pairs.iter();
    let each = sets.flat_map(|(set, pairs)| pairs.iter().map(|(pair, counted)| (*set, *pair, *counted)));
    each.map(|(set, pair, counted)| {
        let (outcome, value) = match set {
            PairSet::Attempted => (Outcome::Attempted, counted.packets),
            PairSet::Established => (Outcome::Established, counted.packets),
            PairSet::Refused => (Outcome::Refused, counted.packets),
            PairSet::Sent => (Outcome::BytesOut, counted.bytes),
            PairSet::Received => (Outcome::BytesIn, counted.bytes),
        };
        (Meter { lane: pair.lane, source: pair.source, outcome }, value)
    })
}

pub(super) fn counted_by(counter: Counter) -> Option<Meter> {
    let refused = |lane: LaneId, reason: &str| {
        Some(Meter { lane: lane.0, source: 0, outcome: Outcome::of_refused(reason)? })
    };
    match counter {
        Counter::Refused(lane, reason) => refused(lane, reason.as_str()),
        Counter::Rejected(lane, cause) => refused(lane, cause.as_str()),
        Counter::HeldGap => Some(nobody(Outcome::HeldGap)),
        Counter::HeldPending => Some(nobody(Outcome::HeldPending)),
        Counter::HeldUnowned => Some(nobody(Outcome::HeldUnowned)),
        Counter::DroppedWrong => Some(nobody(Outcome::HeldWrongTranslation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guards_reasons_are_in_its_order() {
        assert_eq!(HELD[mailsteer_ebpf::Held::WrongAddress as usize], Outcome::HeldWrongAddress);
        assert_eq!(HELD[mailsteer_ebpf::Held::WrongUplink as usize], Outcome::HeldWrongUplink);
        assert_eq!(HELD[mailsteer_ebpf::Held::Undeclared as usize], Outcome::HeldUndeclared);
    }
}
