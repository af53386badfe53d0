//! What has to hold in every world, after every step.
//!
//! Owns: the invariants, in terms of what stands and of what is true. Must not: use the code that it checks, but for reading
//! what was decided.

use std::collections::BTreeMap;

use mailsteer_core::decide::{EVERYWHERE, Event, EventKind, Evidence, Finding, State, judge};
use mailsteer_core::model::{Family, Lane, RefuseReason, SlotTarget};

use super::host::Agent;
use super::internet;
use super::spec::Spec;

/// How far back what was true may have led to a verdict: the judge's window, and what a stalled agent reads late.
const MEMORY: i64 = 120_000;
/// The brake looks back as long.
const BRAKE: i64 = 600_000;

/// No slot leads to a source that cannot send or is isolated there, and no sibling holds more than the surge limit.
pub(crate) fn slots(spec: &Spec, agent: &Agent) -> Result<(), String> {
    let family = if spec.ipv6 { Family::V6 } else { Family::V4 };
    for lane in &agent.desired.lanes {
        let Some(slots) = agent.slots().get(&(lane.id, family)) else {
            return Err("a lane without slots".into());
        };
        let mut held: BTreeMap<usize, u64> = BTreeMap::new();
        for target in &slots.0 {
            if let Some(source) = agent.source(spec, *target) {
                *held.entry(source).or_default() += 1;
            }
        }
        for &source in held.keys() {
            if !agent.can_send(spec, source) {
                return Err(format!(
                    "{} at {} leads to s{source}, which cannot send",
                    lane.stream, lane.provider
                ));
            }
            if portion(spec, agent, source, lane) == 0 {
                return Err(format!(
                    "{} at {} leads to s{source}, which is isolated",
                    lane.stream, lane.provider
                ));
            }
        }
        surge(spec, agent, lane, &held, slots.0.len() as u64)?;
        refusals(spec, agent, lane, &slots.0)?;
    }
    Ok(())
}

fn portion(spec: &Spec, agent: &Agent, source: usize, lane: &Lane) -> u16 {
    let address = spec.source(source);
    let here = agent.world.verdicts().filter(|(of, provider, _)| {
        *of == address && (*provider == lane.provider || *provider == EVERYWHERE)
    });
    here.map(|(.., verdict)| verdict.portion()).min().unwrap_or(1_000)
}

/// While every source could send, nobody holds more than half of its own besides.
fn surge(
    spec: &Spec,
    agent: &Agent,
    lane: &Lane,
    held: &BTreeMap<usize, u64>,
    count: u64,
) -> Result<(), String> {
    let all_serve = (0..spec.sources.len()).all(|n| agent.world.ineligible(spec.source(n)).is_none());
    let primary = |n: &usize| !spec.sources[*n].spare;
    let weights: u64 =
        (0..spec.sources.len()).filter(primary).map(|n| u64::from(spec.sources[n].weight)).sum();
    if !all_serve || weights == 0 {
        return Ok(());
    }
    for (&source, &slots) in held.iter().filter(|(source, _)| primary(source)) {
        let own = count * u64::from(spec.sources[source].weight) / weights;
        if slots * 1_000 > own * u64::from(spec.safety.surge) {
            return Err(format!(
                "s{source} holds {slots} of {count} at {}, and {own} are its own",
                lane.provider
            ));
        }
    }
    Ok(())
}

/// Nothing is refused while every source can send and nothing is believed of any there.
fn refusals(spec: &Spec, agent: &Agent, lane: &Lane, slots: &[SlotTarget]) -> Result<(), String> {
    let well = (0..spec.sources.len())
        .all(|n| agent.world.ineligible(spec.source(n)).is_none() && portion(spec, agent, n, lane) == 1_000);
    let stopped = |target: &SlotTarget| *target == SlotTarget::Refuse(RefuseReason::Stopped);
    let refused = slots.iter().find(|target| !matches!(target, SlotTarget::Source(..)) && !stopped(target));
    match refused {
        Some(target) if well => {
            Err(format!("{} at {}: {target:?}, and all is well", lane.stream, lane.provider))
        }
        _ => Ok(()),
    }
}

/// Each verdict that isolates is borne out by its evidence, within its provider where a receiver said so, and is held by the
/// brake where it has to be.
pub(crate) fn events(spec: &Spec, agent: &Agent, events: &[Event], now: i64) -> Result<(), String> {
    // The rest of a network falls with it.
    let with_network = events.iter().any(|event| matches!(event.kind, EventKind::NetworkIsolated { .. }));
    for event in events {
        let EventKind::Verdict { address, provider, from, to, evidence, .. } = &event.kind else { continue };
        let State::Isolated { cause, .. } = to else { continue };
        let source = spec.source_of(*address);
        let evidence =
            evidence.as_deref().ok_or_else(|| format!("s{source} is isolated without evidence"))?;
        let uplink = provider == EVERYWHERE;
        if uplink && cause.is_explicit() && !internet::was_guilty(spec, source, None, now - MEMORY, now) {
            return Err(format!("what one receiver said isolates s{source} everywhere"));
        }
        if !with_network && !uplink && from != "probation" {
            borne_out(source, evidence)?;
        }
        if !cause.is_explicit() && !uplink && from != "probation" {
            brake(spec, agent, source, provider, now)?;
        }
        if !cause.is_explicit() && !uplink && !with_network && from != "probation" {
            budget(spec, agent)?;
        }
    }
    Ok(())
}

fn borne_out(source: usize, evidence: &Evidence) -> Result<(), String> {
    let text = serde_json::to_string(evidence).map_err(|error| error.to_string())?;
    let again: Evidence = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match judge(&again) {
        Finding::Guilty { .. } => Ok(()),
        other => Err(format!("s{source} was isolated, and its evidence says {other:?}")),
    }
}

/// Silence isolates nobody when the flips of the day are used up.
fn budget(spec: &Spec, agent: &Agent) -> Result<(), String> {
    let spent = |(_, event): &&(i64, Event)| match &event.kind {
        EventKind::Verdict { from, to, provider, .. } => {
            to.name() == "isolated" && from != "probation" && provider != EVERYWHERE
        }
        _ => false,
    };
    let spent = agent.events.iter().filter(spent).count();
    if spent >= spec.safety.flips_per_day as usize {
        return Err(format!("{spent} flips were spent, and silence isolates one more source"));
    }
    Ok(())
}

/// More than its share of a pool does not fall by what did not come back, one source aside.
fn brake(spec: &Spec, agent: &Agent, source: usize, provider: &str, now: i64) -> Result<(), String> {
    let weight = |n: usize| u64::from(spec.sources[n].weight);
    let all: u64 = (0..spec.sources.len()).map(weight).sum();
    let mut fallen = vec![source];
    for (_, event) in agent.events.iter().filter(|(at, _)| now - at < BRAKE) {
        let EventKind::Verdict { address, provider: there, from, to, .. } = &event.kind else { continue };
        let State::Isolated { cause, .. } = to else { continue };
        let own = !cause.is_explicit() && there == provider && from != "probation";
        let of = spec.source_of(*address);
        if own && !fallen.contains(&of) {
            fallen.push(of);
        }
    }
    let sum: u64 = fallen.iter().map(|&n| weight(n)).sum();
    if fallen.len() > 1 && sum * 1_000 > all * u64::from(spec.safety.brake) {
        return Err(format!(
            "{fallen:?} of {} sources fell within ten minutes at {provider}",
            spec.sources.len()
        ));
    }
    Ok(())
}

/// Isolations of sources that nothing was wrong with: those while packets were lost at random, and the others.
pub(crate) fn innocent(spec: &Spec, agent: &Agent) -> (usize, Vec<String>) {
    let (mut by_loss, mut others) = (0, Vec::new());
    for (at, address, provider, among_others) in agent.isolations() {
        let (source, since) = (spec.source_of(address), at - MEMORY);
        // A network falls where three of it were guilty.
        let network = spec.sources[source].network;
        let mates = (0..spec.sources.len()).filter(|&n| spec.sources[n].network == network);
        let there = spec.provider_of(&provider);
        let is_guilty = |n: usize| internet::was_guilty(spec, n, there, since - 3_600_000, at);
        let collateral = mates.filter(|&n| is_guilty(n)).count() >= 3;
        // Alone, it can not be told from a source that all receivers turn away.
        let alone = !among_others && there.is_some_and(|there| internet::turned_away(spec, there, since, at));
        if internet::was_guilty(spec, source, there, since, at) || collateral || alone {
            continue;
        }
        if internet::was_lossy(spec, since, at) {
            by_loss += 1;
        } else {
            others.push(format!("at {at} ms s{source} at {provider}"));
        }
    }
    (by_loss, others)
}

/// Everybody is back, wherever: all faults are long over.
pub(crate) fn everybody_serves(spec: &Spec, agent: &Agent) -> Result<(), String> {
    for n in 0..spec.sources.len() {
        if let Some(reason) = agent.world.ineligible(spec.source(n)) {
            return Err(format!("s{n} cannot serve long after everything ended: {reason}"));
        }
    }
    let away = agent.world.verdicts().find(|(.., verdict)| verdict.portion() < 1_000);
    away.map_or(Ok(()), |(source, provider, verdict)| {
        Err(format!(
            "{source} is not back at {provider} long after everything ended: {}",
            verdict.at(provider)
        ))
    })
}
