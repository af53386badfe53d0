//! What has to hold of what is believed, after every step of every world, and of all of it in the end.
//!
//! Owns: the invariants of beliefs, in terms of what was told and of what is true. Must not: use the code that it checks, but
//! for reading what was decided.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mailsteer_core::decide::{EVERYWHERE, Event, EventKind, Evidence, Finding, State, Withheld, judge};

use super::host::Agent;
use super::internet;
use super::spec::Spec;

/// How far back what was true may have led to a verdict: the judge's window, and what a stalled agent reads late.
const MEMORY: i64 = 120_000;
/// The brake looks back as long.
const BRAKE: i64 = 600_000;
/// Sources of a network that fall within this take it with them.
const TOGETHER: i64 = 3_600_000;
/// The budget is a day's.
const DAY: i64 = 86_400_000;

/// A source that was isolated, as it was told.
struct Isolation<'a> {
    at: i64,
    source: usize,
    address: IpAddr,
    provider: &'a str,
    /// Whether the receivers said so.
    explicit: bool,
    /// Whether it was on its way back.
    relapse: bool,
    /// Whether it fell with its network, and was not judged by itself.
    with_network: bool,
    evidence: Option<&'a Evidence>,
}

impl<'a> Isolation<'a> {
    fn of(spec: &Spec, at: i64, event: &'a Event) -> Option<Self> {
        let EventKind::Verdict { address, provider, from, to, evidence, .. } = &event.kind else {
            return None;
        };
        let State::Isolated { cause, .. } = to else { return None };
        Some(Self {
            at,
            source: spec.source_of(*address),
            address: *address,
            provider,
            explicit: cause.is_explicit(),
            relapse: from == "probation",
            with_network: false,
            evidence: evidence.as_deref(),
        })
    }

    /// All that were told of, in their order.
    fn all(spec: &Spec, events: &'a [(i64, Event)]) -> Vec<Self> {
        let (mut all, mut falling) = (Vec::new(), None);
        for (at, event) in events {
            if let EventKind::NetworkIsolated { network, provider } = &event.kind {
                falling = Some((*at, *network, provider));
            }
            all.extend(Self::of(spec, *at, event).map(|one| {
                let with_network = falling.is_some_and(|(then, network, provider)| {
                    then == *at && network.contains(&one.address) && one.provider == provider
                });
                Self { with_network, ..one }
            }));
        }
        all
    }

    /// Neither an uplink's fall nor a relapse.
    fn is_first(&self) -> bool {
        !self.relapse && self.provider != EVERYWHERE
    }
}

/// Each verdict that isolates is borne out by its evidence, within its provider where a receiver said so, and not against the
/// guard rails; and what is withheld is so for cause. `new`: so many of the agent's last events.
pub(crate) fn events(spec: &Spec, agent: &Agent, new: usize) -> Result<(), String> {
    let all = Isolation::all(spec, &agent.events);
    for (at, event) in &agent.events[agent.events.len() - new..] {
        withheld(spec, &all, *at, event)?;
    }
    let isolates = |(at, event): &&(i64, Event)| Isolation::of(spec, *at, event).is_some();
    let count = agent.events[agent.events.len() - new..].iter().filter(isolates).count();
    for n in all.len() - count..all.len() {
        isolation(spec, &all[..n], &all[n])?;
    }
    Ok(())
}

fn withheld(spec: &Spec, all: &[Isolation<'_>], at: i64, event: &Event) -> Result<(), String> {
    let EventKind::FlipWithheld { source, cause, why, .. } = &event.kind else { return Ok(()) };
    if cause.is_explicit() {
        return Err(format!("{source} is refused by receivers, and is held: {why:?}"));
    }
    if *why == Withheld::Budget && budget_left(spec, all, spec.source_named(source), at) {
        return Err(format!("{source} is held, and there are flips left"));
    }
    Ok(())
}

fn isolation(spec: &Spec, earlier: &[Isolation<'_>], one: &Isolation<'_>) -> Result<(), String> {
    let Isolation { at, source, provider, explicit, .. } = one;
    let evidence = one.evidence.ok_or_else(|| format!("s{source} is isolated without evidence"))?;
    if *explicit && *provider == EVERYWHERE {
        return Err(format!("what receivers of one provider said isolates s{source} everywhere"));
    }
    if *provider != EVERYWHERE {
        within(spec, provider, evidence)?;
    }
    if one.with_network {
        three_fell(spec, earlier, one)?;
    } else if one.is_first() {
        borne_out(*source, evidence)?;
        if !explicit && !budget_left(spec, earlier, *source, *at) {
            return Err(format!("no flips were left, and silence isolates s{source} at {provider}"));
        }
    }
    if one.is_first() && !explicit { brake(spec, earlier, one) } else { Ok(()) }
}

/// Only what receivers of this provider did speaks against a source there.
fn within(spec: &Spec, provider: &str, evidence: &Evidence) -> Result<(), String> {
    let there = spec.provider_of(provider).ok_or("an unknown provider")?;
    let stranger = evidence.outcomes.iter().find(|one| !spec.is_receiver_of(one.destination, there));
    match stranger {
        Some(one) => Err(format!("{} speaks of {provider}, and is no receiver of its", one.destination)),
        None if evidence.provider != provider => {
            Err(format!("evidence of {} isolates at {provider}", evidence.provider))
        }
        None => Ok(()),
    }
}

/// A network falls where three of it fell by themselves within an hour.
fn three_fell(spec: &Spec, earlier: &[Isolation<'_>], one: &Isolation<'_>) -> Result<(), String> {
    let network = |source: usize| spec.sources[source].network;
    let here = earlier.iter().filter(|other| {
        one.at - other.at < TOGETHER && other.provider == one.provider && !other.with_network
    });
    let fallen = here.map(|other| other.source).filter(|&source| network(source) == network(one.source));
    let fallen: BTreeSet<usize> = fallen.collect();
    if fallen.len() < 3 {
        return Err(format!("{fallen:?} take s{} with them at {}", one.source, one.provider));
    }
    Ok(())
}

/// What was stored is judged again, as `replay` does.
fn borne_out(source: usize, evidence: &Evidence) -> Result<(), String> {
    let text = serde_json::to_string(evidence).map_err(|error| error.to_string())?;
    let again: Evidence = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match judge(&again) {
        Finding::Guilty { .. } => Ok(()),
        other => Err(format!("s{source} was isolated, and its evidence says {other:?}")),
    }
}

/// Whether each stream that uses a source has flips left.
fn budget_left(spec: &Spec, earlier: &[Isolation<'_>], source: usize, now: i64) -> bool {
    let spent = |pool: usize| {
        // What falls with a network is not moved.
        let flips = earlier.iter().filter(|one| now - one.at < DAY && one.is_first() && !one.with_network);
        flips.filter(|one| spec.is_in(one.source, pool)).count()
    };
    let pools = (0..spec.streams).map(|stream| spec.pool_of(stream));
    let mut own = pools.filter(|&pool| spec.is_in(source, pool));
    own.all(|pool| spent(pool) < spec.safety.flips_per_day as usize)
}

/// No more than its part of a pool falls by what did not come back, one source aside.
fn brake(spec: &Spec, earlier: &[Isolation<'_>], one: &Isolation<'_>) -> Result<(), String> {
    let by_silence = earlier.iter().filter(|other| {
        one.at - other.at < BRAKE && other.is_first() && !other.explicit && other.provider == one.provider
    });
    let fallen: BTreeSet<usize> = by_silence.map(|other| other.source).chain([one.source]).collect();
    for pool in (0..spec.pools).filter(|&pool| spec.is_in(one.source, pool)) {
        let weight = |n: usize| u64::from(spec.sources[n].weight);
        let of_pool: Vec<usize> = fallen.iter().copied().filter(|&n| spec.is_in(n, pool)).collect();
        let sum: u64 = of_pool.iter().copied().map(weight).sum();
        let all: u64 = spec.members(pool).map(weight).sum();
        if of_pool.len() > 1 && sum * 1_000 > all * u64::from(spec.safety.brake) {
            return Err(format!("{sum} of {all} fell within ten minutes at {}: {of_pool:?}", one.provider));
        }
    }
    Ok(())
}

/// Isolations of sources that nothing was wrong with: those while connections failed at random, and the others.
pub(crate) fn innocent(spec: &Spec, agent: &Agent) -> (usize, Vec<String>) {
    let (mut by_chance, mut others) = (0, Vec::new());
    for (at, address, provider, among_others) in agent.isolations() {
        let (source, since) = (spec.source_of(address), at - MEMORY);
        // A network falls where three of it were guilty.
        let network = spec.sources[source].network;
        let mates = (0..spec.sources.len()).filter(|&n| spec.sources[n].network == network);
        let there = spec.provider_of(&provider);
        let is_guilty = |n: usize| internet::was_guilty(spec, n, there, since - TOGETHER, at);
        let collateral = mates.filter(|&n| is_guilty(n)).count() >= 3;
        // Alone, it can not be told from a source that all receivers turn away.
        let alone = !among_others && there.is_some_and(|there| internet::turned_away(spec, there, since, at));
        if internet::was_guilty(spec, source, there, since, at) || collateral || alone {
            continue;
        }
        if internet::was_noisy(spec, since, at) {
            by_chance += 1;
        } else {
            others.push(format!("at {at} ms s{source} at {provider}"));
        }
    }
    (by_chance, others)
}

/// Everybody is back, wherever, and slots are as they were in the beginning.
pub(crate) fn everybody_is_back(spec: &Spec, agent: &Agent) -> Result<(), String> {
    for n in 0..spec.sources.len() {
        if let Some(reason) = agent.world.ineligible(spec.source(n)) {
            return Err(format!("s{n} cannot serve: {reason}"));
        }
    }
    let away = agent.world.verdicts().find(|(.., verdict)| verdict.portion() < 1_000);
    if let Some((source, provider, verdict)) = away {
        return Err(format!("{source} is not back at {provider}: {}", verdict.at(provider)));
    }
    if agent.slots() == agent.first_slots() { Ok(()) } else { Err("slots are not what they were".into()) }
}
