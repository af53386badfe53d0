//! The published state in the words of the view.
//!
//! Owns: how world, decision and counters become a status and its tables. Must not: read the kernel itself; counts
//! come from [`counts`](super::counts).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::config::{Pool, PoolSource, Tier};
use mailsteer_core::decide::{Reason, State, World};
use mailsteer_core::model::{Family, Lane, SlotTarget, Slots, Steering};

use super::counts::Counts;
use super::shared::{Published, Shared};
use crate::api::headline;
use crate::api::view::{
    BypassState, ConfigState, HoldState, PoolState, SourceRow, SourceState, Status, StreamMode, StreamState,
    Suspension, Totals,
};
use crate::state::Outcome;

/// The agent as a whole.
pub(super) fn status(shared: &Shared, published: &Published) -> Status {
    let counts = shared.counts();
    let tallies = shared.tallies();
    let cgroup = crate::daemon::bpf_paths(&shared.options).cgroup;
    let world = &published.world;
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.started.elapsed().as_secs(),
        reconcile_age_seconds: published.settled.map(|at| at.elapsed().as_secs_f64()),
        config: ConfigState {
            file: shared.options.config.as_ref().map(|path| path.display().to_string()),
            loaded: Some(published.config_loaded),
            error: published.config_error.clone(),
        },
        locks: published.locks.clone(),
        streams: streams(world, &published.decision.desired.lanes),
        pools: pools(world),
        totals: totals(&counts),
        conntrack_used_ratio: counts.conntrack_used,
        table_repairs: tallies.repairs,
        suspended: suspended(world),
        bypasses: bypasses(world),
        hold: world.hold().map(|hold| HoldState {
            reason: hold.reason.clone(),
            since: hold.since,
            until: hold.until,
        }),
        time: jiff::Timestamp::now(),
        cgroup_root: cgroup.display().to_string(),
        faults: published
            .faults
            .iter()
            .chain(&counts.faults)
            .cloned()
            .chain(shared.state_faults())
            .chain(shared.disturbed())
            .chain(shared.lists_aside())
            .chain(dns_faults(world))
            .chain(shared.hooks.faults())
            .chain(shared.learning().as_ref().and_then(super::learner::fault))
            .chain(shared.feed_faults(world))
            .chain(shared.logs_unread())
            .collect(),
        ..Status::default()
    };
    status.headline = headline(&status);
    status
}

/// What receivers can see to be wrong of the sources, and where nobody is barred for it.
fn dns_faults(world: &World) -> Vec<String> {
    let whole = world.whole_pool_faults();
    let mut words: Vec<String> = whole
        .iter()
        .map(|(pool, family)| {
            format!("every {family} source of pool {pool} fails a DNS check that is required: none is barred for it")
        })
        .collect();
    let sources = world.dns_faults().map(|(_, check, what)| (check, what));
    let mut faults = sources.chain(world.dns_domain_faults().map(|(_, check, what)| (check, what)));
    if let Some((check, what)) = faults.next() {
        let more = faults.count();
        let more = if more == 0 { String::new() } else { format!(" (and {more} more: `mailsteer events`)") };
        words.push(format!("DNS check {}: {what}{more}", check.as_str()));
    }
    words
}

/// Every stream: it is in one mode, and matched alike, at all providers.
fn streams(world: &World, lanes: &[Lane]) -> Vec<StreamState> {
    let mut told = BTreeSet::new();
    let first = lanes.iter().filter(|lane| told.insert(lane.stream.as_str()));
    let row = |one: &Lane| {
        let of_stream: Vec<&Lane> = lanes.iter().filter(|lane| lane.stream == one.stream).collect();
        stream(world, one, &of_stream)
    };
    first.map(row).collect()
}

fn stream(world: &World, lane: &Lane, of_stream: &[&Lane]) -> StreamState {
    let pool = world.config().streams.iter().find(|stream| stream.name == lane.stream);
    let (mode, share) = mode(lane.steering);
    let dry = |family: &Family| {
        let exhausted = SlotTarget::Refuse(mailsteer_core::model::RefuseReason::Exhausted);
        let serves_nobody = |target: &SlotTarget| *target == exhausted || *target == SlotTarget::Hold;
        let is_dry = |lane: &&Lane| {
            lane.slots.get(family).and_then(Slots::says).is_some_and(|says| serves_nobody(&says))
        };
        of_stream.iter().all(is_dry)
    };
    StreamState {
        name: lane.stream.clone(),
        pool: pool.map(|stream| stream.pool.clone()).unwrap_or_default(),
        mode,
        share,
        matches: lane.matches.to_string(),
        exhausted: Family::BOTH.into_iter().filter(dry).collect(),
        tags: lane.matches.tags.clone(),
        uids: lane.matches.uids.clone(),
        gids: lane.matches.gids.clone(),
        cgroups: lane.matches.cgroups.clone(),
        marks: lane.matches.marks.clone(),
        forwarded: !lane.matches.subnets.is_empty() || !lane.matches.via.is_empty(),
    }
}

/// A steering as the view has it, with the share in thousandths.
pub(super) const fn mode(steering: Steering) -> (StreamMode, u32) {
    match steering {
        Steering::Observe => (StreamMode::Observe, 0),
        Steering::Canary(share) => (StreamMode::Canary, share as u32),
        Steering::Enforce => (StreamMode::Enforce, 1000),
        Steering::Bypass => (StreamMode::Bypass, 0),
    }
}

/// Eligible and all sources of each pool, tier and family that has any.
pub(super) fn pools(world: &World) -> Vec<PoolState> {
    let mut rows: BTreeMap<(String, Tier, Family), (u32, u32, u32)> = BTreeMap::new();
    for pool in world.config().pools.values() {
        for source in &pool.sources {
            let key = (pool.name.clone(), source.tier, Family::of(source.local));
            let (eligible, total, suspended) = rows.entry(key).or_default();
            *total += 1;
            match state(world, source) {
                SourceState::Healthy | SourceState::Suspect | SourceState::Probation => *eligible += 1,
                SourceState::Suspended => *suspended += 1,
                SourceState::Ineligible | SourceState::Isolated => {}
            }
        }
    }
    let row = |((pool, tier, family), (eligible, total, suspended))| PoolState {
        pool,
        tier,
        family,
        eligible,
        total,
        suspended,
    };
    rows.into_iter().map(row).collect()
}

fn totals(counts: &Counts) -> Totals {
    Totals {
        held: counts.held().values().sum(),
        refused: counts.refused().values().sum(),
        wrong: counts.wrong.count,
        wrong_last: counts.wrong.last,
        stopped: counts.stopped.count,
        stopped_last: counts.stopped.last,
        attempts: counts.total(Outcome::Attempted),
        established: counts.total(Outcome::Established),
    }
}

fn source_name(world: &World, public: IpAddr) -> String {
    let source = world.pool_sources().find(|source| source.public == public);
    source.map_or_else(|| public.to_string(), |source| source.name.clone())
}

fn suspended(world: &World) -> Vec<Suspension> {
    let row = |(address, suspension): (&IpAddr, &mailsteer_core::decide::Suspension)| Suspension {
        source: source_name(world, *address),
        reason: suspension.reason.clone(),
        since: suspension.since,
        until: suspension.until,
    };
    world.suspensions().iter().map(row).collect()
}

fn bypasses(world: &World) -> Vec<BypassState> {
    let row = |(stream, bypass): (&String, &mailsteer_core::decide::Bypass)| BypassState {
        stream: stream.clone(),
        reason: bypass.reason.clone(),
        until: bypass.until,
    };
    world.bypasses().iter().map(row).collect()
}

/// Every source, in the order of the pools.
pub(super) fn sources(shared: &Shared, published: &Published) -> Vec<SourceRow> {
    let counts = shared.counts();
    let world = &published.world;
    let mut rows: Vec<SourceRow> = Vec::new();
    for pool in world.config().pools.values() {
        for source in &pool.sources {
            match rows.iter_mut().find(|row| row.public == source.public) {
                Some(row) => row.pools.push(pool.name.clone()),
                None => rows.push(source_row(published, &counts, pool, source)),
            }
        }
    }
    rows
}

fn source_row(published: &Published, counts: &Counts, pool: &Pool, source: &PoolSource) -> SourceRow {
    let world = &published.world;
    SourceRow {
        name: source.name.clone(),
        public: source.public,
        local: source.local,
        pools: vec![pool.name.clone()],
        tier: source.tier,
        weight: source.weight,
        uplink: uplink(published, source),
        state: state(world, source),
        reason: reason(world, source),
        counters: counts.of_source(source.public),
    }
}

/// Whether a source may serve.
pub(super) fn state(world: &World, source: &PoolSource) -> SourceState {
    match (world.ineligible(source.local), world.belief(source.local)) {
        (Some(Reason::Suspended { .. }), _) => SourceState::Suspended,
        (Some(_), _) => SourceState::Ineligible,
        (None, None) => SourceState::Healthy,
        (None, Some((_, verdict))) => match verdict.state {
            State::Healthy => SourceState::Healthy,
            State::Suspect { .. } => SourceState::Suspect,
            State::Isolated { .. } => SourceState::Isolated,
            State::Probation { .. } => SourceState::Probation,
        },
    }
}

/// Why a source does not serve everywhere; empty where it does.
fn reason(world: &World, source: &PoolSource) -> String {
    if let Some(reason) = world.ineligible(source.local) {
        return reason.to_string();
    }
    world
        .belief(source.local)
        .map_or_else(String::new, |(provider, verdict)| verdict.at(provider).to_string())
}

fn uplink(published: &Published, source: &PoolSource) -> Option<String> {
    let uplinks = &published.world.config().uplinks;
    if let Some(index) = source.uplink {
        return uplinks.get(index).map(|uplink| uplink.name.clone());
    }
    let desired = &published.decision.desired;
    let id = published.world.ids().source(source.local)?;
    let targets = desired.lanes.iter().flat_map(|lane| lane.slots.values()).flat_map(|slots| &slots.0);
    let by = targets.filter_map(|target| match target {
        SlotTarget::Source(source, uplink) if *source == id => Some(*uplink),
        _ => None,
    });
    let by = by.take(1).next()?;
    desired.uplinks.iter().find(|uplink| uplink.id == by).map(|uplink| uplink.name.clone())
}
