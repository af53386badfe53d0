//! Guard rails: what a belief may not do, however well founded (invariant 5).
//!
//! Owns: the flip budget of each stream, the brake, and networks that are isolated as a whole. Must not: judge; it is asked
//! after a source was found guilty, and says whether its share may move.
//!
//! A receiver's own word is never held: the source is isolated there, and what the budget does not let move is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::recent::Pair;
use crate::config::{Config, OnRelapse, Pool};
use crate::decide::world::moved;

/// The brake looks back as long.
const BRAKE: SignedDuration = SignedDuration::from_mins(10);
/// Sources of one network that fall within this take the network with them.
const TOGETHER: SignedDuration = SignedDuration::from_hours(1);
/// How many.
const OF_A_NETWORK: usize = 3;
/// The budget is a day's.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Why a belief is not acted on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// It would take more of a pool in ten minutes than the brake lets it.
    Brake,
    /// The stream's flips of the day are used up.
    Budget,
    /// Every source of its pool fails a DNS check that is required.
    WholePool,
}

impl Withheld {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Brake, Self::Budget, Self::WholePool];

    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Brake => "brake",
            Self::Budget => "budget",
            Self::WholePool => "whole-pool",
        }
    }
}

impl std::fmt::Display for Withheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Brake => "the brake holds: too much of its pool would fall within ten minutes",
            Self::Budget => "the stream's flips of this day are used up",
            Self::WholePool => {
                "every source of its pool fails a required check, and no mail would leave at all"
            }
        })
    }
}

/// What became of the share of a source that is isolated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Siblings take it, as far as the surge limit lets them.
    Moves,
    /// It is refused.
    Refused,
}

/// The state of the guard rails.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rails {
    /// When each stream spent of its budget.
    spent: BTreeMap<String, Vec<Timestamp>>,
    /// Streams whose further shares at a provider are refused, by source.
    unmoved: BTreeSet<(String, IpAddr, String)>,
    /// Isolated by what did not come back: when, and where.
    taken: Vec<(Timestamp, IpAddr, String)>,
    /// Isolated for whatever cause.
    fallen: Vec<(Timestamp, IpAddr, String)>,
    /// Streams that are stopped at a provider, and until when.
    #[serde(with = "as_list")]
    stopped: BTreeMap<(String, String), Timestamp>,
}

/// JSON has no keys but text.
mod as_list {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer};

    type Map = BTreeMap<(String, String), Timestamp>;

    pub(super) fn serialize<S: Serializer>(map: &Map, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

/// The /24 or /48 of an address: what receivers take for one sender's (M3AAWG, and what block lists escalate to).
pub(in crate::decide) fn network(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 24 } else { 48 };
    IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
}

/// The same of a source by its address on this host: behind a 1:1 NAT receivers see another.
pub(super) fn network_of(config: &Config, local: IpAddr) -> IpNet {
    let mut sources = config.pools.values().flat_map(|pool| &pool.sources);
    network(sources.find(|one| one.local == local).map_or(local, |one| one.public))
}

fn pools_of(config: &Config, source: IpAddr) -> impl Iterator<Item = &Pool> {
    config.pools.values().filter(move |pool| pool.sources.iter().any(|one| one.local == source))
}

impl Rails {
    /// Whether sources of one family may be isolated at a provider, by what did not come back.
    pub(super) fn brake(
        &self,
        config: &Config,
        sources: &BTreeSet<IpAddr>,
        provider: &str,
        now: Timestamp,
    ) -> Option<Withheld> {
        let recently = |at: Timestamp| now.duration_since(at) < BRAKE;
        let was_taken = |address: IpAddr| {
            let taken = |(at, taken, there): &(Timestamp, IpAddr, String)| {
                *taken == address && there == provider && recently(*at)
            };
            !sources.contains(&address) && self.taken.iter().any(taken)
        };
        let is_ipv4 = sources.first()?.is_ipv4();
        let uses = |pool: &&Pool| pool.sources.iter().any(|one| sources.contains(&one.local));
        let stopped = config.pools.values().filter(uses).any(|pool| {
            let family = |one: &&crate::config::PoolSource| one.local.is_ipv4() == is_ipv4;
            let weight = |with: &dyn Fn(IpAddr) -> bool| -> u64 {
                pool.sources
                    .iter()
                    .filter(family)
                    .filter(|one| with(one.local))
                    .map(|one| u64::from(one.weight))
                    .sum()
            };
            let (taken, all) = (weight(&was_taken), weight(&|_| true));
            let with_them = taken + weight(&|address| sources.contains(&address));
            // One source may always go: it would be the whole of a small pool's brake.
            taken > 0 && with_them * 1000 > all * u64::from(config.safety.brake)
        });
        stopped.then_some(Withheld::Brake)
    }

    /// Streams that have nothing left of their budget, among those that use the source.
    fn broke<'c>(&self, config: &'c Config, source: IpAddr, now: Timestamp) -> Vec<&'c str> {
        let pools: BTreeSet<&str> = pools_of(config, source).map(|pool| pool.name.as_str()).collect();
        let spent = |stream: &str| {
            let times = self.spent.get(stream).into_iter().flatten();
            times.filter(|at| now.duration_since(**at) < DAY).count()
        };
        let streams = config.streams.iter().filter(|stream| pools.contains(stream.pool.as_str()));
        let broke = streams.filter(|stream| spent(&stream.name) >= config.safety.flips_per_day as usize);
        broke.map(|stream| stream.name.as_str()).collect()
    }

    /// Whether silence may isolate a source: each of its streams has a flip left.
    pub(super) fn budget(&self, config: &Config, source: IpAddr, now: Timestamp) -> Option<Withheld> {
        (!self.broke(config, source, now).is_empty()).then_some(Withheld::Budget)
    }

    /// A source is isolated at a provider: its streams spend a flip each; of those that have none left, the share is
    /// refused, or all of the stream there.
    pub(super) fn isolated(
        &mut self,
        config: &Config,
        (source, provider): &Pair,
        cause: &Failure,
        now: Timestamp,
    ) {
        let broke: BTreeSet<String> =
            self.broke(config, *source, now).into_iter().map(str::to_owned).collect();
        let pools: BTreeSet<&str> = pools_of(config, *source).map(|pool| pool.name.as_str()).collect();
        for stream in config.streams.iter().filter(|stream| pools.contains(stream.pool.as_str())) {
            if broke.contains(&stream.name) {
                self.overspend(&stream.name, stream.on_relapse, (*source, provider.clone()), now);
            } else {
                self.spent.entry(stream.name.clone()).or_default().push(now);
            }
        }
        if !cause.is_explicit() {
            self.take(*source, provider, now);
        }
        // Records of its own say nothing of its neighbours.
        if !matches!(cause, Failure::Dns { .. }) {
            self.fallen.push((now, *source, provider.clone()));
        }
    }

    /// A source is isolated by what did not come back: the brake counts it.
    pub(super) fn take(&mut self, source: IpAddr, provider: &str, now: Timestamp) {
        self.taken.push((now, source, provider.to_owned()));
    }

    fn overspend(&mut self, stream: &str, on_relapse: OnRelapse, (source, provider): Pair, now: Timestamp) {
        if on_relapse == OnRelapse::Stop {
            let oldest = self.spent.get(stream).and_then(|times| times.first()).copied().unwrap_or(now);
            let until = oldest.checked_add(DAY).unwrap_or(now);
            self.stopped.insert((stream.to_owned(), provider.clone()), until);
        }
        self.unmoved.insert((stream.to_owned(), source, provider));
    }

    /// Networks of which enough sources have fallen at this provider, so that the rest of them goes too: the sources that
    /// still serve.
    pub(super) fn fallen_together(
        &self,
        config: &Config,
        (source, provider): &Pair,
        now: Timestamp,
    ) -> Vec<IpAddr> {
        let whole = network_of(config, *source);
        let fallen: BTreeSet<IpAddr> = self
            .fallen
            .iter()
            .filter(|(at, address, there)| {
                there == provider
                    && network_of(config, *address) == whole
                    && now.duration_since(*at) < TOGETHER
            })
            .map(|(_, address, _)| *address)
            .collect();
        if fallen.len() < OF_A_NETWORK {
            return Vec::new();
        }
        let sources = config.pools.values().flat_map(|pool| &pool.sources);
        let inside = sources.filter(|one| network(one.public) == whole).map(|one| one.local);
        let rest: BTreeSet<IpAddr> = inside.filter(|local| !fallen.contains(local)).collect();
        rest.into_iter().collect()
    }

    /// The network of this source is isolated: what its sources had there is not moved.
    pub(super) fn leave(&mut self, config: &Config, whole: IpNet, provider: &str) {
        for pool in config.pools.values() {
            let inside = pool.sources.iter().filter(|one| network(one.public) == whole).map(|one| one.local);
            for source in inside {
                let streams = config.streams.iter().filter(|stream| stream.pool == pool.name);
                self.unmoved.extend(streams.map(|stream| (stream.name.clone(), source, provider.to_owned())));
            }
        }
    }

    /// A source is no longer isolated at a provider.
    pub(super) fn released(&mut self, (source, provider): &Pair) {
        self.unmoved.retain(|(_, address, there)| (address, there) != (source, provider));
    }

    /// The operator lets a source serve again: what it did is not held against its siblings.
    pub(super) fn forgive(&mut self, source: IpAddr) {
        let others = |(_, address, _): &(Timestamp, IpAddr, String)| *address != source;
        self.taken.retain(others);
        self.fallen.retain(others);
        self.unmoved.retain(|(_, address, _)| *address != source);
    }

    /// What becomes of an isolated source's share of a stream.
    pub(in crate::decide) fn share(&self, stream: &str, source: IpAddr, provider: &str) -> Share {
        let unmoved = self.unmoved.contains(&(stream.to_owned(), source, provider.to_owned()));
        if unmoved { Share::Refused } else { Share::Moves }
    }

    /// Whether any share of a stream is refused at a provider, so that its slots are its own.
    pub(in crate::decide) fn is_special(&self, stream: &str, provider: &str) -> bool {
        self.unmoved.iter().any(|(name, _, there)| name == stream && there == provider)
    }

    /// Whether a stream is stopped at a provider.
    pub(in crate::decide) fn is_stopped(&self, stream: &str, provider: &str) -> bool {
        self.stopped.contains_key(&(stream.to_owned(), provider.to_owned()))
    }

    /// Drops what time has made meaningless.
    pub(super) fn pass_time(&mut self, now: Timestamp) {
        let within = |at: Timestamp, time| now.duration_since(at) < time;
        self.spent.values_mut().for_each(|times| times.retain(|at| within(*at, DAY)));
        self.spent.retain(|_, times| !times.is_empty());
        self.taken.retain(|(at, ..)| within(*at, BRAKE));
        self.fallen.retain(|(at, ..)| within(*at, TOGETHER));
        self.stopped.retain(|_, until| *until > now);
    }

    /// When the brake forgets the first of those that it counts.
    pub(super) fn brake_looks_back_until(&self) -> Option<Timestamp> {
        self.taken.iter().filter_map(|(at, ..)| at.checked_add(BRAKE).ok()).min()
    }

    /// When time alone changes what is served.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        self.stopped.values().min().copied()
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        let spent = self.spent.values_mut().flatten();
        let noted = self.taken.iter_mut().chain(&mut self.fallen).map(|(at, ..)| at);
        spent.chain(noted).chain(self.stopped.values_mut()).for_each(|at| *at = moved(*at, by));
    }
}
