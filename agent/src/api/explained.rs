//! An explanation in the words of the view: for a running agent and for a file alike.

use mailsteer_core::config::{PoolSource, Tier};
use mailsteer_core::decide::{self, World};
use mailsteer_core::model::{Desired, Family, Lane, SlotTarget, Slots, Steering};

use super::view::{Destination, Explanation, Fate, SourceStep, StreamStep, Who};

/// What a new connection from `who` to `destination` should meet.
#[must_use]
pub fn explained(world: &World, desired: &Desired, who: Who, destination: Destination) -> Explanation {
    let family = Family::of(destination.address);
    if !desired.ports.contains(&destination.port) {
        let why = format!("port {} is not steered", destination.port);
        let result = format!("left alone: {why}");
        return Explanation { not_steered: Some(why), result, ..empty(who, destination, family) };
    }
    let answer = decide::explain(world, desired, &who, destination.address);
    let lane = desired.lanes.iter().find(|lane| {
        answer.stream.as_ref() == Some(&lane.stream) && answer.provider.as_ref() == Some(&lane.provider)
    });
    let (fate, share) = lane.map_or((Fate::Alone, 0), |lane| fate(lane, family));
    let stream =
        |step: decide::StreamAnswer| StreamStep { stream: step.stream, matched: step.matched, why: step.why };
    Explanation {
        not_steered: answer.not_steered,
        streams: answer.streams.into_iter().map(stream).collect(),
        provider: answer.provider,
        provider_by: answer.provider_by,
        pool: answer.pool,
        sources: answer.sources.into_iter().filter_map(|step| source_step(world, step)).collect(),
        result: answer.result,
        stream: answer.stream,
        fate,
        share,
        ..empty(who, destination, family)
    }
}

/// What happens to the steered share of a lane, and how large that is. While the operator holds,
/// part of it may be refused.
fn fate(lane: &Lane, family: Family) -> (Fate, u32) {
    let share = match lane.steering {
        Steering::Observe | Steering::Bypass => return (Fate::Alone, 0),
        Steering::Canary(share) => u32::from(share),
        Steering::Enforce => 1000,
    };
    match lane.slots.get(&family).and_then(Slots::says) {
        Some(SlotTarget::Source(..)) => (Fate::Steered, share),
        Some(SlotTarget::Refuse(_)) => (Fate::Refused, share),
        Some(SlotTarget::Pass) => (Fate::Alone, 0),
        // A lookup that finds nothing is a gap.
        Some(SlotTarget::Hold) | None => (Fate::Held, share),
    }
}

fn source_step(world: &World, step: decide::SourceAnswer) -> Option<SourceStep> {
    let source: Option<&PoolSource> = world.pool_sources().find(|source| source.name == step.source);
    Some(SourceStep {
        address: step.address?,
        tier: source.map_or(Tier::Primary, |source| source.tier),
        share: f64::from(step.share) / 1000.0,
        why: step.why_not.unwrap_or_default(),
        source: step.source,
    })
}

const fn empty(who: Who, destination: Destination, family: Family) -> Explanation {
    Explanation {
        who,
        destination,
        not_steered: None,
        streams: Vec::new(),
        provider: None,
        provider_by: None,
        pool: None,
        family,
        sources: Vec::new(),
        result: String::new(),
        assumed: Vec::new(),
        stream: None,
        fate: Fate::Alone,
        share: 0,
    }
}
