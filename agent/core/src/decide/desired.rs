//! What should stand on the host, all of it, and why.
//!
//! Owns: the step from [`World`] to [`Desired`]: complete, the same every time, with a reason for each source
//! taken and each left, and the time at which to look again. Must not: know what stands now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::slots::{Holder, Member, Rest};
use super::traffic::{self, Share as Fate, State};
use super::world::World;
use super::{Reason, slots, sources, uplinks};
use crate::config::{Ipv6, Mode, OnExhausted, OnFlip, Plumbing, Pool, PoolSource, Stream, Tier};
use crate::model::{
    Choice, ChoiceMode, Desired, Family, GuardSource, Host, Lane, LaneId, RefuseReason, SlotTarget, Slots,
    Steering, UplinkId, UplinkPlan, WantedAddress, WantedKind,
};

/// How long an address that left the config stays on the host, so that its connections can end: twice the time
/// for which Postfix keeps using one (`smtp_connection_reuse_time_limit`, 300 s).
const FAREWELL: SignedDuration = SignedDuration::from_secs(600);

/// The loopback interface's name: fixed in the kernel (drivers/net/loopback.c).
const LOOPBACK: &str = "lo";

/// What is desired, and when to ask again.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decision {
    /// What is desired.
    pub desired: Desired,
    /// When time alone may change it.
    pub next_deadline: Option<Timestamp>,
}

/// What is desired of this world at this time.
#[must_use]
pub fn desired(world: &World, now: Timestamp) -> Decision {
    let nowhere = Host::default();
    let host = world.host.as_ref().unwrap_or(&nowhere);
    let ways = uplinks::plans(&world.config, host, &world.ids);
    let mut choices = Vec::new();
    let mut shared = BTreeMap::new();
    let mut lanes = Vec::new();
    for stream in &world.config.streams {
        for (provider, networks) in world.config.providers_of(stream) {
            let place = Place { world, host, ways: &ways, provider, networks, now };
            lanes.extend(lane(&place, stream, &mut shared, &mut choices));
        }
    }
    let steers = |lane: &Lane| matches!(lane.steering, Steering::Canary(_) | Steering::Enforce);
    let desired = Desired {
        ports: world.config.ports.clone(),
        exclude: uplinks::exclude(&world.config, host, &ways),
        addresses: addresses(world, host, &ways, now),
        receivers: world.receivers.sets(),
        policy_routing: !world.config.uplinks.is_empty(),
        armed: lanes.iter().any(steers),
        guard: world.guard,
        sources: guard_sources(world, host, &ways),
        uplinks: ways,
        on_flip: on_flip(world, lanes.iter().filter(|lane| steers(lane))),
        lanes,
        choices,
    };
    Decision { desired, next_deadline: next_deadline(world, now) }
}

fn next_deadline(world: &World, now: Timestamp) -> Option<Timestamp> {
    let farewells = world.ids.sources().filter_map(|(_, _, retired)| retired?.checked_add(FAREWELL).ok());
    let awaited = world.awaited.keys().filter_map(|&address| world.awaited_until(address, now));
    let waits = farewells.chain(awaited).chain(world.operator.next_deadline());
    waits
        .chain(world.traffic.next_deadline())
        .chain(world.next_probe())
        .chain(world.flaps.next_deadline())
        .chain(world.next_preflight())
        .filter(|&at| at > now)
        .min()
}

fn addresses(world: &World, host: &Host, ways: &[UplinkPlan], now: Timestamp) -> Vec<WantedAddress> {
    let tags = world.config.streams.iter().flat_map(|stream| &stream.matches.tags);
    let tag =
        |&address: &IpAddr| WantedAddress { address, interface: LOOPBACK.into(), kind: WantedKind::Tag };
    let mut wanted: BTreeSet<WantedAddress> = tags.map(tag).collect();
    if world.config.plumbing == Plumbing::Plumb {
        wanted.extend(world.pool_sources().filter_map(|source| source_address(world, host, ways, source)));
    }
    wanted.extend(addresses_that_stay(world, host, now));
    wanted.into_iter().collect()
}

fn source_address(
    world: &World,
    host: &Host,
    ways: &[UplinkPlan],
    source: &PoolSource,
) -> Option<WantedAddress> {
    // An address that is on the host stays where it is, even if its uplink is another by now: which interface holds
    // it makes no difference to what leaves (RFC 1122 section 3.3.4.2, the weak host model), and moving it would end
    // its connections.
    let standing = host.addresses.iter().find(|entry| entry.address == source.local);
    let holder = standing.and_then(|entry| host.links.iter().find(|link| link.index == entry.ifindex));
    let interface = match holder {
        Some(link) => link.name.clone(),
        None => sources::uplink_of(world, host, ways, source)
            .filter(|way| way.ifindex.is_some())?
            .interface
            .clone(),
    };
    Some(WantedAddress { address: source.local, interface, kind: WantedKind::Source })
}

/// Addresses of ours that left the config a short while ago stay where they are, and so do those that the config
/// no longer lets mailsteer add, but still uses.
fn addresses_that_stay(world: &World, host: &Host, now: Timestamp) -> Vec<WantedAddress> {
    let adopts = world.config.plumbing == Plumbing::Adopt;
    let stays = |retired: Option<Timestamp>| match retired {
        Some(retired) => retired.checked_add(FAREWELL).is_ok_and(|until| until > now),
        None => adopts,
    };
    let staying = world.ids.sources().filter(|&(_, _, retired)| stays(retired));
    let on_host = staying.filter_map(|(_, address, _)| {
        let entry = host.addresses.iter().find(|entry| entry.address == address && entry.ours)?;
        let link = host.links.iter().find(|link| link.index == entry.ifindex && !link.loopback)?;
        Some(WantedAddress { address, interface: link.name.clone(), kind: WantedKind::Source })
    });
    on_host.collect()
}

fn guard_sources(world: &World, host: &Host, ways: &[UplinkPlan]) -> Vec<GuardSource> {
    let bound: BTreeMap<IpAddr, u32> = world
        .pool_sources()
        .filter(|source| source.uplink.is_some())
        .map(|source| {
            let ifindex = sources::uplink_of(world, host, ways, source).and_then(|uplink| uplink.ifindex);
            // Not "any": the connections of an uplink that hung up would go on by another one.
            (source.local, ifindex.unwrap_or(GuardSource::NOWHERE))
        })
        .collect();
    let all = world.ids.sources();
    let entry = |(id, address, _)| GuardSource { id, address, ifindex: bound.get(&address).copied() };
    let mut sources: Vec<GuardSource> = all.map(entry).collect();
    sources.sort_unstable();
    sources
}

/// Lanes of one pool, provider and family share one computation, unless a stream's shares may not move.
type Shared = BTreeMap<(String, Option<String>, Family, Option<String>), Share>;

#[derive(Clone)]
struct Share {
    /// Who holds which slot; `None` where nobody may.
    targets: Option<Vec<SlotTarget>>,
    count: u32,
    /// Whether the pool has any source of the family.
    served: bool,
    /// Whether an address is on its way, so that waiting is better than refusing.
    awaited: bool,
    standings: Vec<(String, Result<u32, Reason>)>,
}

/// A stream's lane at a provider.
fn lane(place: &Place<'_>, stream: &Stream, shared: &mut Shared, choices: &mut Vec<Choice>) -> Option<Lane> {
    let Place { world, provider, networks, .. } = *place;
    let id = world.ids.lane(&stream.name, provider)?;
    let pool = world.config.pools.get(&stream.pool)?;
    let rails = world.traffic.rails();
    let special = rails.is_special(&stream.name, provider) || world.fuses.any(&stream.name);
    let special = special.then(|| stream.name.clone());
    // Where nothing is believed of any source, providers do not differ.
    let believed = world.traffic.knows(provider).then(|| provider.to_owned());
    let stopped = world.hold().is_none() && rails.is_stopped(&stream.name, provider);
    let mut by_family = BTreeMap::new();
    for family in Family::BOTH {
        let key = (pool.name.clone(), believed.clone(), family, special.clone());
        let share = shared.entry(key).or_insert_with(|| share(place, pool, &stream.name, family));
        by_family.insert(family, slots_of(share, stream, family, stopped));
        choices.extend(share.standings.iter().map(|(source, standing)| Choice {
            lane: id,
            family,
            source: source.clone(),
            mode: match standing {
                Ok(held) => ChoiceMode::Chosen { slots: *held, of: share.count },
                Err(reason) => ChoiceMode::Discarded(reason.clone()),
            },
        }));
    }
    Some(Lane {
        id,
        stream: stream.name.clone(),
        provider: provider.to_owned(),
        networks: networks.to_vec(),
        matches: stream.matches.clone(),
        steering: steering(world, stream),
        balance: pool.balance,
        slots: by_family,
    })
}

/// What becomes of live connections, where they do not all finish.
fn on_flip<'a>(world: &World, lanes: impl Iterator<Item = &'a Lane>) -> BTreeMap<LaneId, OnFlip> {
    let of = |stream: &str| world.config.streams.iter().find(|one| one.name == stream).map(|one| one.on_flip);
    let ends = |lane: &'a Lane| Some((lane.id, of(&lane.stream).filter(|word| *word != OnFlip::Finish)?));
    lanes.filter_map(ends).collect()
}

fn steering(world: &World, stream: &Stream) -> Steering {
    if world.operator.bypassed.contains_key(&stream.name) {
        return Steering::Bypass;
    }
    match stream.mode {
        Mode::Observe => Steering::Observe,
        Mode::Canary(share) => Steering::Canary(share),
        Mode::Enforce => Steering::Enforce,
    }
}

fn slots_of(share: &Share, stream: &Stream, family: Family, stopped: bool) -> Slots {
    if stopped && share.served {
        return Slots(vec![SlotTarget::Refuse(RefuseReason::Stopped); share.count as usize]);
    }
    if let Some(targets) = &share.targets {
        return Slots(targets.clone());
    }
    let target = match (share.served, family) {
        (false, Family::V6) if stream.ipv6 == Ipv6::Pass => SlotTarget::Pass,
        (false, Family::V6) => SlotTarget::Refuse(RefuseReason::NoIpv6Source),
        (false, Family::V4) => SlotTarget::Refuse(RefuseReason::NoIpv4Source),
        (true, _) if stream.on_exhausted == OnExhausted::Pass => SlotTarget::Pass,
        (true, _) if share.awaited => SlotTarget::Hold,
        (true, _) => SlotTarget::Refuse(RefuseReason::Exhausted),
    };
    Slots(vec![target; share.count as usize])
}

/// Where and when shares are computed.
#[derive(Clone, Copy)]
struct Place<'a> {
    world: &'a World,
    host: &'a Host,
    ways: &'a [UplinkPlan],
    provider: &'a str,
    networks: &'a [IpNet],
    now: Timestamp,
}

fn share(place: &Place<'_>, pool: &Pool, stream: &str, family: Family) -> Share {
    let Place { world, now, .. } = *place;
    let sources: Vec<&PoolSource> =
        pool.sources.iter().filter(|source| Family::of(source.local) == family).collect();
    let standings: Vec<Result<UplinkId, Reason>> =
        sources.iter().map(|source| sources::standing(world, place.host, place.ways, source)).collect();
    let (members, spares_serve) = members(place, pool, stream, &sources, &standings);
    let weights_of = |tier: Tier| -> Vec<u32> {
        sources.iter().map(|source| if source.tier == tier { source.weight } else { 0 }).collect()
    };
    let count = slots::slot_count_of_tiers(&weights_of(Tier::Primary), &weights_of(Tier::Spare));
    let holders = slots::share_out(count, &members, world.config.safety.surge);
    let target = |holder: &Holder| match *holder {
        Holder::Nobody => Some(SlotTarget::Refuse(RefuseReason::Surge)),
        Holder::Fused => Some(SlotTarget::Refuse(RefuseReason::Fuse)),
        Holder::Member(index) => match &standings[index] {
            Ok(uplink) => Some(SlotTarget::Source(world.ids.source(sources[index].local)?, *uplink)),
            // On hold: the share stays its own, and waits or is refused with it.
            Err(_) if world.awaited_until(sources[index].local, now).is_some() => Some(SlotTarget::Hold),
            Err(_) => Some(SlotTarget::Refuse(RefuseReason::Exhausted)),
        },
    };
    let targets = holders.as_ref().and_then(|held| held.iter().map(target).collect());
    let standings = believed(place, stream, &sources, standings);
    Share {
        targets,
        count,
        served: !sources.is_empty(),
        awaited: sources.iter().any(|source| world.awaited_until(source.local, now).is_some()),
        standings: answers(&sources, standings, holders.as_deref().unwrap_or_default(), spares_serve),
    }
}

/// Who shares the slots and how, and whether the spare tier takes over what primary sources lost.
fn members(
    place: &Place<'_>,
    pool: &Pool,
    stream: &str,
    sources: &[&PoolSource],
    standings: &[Result<UplinkId, Reason>],
) -> (Vec<Member>, bool) {
    let portions: Vec<u16> = sources
        .iter()
        .zip(standings)
        .map(|(source, standing)| portion(place, stream, source, standing))
        .collect();
    let whole = |tier: Tier| {
        let all = sources.iter().zip(&portions);
        all.filter(|(source, portion)| source.tier == tier && source.weight > 0 && **portion == 1000).count()
    };
    let spares_serve = whole(Tier::Primary) < pool.min_healthy.max(1) as usize && whole(Tier::Spare) > 0;
    let heirs = if spares_serve { Tier::Spare } else { Tier::Primary };
    let only_spares = sources.iter().all(|source| source.tier == Tier::Spare || source.weight == 0);
    let member = |(index, source): (usize, &&PoolSource)| Member {
        weight: if source.tier == Tier::Primary || only_spares { source.weight } else { 0 },
        heir: if source.tier == heirs && portions[index] == 1000 { source.weight } else { 0 },
        keeps: portions[index],
        rest: rest(place, stream, source, &standings[index]),
        network: traffic::network(source.public),
    };
    (sources.iter().enumerate().map(member).collect(), spares_serve)
}

/// How much of its own share a source may hold, in thousandths.
fn portion(place: &Place<'_>, stream: &str, source: &PoolSource, standing: &Result<UplinkId, Reason>) -> u16 {
    if !may_hold_slots(place.world, source, standing) {
        return 0;
    }
    // On hold nothing changes by itself.
    if place.world.hold().is_some() {
        1000
    } else if place.world.fuses.blown(stream, source.local).is_some() {
        0
    } else {
        place.world.traffic.portion(source.local, place.provider).0
    }
}

fn rest(place: &Place<'_>, stream: &str, source: &PoolSource, standing: &Result<UplinkId, Reason>) -> Rest {
    let traffic = &place.world.traffic;
    if place.world.hold().is_none() && place.world.fuses.blown(stream, source.local).is_some() {
        return Rest::Fused;
    }
    let believed = place.world.hold().is_none() && traffic.portion(source.local, place.provider).0 < 1000;
    if standing.is_err() || !believed {
        return Rest::Moves;
    }
    match traffic.rails().share(stream, source.local, place.provider) {
        Fate::Moves => Rest::Surges,
        Fate::Refused => Rest::Refused,
    }
}

/// What is believed of sources that could serve by the facts.
fn believed(
    place: &Place<'_>,
    stream: &str,
    sources: &[&PoolSource],
    standings: Vec<Result<UplinkId, Reason>>,
) -> Vec<Result<UplinkId, Reason>> {
    let on_hold = place.world.hold().is_some();
    let belief = |source: &PoolSource| -> Option<Reason> {
        if let Some(blown) = place.world.fuses.blown(stream, source.local).filter(|_| !on_hold) {
            return Some(Reason::FuseBlown { why: blown.to_string() });
        }
        let (portion, verdict) = place.world.traffic.portion(source.local, place.provider);
        let (provider, verdict) = verdict.filter(|_| portion == 0 && !on_hold)?;
        let until = match &verdict.state {
            State::Isolated { until, .. } => Some(*until),
            _ => None,
        };
        Some(Reason::Isolated { provider: provider.to_owned(), cause: verdict.cause()?.clone(), until })
    };
    let judged = |(standing, source): (Result<UplinkId, Reason>, &&PoolSource)| {
        standing.and_then(|uplink| belief(source).map_or(Ok(uplink), Err))
    };
    standings.into_iter().zip(sources).map(judged).collect()
}

/// Whether a source shares the slots: whoever can serve; while the operator holds, whoever could when that began, unless
/// the operator has set it aside since.
fn may_hold_slots(world: &World, source: &PoolSource, standing: &Result<UplinkId, Reason>) -> bool {
    let Some(hold) = world.hold() else { return standing.is_ok() };
    let set_aside = matches!(standing, Err(Reason::Suspended { .. } | Reason::WeightZero));
    hold.serving.contains(&source.local) && !set_aside
}

fn answers(
    members: &[&PoolSource],
    standings: Vec<Result<UplinkId, Reason>>,
    holders: &[Holder],
    spares_serve: bool,
) -> Vec<(String, Result<u32, Reason>)> {
    let mut held = vec![0_u32; members.len()];
    for holder in holders {
        if let Holder::Member(index) = holder {
            held[*index] += 1;
        }
    }
    let answer = |((source, standing), held): ((&&PoolSource, Result<UplinkId, Reason>), u32)| {
        let idle_spare = source.tier == Tier::Spare && !spares_serve;
        let standing = match standing {
            Ok(_) if idle_spare => Err(Reason::Spare),
            Ok(_) => Ok(held),
            Err(reason) => Err(reason),
        };
        (source.name.clone(), standing)
    };
    members.iter().zip(standings).zip(held).map(answer).collect()
}
