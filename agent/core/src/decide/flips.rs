//! Which shares changed between two decisions, and why.

use std::collections::BTreeMap;

use super::{EventKind, Reason};
use crate::model::{Choice, ChoiceMode, Desired, Family, LaneId, SlotTarget};

/// A source's share of a lane that changed.
#[derive(Clone, PartialEq, Debug)]
pub struct Flip {
    /// The stream.
    pub stream: String,
    /// The family.
    pub family: Family,
    /// The source.
    pub source: String,
    /// Share before, in thousandths.
    pub before: u32,
    /// Share after, in thousandths.
    pub after: u32,
    /// Why it lost its share altogether.
    pub reason: Option<Reason>,
}

impl From<Flip> for EventKind {
    fn from(flip: Flip) -> Self {
        let Flip { stream, family, source, before, after, reason } = flip;
        Self::Flipped { stream, family, source, before, after, reason }
    }
}

/// What changed from one decision to the next, for lanes that stand in both; and lanes that ran out of sources.
#[must_use]
pub fn flips(before: &Desired, after: &Desired) -> (Vec<Flip>, Vec<EventKind>) {
    let earlier: BTreeMap<_, &Choice> = before.choices.iter().map(|choice| (key(choice), choice)).collect();
    let changed = after.choices.iter().filter_map(|choice| {
        let was = earlier.get(&key(choice))?;
        let (before, now) = (share(&was.mode), share(&choice.mode));
        (before != now).then(|| Flip {
            stream: stream_of(after, choice.lane),
            family: choice.family,
            source: choice.source.clone(),
            before,
            after: now,
            reason: match &choice.mode {
                ChoiceMode::Discarded(reason) => Some(reason.clone()),
                ChoiceMode::Chosen { .. } => None,
            },
        })
    });
    (changed.collect(), exhausted(before, after))
}

fn exhausted(before: &Desired, after: &Desired) -> Vec<EventKind> {
    let dry = |desired: &Desired, lane: LaneId, family: Family| {
        let lane = desired.lanes.iter().find(|candidate| candidate.id == lane);
        let slots = lane.and_then(|lane| lane.slots.get(&family));
        let refuses = |target: &SlotTarget| {
            matches!(target, SlotTarget::Refuse(crate::model::RefuseReason::Exhausted) | SlotTarget::Pass)
        };
        slots.and_then(crate::model::Slots::says).is_some_and(|says| refuses(&says))
    };
    let mut events = Vec::new();
    for lane in &after.lanes {
        for family in Family::BOTH {
            if dry(after, lane.id, family) && !dry(before, lane.id, family) {
                events.push(EventKind::Exhausted { stream: lane.stream.clone(), family });
            }
        }
    }
    events
}

fn key(choice: &Choice) -> (LaneId, Family, &str) {
    (choice.lane, choice.family, &choice.source)
}

const fn share(mode: &ChoiceMode) -> u32 {
    match mode {
        ChoiceMode::Chosen { slots, of } if *of > 0 => (*slots as u64 * 1000 / *of as u64) as u32,
        _ => 0,
    }
}

fn stream_of(desired: &Desired, lane: LaneId) -> String {
    let lane = desired.lanes.iter().find(|candidate| candidate.id == lane);
    lane.map(|lane| lane.stream.clone()).unwrap_or_default()
}
