//! Which shares changed between two decisions, and why.

use std::collections::{BTreeMap, BTreeSet};

use super::{EventKind, Reason};
use crate::model::{Choice, ChoiceMode, Desired, Family, Lane, LaneId, RefuseReason, SlotTarget, Slots};

/// A source that holds slots of a stream and held none, or the other way round, at some providers.
#[derive(Clone, PartialEq, Debug)]
pub struct Flip {
    /// The stream.
    pub stream: String,
    /// At which providers; empty: at every one.
    pub providers: Vec<String>,
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
        let Flip { stream, providers, family, source, before, after, reason } = flip;
        Self::Flipped { stream, providers, family, source, before, after, reason }
    }
}

/// What changed from one decision to the next, for lanes that stand in both; and lanes that ran out of sources.
///
/// Siblings that hold more or fewer slots because of it are not told one by one: with a thousand of them in 64 streams that
/// would be 64,000 events for one address.
#[must_use]
pub fn flips(before: &Desired, after: &Desired) -> (Vec<Flip>, Vec<EventKind>) {
    let lanes: BTreeMap<LaneId, &Lane> = after.lanes.iter().map(|lane| (lane.id, lane)).collect();
    let earlier: BTreeMap<_, &Choice> = before.choices.iter().map(|choice| (key(choice), choice)).collect();
    let mut flips: Vec<Flip> = Vec::new();
    let mut found: BTreeMap<(&str, Family, &str), Vec<usize>> = BTreeMap::new();
    for choice in &after.choices {
        let Some(was) = earlier.get(&key(choice)) else { continue };
        let changed = holds(&was.mode) != holds(&choice.mode);
        let Some(lane) = lanes.get(&choice.lane).filter(|_| changed) else { continue };
        let (before, now) = (share(&was.mode), share(&choice.mode));
        let reason = match &choice.mode {
            ChoiceMode::Discarded(reason) => Some(reason.clone()),
            ChoiceMode::Chosen { .. } => None,
        };
        let alike = found.entry((&lane.stream, choice.family, &choice.source)).or_default();
        let same = |flip: &Flip| (flip.before, flip.after, &flip.reason) == (before, now, &reason);
        if let Some(&place) = alike.iter().find(|&&place| same(&flips[place])) {
            flips[place].providers.push(lane.provider.clone());
            continue;
        }
        alike.push(flips.len());
        let (stream, providers) = (lane.stream.clone(), vec![lane.provider.clone()]);
        let (family, source) = (choice.family, choice.source.clone());
        flips.push(Flip { stream, providers, family, source, before, after: now, reason });
    }
    for flip in &mut flips {
        let all = after.lanes.iter().filter(|lane| lane.stream == flip.stream).count();
        if flip.providers.len() == all {
            flip.providers.clear();
        }
    }
    (flips, exhausted(before, after))
}

/// Streams that have no eligible source left at any provider.
fn exhausted(before: &Desired, after: &Desired) -> Vec<EventKind> {
    let (was, is) = (dry(before), dry(after));
    let new = is.difference(&was);
    new.map(|(stream, family)| EventKind::Exhausted { stream: (*stream).to_owned(), family: *family })
        .collect()
}

fn dry(desired: &Desired) -> BTreeSet<(&str, Family)> {
    let refuses =
        |target: SlotTarget| matches!(target, SlotTarget::Refuse(RefuseReason::Exhausted) | SlotTarget::Pass);
    let is_dry = |slots: &Slots| slots.says().is_some_and(refuses);
    let (mut dry, mut serve) = (BTreeSet::new(), BTreeSet::new());
    for lane in &desired.lanes {
        for (&family, slots) in &lane.slots {
            (if is_dry(slots) { &mut dry } else { &mut serve }).insert((lane.stream.as_str(), family));
        }
    }
    dry.retain(|one| !serve.contains(one));
    dry
}

fn key(choice: &Choice) -> (LaneId, Family, &str) {
    (choice.lane, choice.family, &choice.source)
}

const fn holds(mode: &ChoiceMode) -> bool {
    matches!(mode, ChoiceMode::Chosen { slots, .. } if *slots > 0)
}

const fn share(mode: &ChoiceMode) -> u32 {
    match mode {
        ChoiceMode::Chosen { slots, of } if *of > 0 => (*slots as u64 * 1000 / *of as u64) as u32,
        _ => 0,
    }
}
