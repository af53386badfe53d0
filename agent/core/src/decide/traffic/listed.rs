//! Sources that are on DNS lists.
//!
//! Owns: who is on which list, and that such a source is isolated everywhere until it is on none. Must not: read answers; only
//! listings that were confirmed come here. The brake holds it as any belief, so that a list which takes the whole of a pool at
//! once takes a part of it at a time; the budget does not hold it, but what is over budget is refused and not moved: whoever
//! runs from a list ends on it with the next address (Spamhaus: snowshoe).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::{EVERYWHERE, Failure, State, Traffic, Verdict, Withheld, name_of};
use crate::config::{Config, PoolSource};
use crate::decide::EventKind;
use crate::signal::lists::{Action, ListEvent};

/// While it is listed, an isolation goes on by as much at a time.
const MORE: SignedDuration = SignedDuration::from_mins(10);

/// Who is on which list: sources by their address on this host, lists with what they mean.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Listed(BTreeMap<IpAddr, BTreeMap<String, String>>);

impl Listed {
    /// As far as kept verdicts tell.
    pub(super) fn restored(verdicts: &[(IpAddr, String, Verdict)]) -> Self {
        let mut listed = Self::default();
        for (source, _, verdict) in verdicts {
            if let State::Isolated { cause: Failure::Listed { list, meaning }, .. } = &verdict.state {
                listed.0.entry(*source).or_default().insert(list.clone(), meaning.clone());
            }
        }
        listed
    }

    /// The operator lets it serve, listed or not.
    pub(super) fn forget(&mut self, source: IpAddr) {
        self.0.remove(&source);
    }
}

impl Traffic {
    /// Takes in what lists said.
    pub(in crate::decide) fn lists_say(
        &mut self,
        said: &[ListEvent],
        config: &Config,
        now: Timestamp,
    ) -> Vec<EventKind> {
        let mut events = vec![];
        for one in said {
            match one {
                ListEvent::Listed { list, address, meaning, action, reason } => {
                    let words = reason
                        .as_ref()
                        .map_or_else(|| meaning.clone(), |said| format!("{meaning}; \"{said}\""));
                    for source in sources(config, *address) {
                        if *action == Action::Isolate {
                            self.listed
                                .0
                                .entry(source.local)
                                .or_default()
                                .insert(list.clone(), words.clone());
                        }
                    }
                    let source = label(config, *address);
                    let (list, meaning, action) = (list.clone(), words, *action);
                    events.push(EventKind::Listed { source, address: *address, list, meaning, action });
                }
                ListEvent::Cleared { list, address } => {
                    for source in sources(config, *address) {
                        self.clear(source.local, |name| name == list, now);
                    }
                    let source = label(config, *address);
                    events.push(EventKind::Delisted { source, address: *address, list: list.clone() });
                }
                ListEvent::SetAside { list, why } => {
                    events.push(EventKind::ListSetAside { list: list.clone(), why: why.clone() });
                }
                ListEvent::Back { list } => events.push(EventKind::ListBack { list: list.clone() }),
                ListEvent::Unknown { list, why } => {
                    events.push(EventKind::ListUnknown { list: list.clone(), why: why.clone() });
                }
            }
        }
        events
    }

    /// Off these lists. Whoever is on none any more begins the way back.
    fn clear(&mut self, local: IpAddr, is_off: impl Fn(&str) -> bool, now: Timestamp) {
        let Some(lists) = self.listed.0.get_mut(&local) else { return };
        lists.retain(|list, _| !is_off(list));
        if !lists.is_empty() {
            return;
        }
        self.listed.0.remove(&local);
        self.withheld.remove(&(local, EVERYWHERE.to_owned()));
        if let Some(verdict) = self.verdicts.get_mut(&(local, EVERYWHERE.to_owned()))
            && let State::Isolated { cause: Failure::Listed { .. }, until } = &mut verdict.state
        {
            *until = now;
        }
    }

    /// Isolates who is listed and serves, and goes on with those that are isolated.
    pub(super) fn look_at_listed(&mut self, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        let asked: BTreeSet<&str> =
            config.lists.iter().flat_map(|lists| &lists.lists).map(|list| list.name.as_str()).collect();
        let all: Vec<IpAddr> = self.listed.0.keys().copied().collect();
        for local in all {
            // A list that nobody asks any more cannot clear anybody.
            self.clear(local, |list| !asked.contains(list), now);
            let Some((list, meaning)) = self.listed.0.get(&local).and_then(BTreeMap::first_key_value) else {
                continue;
            };
            let cause = Failure::Listed { list: list.clone(), meaning: meaning.clone() };
            let pair = (local, EVERYWHERE.to_owned());
            match self.verdicts.get_mut(&pair).map(|known| &mut known.state) {
                Some(State::Isolated { until, .. }) if *until <= now => {
                    *until = now.checked_add(MORE).unwrap_or(now);
                }
                Some(State::Isolated { .. }) => {}
                _ => self.isolate_listed(&pair, cause, config, now, events),
            }
        }
    }

    fn isolate_listed(
        &mut self,
        pair: &super::Pair,
        cause: Failure,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        if !sources_by_local(config, pair.0) {
            return;
        }
        if let Some(why) = self.rails.brake(config, &BTreeSet::from([pair.0]), &pair.1, now) {
            if self.withheld.insert(pair.clone(), why) != Some(why) {
                let (source, address, provider) = (name_of(config, pair.0), pair.0, pair.1.clone());
                events.push(EventKind::FlipWithheld {
                    source,
                    address,
                    provider,
                    cause,
                    why: Withheld::Brake,
                });
            }
            return;
        }
        self.isolate(pair, cause, None, config, now, events);
        self.isolate_network(pair, config, now, events);
    }

    /// When a source that is listed, and that the brake holds, may be looked at again.
    pub(super) fn next_listed(&self) -> Option<Timestamp> {
        let held = self.listed.0.keys().any(|local| {
            let verdict = self.verdicts.get(&(*local, EVERYWHERE.to_owned()));
            !verdict.is_some_and(|known| matches!(known.state, State::Isolated { .. }))
        });
        self.rails.brake_looks_back_until().filter(|_| held)
    }
}

fn sources(config: &Config, public: IpAddr) -> impl Iterator<Item = &PoolSource> {
    config.pools.values().flat_map(|pool| &pool.sources).filter(move |source| source.public == public)
}

fn sources_by_local(config: &Config, local: IpAddr) -> bool {
    config.pools.values().flat_map(|pool| &pool.sources).any(|source| source.local == local)
}

fn label(config: &Config, public: IpAddr) -> String {
    sources(config, public).next().map_or_else(|| public.to_string(), |source| source.name.clone())
}
