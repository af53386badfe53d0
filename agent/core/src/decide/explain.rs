//! Which rule a connection meets, which sources it may get, and why not the others.
//!
//! Owns: the same reading of a stream's match as the data plane's, on paper. Must not: ask the kernel; the answer
//! is what should happen, and `try` shows what does.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::receivers::Whose;
use super::uplinks;
use super::world::World;
use crate::model::{
    Choice, ChoiceMode, Desired, Family, Lane, LaneMatch, RefuseReason, SlotTarget, Slots, Steering,
};

/// Who connects.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Who {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// cgroup path.
    pub cgroup: Option<String>,
    /// The tag that the socket is bound to.
    pub tag: Option<IpAddr>,
    /// Address in a container's network: forwarded traffic.
    pub subnet: Option<IpAddr>,
    /// Packet mark.
    pub mark: Option<u32>,
    /// Incoming interface: forwarded traffic.
    pub via: Option<String>,
}

impl Who {
    const fn is_forwarded(&self) -> bool {
        self.subnet.is_some() || self.via.is_some()
    }
}

/// The whole answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Why nothing is steered at all for this destination, where that is so.
    pub not_steered: Option<String>,
    /// Streams in the order in which they were tried, up to the one that matched.
    pub streams: Vec<StreamAnswer>,
    /// The stream that matched.
    pub stream: Option<String>,
    /// Whose receiver the destination is.
    pub provider: Option<String>,
    /// By what that is known.
    pub provider_by: Option<String>,
    /// Its pool.
    pub pool: Option<String>,
    /// Each source of the pool in the destination's family.
    pub sources: Vec<SourceAnswer>,
    /// Why it is refused at once, where it is.
    pub refused: Option<RefuseReason>,
    /// In a sentence.
    pub result: String,
}

/// Whether a stream matched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamAnswer {
    /// The stream.
    pub stream: String,
    /// Whether it matched.
    pub matched: bool,
    /// Why, or why not.
    pub why: String,
}

/// What a source's chances are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SourceAnswer {
    /// Its name.
    pub source: String,
    /// Its address on this host.
    pub address: Option<IpAddr>,
    /// Its share, in thousandths.
    pub share: u32,
    /// Why it has none, or not all of it.
    pub why_not: Option<String>,
}

/// Explains what a new connection from `who` to `destination` should meet.
#[must_use]
pub fn explain(world: &World, desired: &Desired, who: &Who, destination: IpAddr) -> Explanation {
    if let Some(why) = not_steered(world, desired, destination) {
        let result = format!("left alone: {why}");
        return Explanation { not_steered: Some(why), result, ..nothing() };
    }
    let mut streams = Vec::new();
    let whose = world.whose(destination);
    let by = Some(whose.to_string());
    for stream in &world.config.streams {
        let here = |lane: &&Lane| lane.stream == stream.name && lane.provider == whose.provider();
        let lane = desired.lanes.iter().find(here);
        let mismatch = mismatch(&stream.matches, who, (destination, whose));
        // A stream that has no lane there is not asked.
        if lane.is_none() && mismatch.is_none() {
            continue;
        }
        let matched = mismatch.is_none();
        let why = mismatch.unwrap_or_else(|| stream.matches.to_string());
        streams.push(StreamAnswer { stream: stream.name.clone(), matched, why });
        if let Some(lane) = lane.filter(|_| matched) {
            let found = matched_by(world, desired, lane, Family::of(destination), streams);
            return Explanation { provider_by: by, ..found };
        }
    }
    let result = "left alone: no stream matches; it leaves as it would without mailsteer".to_owned();
    let provider = Some(whose.provider().to_owned());
    Explanation { streams, provider, provider_by: by, result, ..nothing() }
}

const fn nothing() -> Explanation {
    Explanation {
        not_steered: None,
        streams: Vec::new(),
        stream: None,
        provider: None,
        provider_by: None,
        pool: None,
        sources: Vec::new(),
        refused: None,
        result: String::new(),
    }
}

fn not_steered(world: &World, desired: &Desired, destination: IpAddr) -> Option<String> {
    let local = world.host.as_ref().is_some_and(|host| uplinks::is_local(host, destination));
    if destination.is_loopback() || local {
        return Some(format!("{destination} is this host itself"));
    }
    if destination.is_multicast() {
        return Some(format!("{destination} is a multicast address"));
    }
    let network = desired.exclude.iter().find(|network| network.contains(&destination))?;
    let configured = world.config.exclude.iter().any(|entry| entry.contains(network));
    let whence =
        if configured { "`exclude` lists it" } else { "it lies behind an interface that is no uplink" };
    Some(format!("{destination} is in {network}, and {whence}"))
}

/// Why a match does not fit; `None` where it does.
fn mismatch(matches: &LaneMatch, who: &Who, (destination, whose): (IpAddr, Whose<'_>)) -> Option<String> {
    let forwarded = who.is_forwarded();
    let one_of = |what: &str, list: &[u32], given: Option<u32>| {
        let fits = list.is_empty() || given.is_some_and(|given| list.contains(&given));
        (!fits).then(|| format!("{what} is not {}", or(list)))
    };
    if forwarded && (!matches.uids.is_empty() || !matches.gids.is_empty() || !matches.tags.is_empty()) {
        return Some("it matches only this host's own processes, and this is forwarded traffic".into());
    }
    if !forwarded && (!matches.subnets.is_empty() || !matches.via.is_empty()) {
        return Some("it matches only forwarded traffic, and this is the host's own".into());
    }
    one_of("the user id", &matches.uids, who.uid)
        .or_else(|| one_of("the group id", &matches.gids, who.gid))
        .or_else(|| one_of("the packet mark", &matches.marks, who.mark))
        .or_else(|| cgroup_mismatch(&matches.cgroups, who.cgroup.as_deref()))
        .or_else(|| address_mismatch(matches, who, destination))
        .or_else(|| receiver_mismatch(matches, destination, whose))
}

fn cgroup_mismatch(list: &[String], given: Option<&str>) -> Option<String> {
    let inside = |path: &String| {
        let rest = given.and_then(|given| given.strip_prefix(path.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let fits = list.is_empty() || list.iter().any(inside);
    (!fits).then(|| format!("the cgroup is not in {}", or(list)))
}

fn address_mismatch(matches: &LaneMatch, who: &Who, destination: IpAddr) -> Option<String> {
    if !matches.tags.is_empty() && !who.tag.is_some_and(|tag| matches.tags.contains(&tag)) {
        return Some(format!("the socket is not bound to {}", or(&matches.tags)));
    }
    let in_subnet = |address: IpAddr| matches.subnets.iter().any(|subnet| subnet.contains(&address));
    if !matches.subnets.is_empty() && !who.subnet.is_some_and(in_subnet) {
        return Some(format!("it does not come from {}", or(&matches.subnets)));
    }
    if !matches.via.is_empty() && !who.via.as_ref().is_some_and(|via| matches.via.contains(via)) {
        return Some(format!("it does not come in by {}", or(&matches.via)));
    }
    let towards = matches.destinations.iter().any(|network| network.contains(&destination));
    let fits = matches.destinations.is_empty() || towards;
    (!fits).then(|| format!("{destination} is not in {}", or(&matches.destinations)))
}

fn receiver_mismatch(matches: &LaneMatch, destination: IpAddr, whose: Whose<'_>) -> Option<String> {
    let provider = whose.provider();
    if !matches.providers.is_empty() && !matches.providers.iter().any(|one| one == provider) {
        return Some(format!("{destination} is at {provider}, not at {}", or(&matches.providers)));
    }
    let fits = matches.countries.is_empty() || matches.countries.contains(destination);
    (!fits).then(|| format!("{destination} is not in {}", or(&matches.countries.codes)))
}

fn or<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn matched_by(
    world: &World,
    desired: &Desired,
    lane: &Lane,
    family: Family,
    streams: Vec<StreamAnswer>,
) -> Explanation {
    let stream = world.config.streams.iter().find(|stream| stream.name == lane.stream);
    let here = |choice: &&Choice| choice.lane == lane.id && choice.family == family;
    let sources: Vec<SourceAnswer> =
        desired.choices.iter().filter(here).map(|choice| answer(world, lane, choice)).collect();
    Explanation {
        not_steered: None,
        streams,
        stream: Some(lane.stream.clone()),
        provider: Some(lane.provider.clone()),
        provider_by: None,
        pool: stream.map(|stream| stream.pool.clone()),
        refused: refused(lane, family),
        result: result(lane, family, &sources),
        sources,
    }
}

fn answer(world: &World, lane: &Lane, choice: &Choice) -> SourceAnswer {
    let source = world.pool_sources().find(|source| source.name == choice.source);
    // Of who is on its way back: why it has not all of its share.
    let believed = || {
        let (_, verdict) = world.traffic.portion(source?.local, &lane.provider);
        verdict.filter(|_| world.hold().is_none()).map(|(provider, verdict)| verdict.at(provider).to_string())
    };
    let (share, why_not) = match &choice.mode {
        ChoiceMode::Chosen { slots, of } => (slots * 1000 / (*of).max(1), believed()),
        ChoiceMode::Discarded(reason) => (0, Some(reason.to_string())),
    };
    let address = source.map(|source| source.local);
    SourceAnswer { source: choice.source.clone(), address, share, why_not }
}

fn refused(lane: &Lane, family: Family) -> Option<RefuseReason> {
    let steered = matches!(lane.steering, Steering::Canary(_) | Steering::Enforce);
    match lane.slots.get(&family)?.says()? {
        SlotTarget::Refuse(reason) if steered => Some(reason),
        _ => None,
    }
}

fn result(lane: &Lane, family: Family, sources: &[SourceAnswer]) -> String {
    let stream = &lane.stream;
    match lane.steering {
        Steering::Observe => return format!("left alone: stream {stream} is in mode observe"),
        Steering::Bypass => return format!("left alone: stream {stream} is bypassed"),
        Steering::Canary(_) | Steering::Enforce => {}
    }
    let slots = lane.slots.get(&family);
    let says = slots.and_then(Slots::says);
    let chosen: Vec<&SourceAnswer> = sources.iter().filter(|source| source.share > 0).collect();
    let answer = match says {
        Some(SlotTarget::Refuse(reason)) => format!("refused at once: {}", reason.as_str()),
        Some(SlotTarget::Hold) => "held until its pool's addresses are ready".into(),
        Some(SlotTarget::Pass) => {
            "left alone: its pool has no source for it, and the config says pass".into()
        }
        Some(SlotTarget::Source(..)) | None => match chosen.as_slice() {
            [only] => format!("leaves from {}", named(only)),
            many => format!("leaves from one of {} sources", many.len()),
        },
    };
    let stranded = slots.map_or(0, Slots::stranded);
    let answer = match slots {
        Some(slots) if stranded > 0 => {
            format!(
                "{answer}; {stranded} of {} slots refuse: their sources cannot serve, and nothing moves on hold",
                slots.0.len()
            )
        }
        _ => answer,
    };
    match lane.steering {
        Steering::Canary(share) => {
            format!("{}.{} % of it: {answer}; the rest is left alone", share / 10, share % 10)
        }
        _ => answer,
    }
}

fn named(source: &SourceAnswer) -> String {
    source.address.map_or_else(|| source.source.clone(), |address| format!("{address} ({})", source.source))
}
