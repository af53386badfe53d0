//! The preflight: a source that was never seen to work is tried at port 25 before mail depends on it.
//!
//! Owns: which sources are new, when each is tried, and which wait for it. Must not: make tries. One that worked once is no
//! business of this: its traffic and its probes tell. Where no source ever worked, as on the first day, none waits for
//! another: mail flows, and what is shown to be blocked falls out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::world::moved;
use super::{EventKind, Reason};
use crate::config::{Config, PoolSource};
use crate::model::Family;
use crate::signal::port25::{Port25, Try, judge};

/// How soon a round that told nothing, or of a block, is repeated.
const AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// A round takes 10 s where nobody answers; one that never came back is begun anew after this.
const LOST: SignedDuration = SignedDuration::from_secs(180);
/// A block that is confirmed is looked at as often: hosters open the port when they are asked, within hours or days.
const BLOCKED: SignedDuration = SignedDuration::from_mins(10);
/// For how long a new source waits for a round that tells something. Dead receivers are no evidence against it.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// For how long a receiver that answered one source counts as alive.
const ALIVE: SignedDuration = SignedDuration::from_mins(5);
/// Rounds in a row that have to show a block.
const ROUNDS: u8 = 2;

/// What is known of a source's port 25.
#[derive(Clone, PartialEq, Debug)]
enum Stage {
    /// It is new, others serve, and it waits since then.
    Waits(Timestamp),
    /// It serves untried, for nobody ever worked when it came, or nobody could tell.
    Serves,
    /// It works.
    Passed,
    /// It does not.
    Blocked(String),
}

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    stage: Stage,
    /// Rounds that showed a block, since one showed an open port.
    blocks: u8,
    /// When the next round is due.
    due: Timestamp,
}

/// What is known of every source's port 25.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Preflight {
    sources: BTreeMap<IpAddr, Entry>,
    /// Receivers that answered a source at port 25, and when last.
    alive: BTreeMap<IpAddr, Timestamp>,
    /// Sources that passed, from before a restart.
    kept: BTreeSet<IpAddr>,
}

/// A round of tries that should be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WantedPreflight {
    /// From which source: its address on this host.
    pub source: IpAddr,
}

impl Preflight {
    /// Follows the config: whom it has, and who of them is new.
    pub(super) fn know(&mut self, config: &Config, now: Timestamp) {
        if config.preflight.is_none() {
            // What passed stays known, for the day on which it is asked for again.
            let passed = self.passed();
            self.kept.extend(passed);
            self.sources.clear();
            return;
        }
        let worked: BTreeSet<IpAddr> = self.passed().chain(self.kept.iter().copied()).collect();
        let has_help = |pool: &[PoolSource], new: &PoolSource| {
            let helps = |one: &PoolSource| worked.contains(&one.local) && one.weight > 0;
            pool.iter().any(|one| helps(one) && Family::of(one.local) == Family::of(new.local))
        };
        let mut known = BTreeSet::new();
        for pool in config.pools.values() {
            for source in &pool.sources {
                known.insert(source.local);
                let stage = || match (worked.contains(&source.local), has_help(&pool.sources, source)) {
                    (true, _) => Stage::Passed,
                    (false, true) => Stage::Waits(now),
                    (false, false) => Stage::Serves,
                };
                self.sources.entry(source.local).or_insert_with(|| Entry {
                    stage: stage(),
                    blocks: 0,
                    due: now,
                });
            }
        }
        self.sources.retain(|source, _| known.contains(source));
        self.kept.retain(|source| known.contains(source));
        self.alive.retain(|_, at| now.duration_since(*at) < ALIVE);
    }

    /// Who is tired of waiting serves: nobody could tell.
    pub(super) fn pass_time(&mut self, now: Timestamp) {
        for entry in self.sources.values_mut() {
            if matches!(entry.stage, Stage::Waits(since) if now.duration_since(since) >= PATIENCE) {
                entry.stage = Stage::Serves;
            }
        }
    }

    /// A connection of its stood.
    pub(super) fn worked(&mut self, source: IpAddr) {
        if let Some(entry) = self.sources.get_mut(&source) {
            entry.stage = Stage::Passed;
        }
    }

    /// A round is being made.
    pub(super) fn begin(&mut self, source: IpAddr, now: Timestamp) {
        if let Some(entry) = self.sources.get_mut(&source) {
            entry.due = after(now, LOST);
        }
    }

    /// The operator knows better.
    pub(super) fn release(&mut self, source: IpAddr, now: Timestamp) -> bool {
        let Some(entry) = self.sources.get_mut(&source) else { return false };
        let held = matches!(entry.stage, Stage::Waits(_) | Stage::Blocked(_));
        if held {
            *entry = Entry { stage: Stage::Serves, blocks: 0, due: after(now, BLOCKED) };
        }
        held
    }

    /// What a round showed; something to say where that changed what is known.
    pub(super) fn shown(&mut self, source: &PoolSource, tries: &[Try], now: Timestamp) -> Option<EventKind> {
        let reached: BTreeSet<IpAddr> = self.alive.keys().copied().collect();
        let result = judge(tries, &reached);
        self.alive.extend(tries.iter().filter(|one| one.stood()).map(|one| (one.receiver, now)));
        let entry = self.sources.get_mut(&source.local)?;
        let (name, address) = (source.name.clone(), source.local);
        match result {
            Port25::Open => {
                let passed = Entry { stage: Stage::Passed, blocks: 0, due: now };
                let was = std::mem::replace(entry, passed);
                let was_blocked = matches!(was.stage, Stage::Blocked(_));
                was_blocked.then_some(EventKind::Port25Open { source: name, address })
            }
            // Its traffic came through meanwhile: that says more than a try.
            Port25::Blocked(_) if entry.stage == Stage::Passed => None,
            Port25::Blocked(why) => {
                entry.blocks = entry.blocks.saturating_add(1);
                if entry.blocks < ROUNDS {
                    entry.due = after(now, AGAIN);
                    return None;
                }
                let told = matches!(entry.stage, Stage::Blocked(_));
                (entry.stage, entry.due) = (Stage::Blocked(why.clone()), after(now, BLOCKED));
                (!told).then_some(EventKind::Port25Blocked { source: name, address, why })
            }
            Port25::Unknown(_) => {
                entry.due = after(now, AGAIN);
                None
            }
        }
    }

    /// Why a source waits, if it does.
    pub(super) fn holds(&self, source: IpAddr) -> Option<Reason> {
        match &self.sources.get(&source)?.stage {
            Stage::Waits(_) => Some(Reason::Untried),
            Stage::Blocked(why) => Some(Reason::PortBlocked { why: why.clone() }),
            Stage::Serves | Stage::Passed => None,
        }
    }

    /// Rounds that are due, from sources that can be asked.
    pub(super) fn wanted(&self, can: impl Fn(IpAddr) -> bool, now: Timestamp) -> Vec<WantedPreflight> {
        let due = self.untried().filter(|(_, due)| *due <= now).map(|(source, _)| source);
        due.filter(|source| can(*source)).map(|source| WantedPreflight { source }).collect()
    }

    /// When time alone changes something.
    pub(super) fn next_deadline(&self, can: impl Fn(IpAddr) -> bool) -> Option<Timestamp> {
        let rounds = self.untried().filter(|(source, _)| can(*source)).map(|(_, due)| due);
        let tired = self.sources.values().filter_map(|entry| match entry.stage {
            Stage::Waits(since) => Some(after(since, PATIENCE)),
            _ => None,
        });
        rounds.chain(tired).min()
    }

    fn untried(&self) -> impl Iterator<Item = (IpAddr, Timestamp)> {
        let untried = self.sources.iter().filter(|(_, entry)| entry.stage != Stage::Passed);
        untried.map(|(source, entry)| (*source, entry.due))
    }

    fn passed(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let passed = self.sources.iter().filter(|(_, entry)| entry.stage == Stage::Passed);
        passed.map(|(source, _)| *source).collect::<Vec<_>>().into_iter()
    }

    /// What is to be kept over a restart: sources that worked.
    pub(super) fn kept(&self) -> Vec<IpAddr> {
        self.passed().chain(self.kept.iter().copied()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn restore(&mut self, kept: Vec<IpAddr>) {
        self.kept.extend(kept);
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        self.alive.values_mut().for_each(|at| *at = moved(*at, by));
        for entry in self.sources.values_mut() {
            entry.due = moved(entry.due, by);
            if let Stage::Waits(since) = &mut entry.stage {
                *since = moved(*since, by);
            }
        }
    }
}

fn after(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(time)
}
