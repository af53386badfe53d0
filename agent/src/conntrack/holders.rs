//! Whether the source of a connection still holds a slot of its lane.
//!
//! Owns: that rule, as pure functions of the slots that stand. Must not: talk to the kernel, or know why a slot moved. A
//! mark is compared with its uplink: one that left by another uplink than its source's slots now say would be held there.

use std::collections::{BTreeMap, BTreeSet};

use mailsteer_core::model::{Family, LaneId, SlotTarget, Slots, SourceId, UplinkId};
use mailsteer_ebpf::Mark;

use super::Entry;

/// Where a connection's source stands in its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It holds a slot.
    Holds,
    /// It holds none.
    Lost,
    /// It holds none, and its lane waits: a slot that says "hold" is a gap, and no decision against anybody.
    Waits,
    /// No lane gave it: it bears no mark of ours, is not steered, or is a probe's.
    NotSteered,
}

/// The sources that hold slots, lane by lane; a lane is looked through when its first connection is asked about.
pub struct Holders<'a> {
    slots: &'a BTreeMap<(LaneId, Family), Slots>,
    known: BTreeMap<(LaneId, Family), Lane>,
}

#[derive(Default)]
struct Lane {
    sources: BTreeSet<(SourceId, UplinkId)>,
    waits: bool,
}

impl<'a> Holders<'a> {
    /// By the slots that stand.
    #[must_use]
    pub const fn of(slots: &'a BTreeMap<(LaneId, Family), Slots>) -> Self {
        Self { slots, known: BTreeMap::new() }
    }

    /// Where the source of a connection stands, and in which lane.
    pub fn standing(&mut self, entry: &Entry) -> (LaneId, Standing) {
        let Some(Mark { uplink, lane, source }) = Mark::unpack(entry.mark) else {
            return (LaneId(0), Standing::NotSteered);
        };
        let id = LaneId(lane);
        // Lane 0 with a source is a probe: it is asked to leave from a source that holds nothing.
        if source == 0 || lane == 0 {
            return (id, Standing::NotSteered);
        }
        let key = (id, entry.family());
        let lane = self.known.entry(key).or_insert_with(|| Lane::of(self.slots.get(&key)));
        let standing = match (lane.sources.contains(&(SourceId(source), UplinkId(uplink))), lane.waits) {
            (true, _) => Standing::Holds,
            (false, true) => Standing::Waits,
            (false, false) => Standing::Lost,
        };
        (id, standing)
    }
}

impl Lane {
    fn of(slots: Option<&Slots>) -> Self {
        let mut lane = Self::default();
        for target in slots.iter().flat_map(|slots| &slots.0) {
            match target {
                SlotTarget::Source(source, uplink) => drop(lane.sources.insert((*source, *uplink))),
                SlotTarget::Hold => lane.waits = true,
                SlotTarget::Refuse(_) | SlotTarget::Pass => {}
            }
        }
        lane
    }
}

/// Whether the entry of a connection goes, so that its next SYN draws again: nobody has answered it, and its source holds
/// no slot of its lane. A lane that waits holds the SYN until there is a source.
pub fn must_move(holders: &mut Holders<'_>, entry: &Entry) -> bool {
    entry.is_pending() && matches!(holders.standing(entry).1, Standing::Lost | Standing::Waits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::entry::state;

    fn entry(state: u8, lane: u8, source: u16, uplink: u8) -> Entry {
        Entry {
            source: "192.0.2.10:40000".parse().unwrap(),
            destination: "198.51.100.1:25".parse().unwrap(),
            leaves_from: "192.0.2.11".parse().unwrap(),
            leaves_by: 40_000,
            mark: Mark { uplink, lane, source }.pack(),
            state: Some(state),
            id: None,
            zone: None,
        }
    }

    fn slots() -> BTreeMap<(LaneId, Family), Slots> {
        let source = |id| SlotTarget::Source(SourceId(id), UplinkId(1));
        BTreeMap::from([
            ((LaneId(1), Family::V4), Slots(vec![source(2), source(3), source(2)])),
            ((LaneId(1), Family::V6), Slots(vec![source(1)])),
            ((LaneId(2), Family::V4), Slots(vec![SlotTarget::Hold])),
            ((LaneId(3), Family::V4), Slots(vec![source(1), SlotTarget::Hold])),
        ])
    }

    #[test]
    fn a_source_stands_by_its_own_lane_family_and_uplink() {
        let slots = slots();
        let mut holders = Holders::of(&slots);
        let mut of = |lane, source, uplink| holders.standing(&entry(1, lane, source, uplink)).1;
        assert_eq!(of(1, 2, 1), Standing::Holds);
        assert_eq!(of(1, 1, 1), Standing::Lost, "IPv6 of that lane holds it, IPv4 does not");
        assert_eq!(of(1, 2, 2), Standing::Lost, "by another uplink");
        assert_eq!(of(2, 2, 1), Standing::Waits);
        assert_eq!(of(3, 1, 1), Standing::Holds);
        assert_eq!(of(9, 1, 1), Standing::Lost, "a lane that is gone");
        assert_eq!(of(1, 0, 0), Standing::NotSteered);
        assert_eq!(of(0, 1, 1), Standing::NotSteered, "a probe");
    }

    #[test]
    fn only_what_nobody_answered_moves() {
        let slots = slots();
        let mut holders = Holders::of(&slots);
        assert!(must_move(&mut holders, &entry(state::SYN_SENT, 1, 1, 1)));
        assert!(must_move(&mut holders, &entry(state::SYN_SENT, 2, 1, 1)), "held, and then it draws");
        assert!(!must_move(&mut holders, &entry(state::SYN_SENT, 1, 2, 1)));
        for later in [state::SYN_RECV, state::ESTABLISHED, 4, 5, 6, 7, 8] {
            assert!(!must_move(&mut holders, &entry(later, 1, 1, 1)), "state {later}");
        }
        let stranger = Entry { mark: 0x1234, ..entry(state::SYN_SENT, 1, 1, 1) };
        assert!(!must_move(&mut holders, &stranger));
        let unknown = Entry { state: None, ..entry(state::SYN_SENT, 1, 1, 1) };
        assert!(!must_move(&mut holders, &unknown), "unknown changes nothing");
    }
}
