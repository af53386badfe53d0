//! Sources that fail DNS checks, and those that are barred for it.
//!
//! Owns: which source fails what, and that one which fails a required check is isolated everywhere until it does not. Must not:
//! evaluate anything; only what two runs agreed on comes here.
//!
//! The brake holds it as any belief, and so does the budget: what is over it is refused and not moved, as with lists. Where
//! no source of a pool and family would be left that passes all that is required, none is barred: that is most often one record
//! or one zone of the whole pool, siblings are no better, and barring all would only stop the mail.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::{EVERYWHERE, Failure, Pair, State, Traffic, Verdict, Withheld, name_of};
use crate::config::{Config, Pool, PoolSource};
use crate::decide::EventKind;
use crate::model::Family;
use crate::signal::dns::{Check, DnsEvent, Subject};

/// While it fails, an isolation goes on by as much at a time.
const MORE: SignedDuration = SignedDuration::from_mins(10);

/// Who fails what: sources by their address on this host, checks with what is wrong. Required or not: that may change.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Faults {
    failing: BTreeMap<IpAddr, BTreeMap<Check, String>>,
    /// Domains that fail. They move nothing, and are kept to be told of.
    domains: BTreeMap<(String, Check), String>,
    /// Those that go on, and why; each is said once.
    held: BTreeMap<IpAddr, (Check, Withheld)>,
}

impl Faults {
    /// As far as kept verdicts tell.
    pub(super) fn restored(verdicts: &[(IpAddr, String, Verdict)]) -> Self {
        let mut faults = Self::default();
        for (source, _, verdict) in verdicts {
            if let State::Isolated { cause: Failure::Dns { check, what }, .. } = &verdict.state {
                faults.failing.entry(*source).or_default().insert(*check, what.clone());
            }
        }
        faults
    }

    /// The operator lets it serve, whatever it fails.
    pub(super) fn forget(&mut self, source: IpAddr) {
        self.failing.remove(&source);
        self.held.remove(&source);
    }

    /// The first required check that a source fails.
    fn failed(&self, require: &BTreeSet<Check>, source: IpAddr) -> Option<(Check, &str)> {
        let failing = self.failing.get(&source)?.iter().find(|(check, _)| require.contains(check))?;
        Some((*failing.0, failing.1))
    }

    /// Whether every source that could serve in its place fails something required too, in some pool of it.
    fn takes_whole_pool(&self, config: &Config, require: &BTreeSet<Check>, local: IpAddr) -> bool {
        let holds = |sources: &&Vec<PoolSource>| sources.iter().any(|one| one.local == local);
        config.pools.values().map(|pool| &pool.sources).filter(holds).any(|sources| {
            let like = |one: &&PoolSource| one.weight > 0 && one.local.is_ipv4() == local.is_ipv4();
            sources.iter().filter(like).all(|one| self.failed(require, one.local).is_some())
        })
    }

    /// What a source is barred for, or what it would be but for its pool.
    fn cause(&self, config: &Config, local: IpAddr) -> Option<(Check, String, bool)> {
        let require = &config.dns.as_ref()?.require;
        let (check, what) = self.failed(require, local)?;
        Some((check, what.to_owned(), self.takes_whole_pool(config, require, local)))
    }
}

impl Traffic {
    /// Takes in what changed.
    pub(in crate::decide) fn dns_says(&mut self, said: Vec<DnsEvent>, config: &Config) -> Vec<EventKind> {
        said.into_iter().map(|one| self.dns_said(one, config)).collect()
    }

    fn dns_said(&mut self, said: DnsEvent, config: &Config) -> EventKind {
        let named = |subject: Subject| match subject {
            Subject::Domain(name) => (name, None),
            Subject::Source(address) => (label(config, address), Some(address)),
        };
        let locals = |subject: &Subject| match subject {
            Subject::Domain(_) => vec![],
            Subject::Source(address) => sources(config, *address).map(|one| one.local).collect::<Vec<_>>(),
        };
        match said {
            DnsEvent::Lost { subject, check, what } => {
                for local in locals(&subject) {
                    self.faults.failing.entry(local).or_default().insert(check, what.clone());
                }
                let (name, address) = named(subject);
                if address.is_none() {
                    self.faults.domains.insert((name.clone(), check), what.clone());
                }
                EventKind::DnsLost { name, address, check, what }
            }
            DnsEvent::Restored { subject, check } => {
                for local in locals(&subject) {
                    if let Some(checks) = self.faults.failing.get_mut(&local) {
                        checks.remove(&check);
                    }
                }
                self.faults.failing.retain(|_, checks| !checks.is_empty());
                let (name, address) = named(subject);
                if address.is_none() {
                    self.faults.domains.remove(&(name.clone(), check));
                }
                EventKind::DnsRestored { name, address, check }
            }
        }
    }

    /// Which sources, by their address on this host, are known to fail which check.
    pub(in crate::decide) fn faults(&self) -> impl Iterator<Item = (IpAddr, Check, &str)> {
        self.faults
            .failing
            .iter()
            .flat_map(|(local, checks)| checks.iter().map(|(check, what)| (*local, *check, what.as_str())))
    }

    /// Which domains are known to fail which check.
    pub(in crate::decide) fn domain_faults(&self) -> impl Iterator<Item = (&str, Check, &str)> {
        self.faults.domains.iter().map(|((name, check), what)| (name.as_str(), *check, what.as_str()))
    }

    /// Pools and families whose sources all fail something required, so that none of them is barred for it.
    pub(in crate::decide) fn whole_pools<'c>(&self, config: &'c Config) -> BTreeSet<(&'c str, Family)> {
        let held = self.faults.held.iter().filter(|(_, (_, why))| *why == Withheld::WholePool);
        held.flat_map(|(local, _)| {
            let holds = |pool: &&Pool| pool.sources.iter().any(|one| one.local == *local);
            config.pools.values().filter(holds).map(|pool| (pool.name.as_str(), Family::of(*local)))
        })
        .collect()
    }

    /// Isolates who fails what is required, goes on with those that are isolated, and lets go whoever fails it no more.
    pub(super) fn look_at_faults(&mut self, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        if config.dns.is_none() {
            self.faults = Faults::default();
        }
        let domains = config.dns.iter().flat_map(|dns| &dns.domains);
        let domains: BTreeSet<&str> = domains.map(|domain| domain.name.as_str()).collect();
        self.faults.domains.retain(|(name, _), _| domains.contains(name.as_str()));
        let is_known = |local: &IpAddr| {
            config.pools.values().flat_map(|pool| &pool.sources).any(|one| one.local == *local)
        };
        self.faults.failing.retain(|local, _| is_known(local));
        let barred =
            self.verdicts.iter().filter(|(_, verdict)| is_barred(verdict)).map(|((local, _), _)| *local);
        let all: BTreeSet<IpAddr> = self.faults.failing.keys().copied().chain(barred).collect();
        self.faults.held.retain(|local, _| all.contains(local));
        for local in all {
            let pair = (local, EVERYWHERE.to_owned());
            match self.faults.cause(config, local) {
                Some((check, what, false)) => self.keep_barred(&pair, (check, what), config, now, events),
                Some((check, what, true)) => {
                    self.let_go(&pair, now);
                    self.hold_back(&pair, (check, what), Withheld::WholePool, config, events);
                }
                None => {
                    self.let_go(&pair, now);
                    self.faults.held.remove(&local);
                }
            }
        }
    }

    fn keep_barred(
        &mut self,
        pair: &Pair,
        fault: (Check, String),
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        match self.verdicts.get_mut(pair).map(|known| &mut known.state) {
            Some(State::Isolated { until, .. }) if *until <= now => {
                *until = now.checked_add(MORE).unwrap_or(now);
            }
            Some(State::Isolated { .. }) => {}
            _ => match self.rails.brake(config, &BTreeSet::from([pair.0]), &pair.1, now) {
                Some(why) => self.hold_back(pair, fault, why, config, events),
                None => {
                    self.faults.held.remove(&pair.0);
                    let (check, what) = fault;
                    self.isolate(pair, Failure::Dns { check, what }, None, config, now, events);
                }
            },
        }
    }

    /// It begins the way back, if this is what kept it.
    fn let_go(&mut self, pair: &Pair, now: Timestamp) {
        if let Some(verdict) = self.verdicts.get_mut(pair)
            && is_barred(verdict)
            && let State::Isolated { until, .. } = &mut verdict.state
        {
            *until = now;
        }
    }

    /// It goes on, and that is said once.
    fn hold_back(
        &mut self,
        pair: &Pair,
        (check, what): (Check, String),
        why: Withheld,
        config: &Config,
        events: &mut Vec<EventKind>,
    ) {
        if self.faults.held.insert(pair.0, (check, why)) != Some((check, why)) {
            let (source, address, provider) = (name_of(config, pair.0), pair.0, pair.1.clone());
            let cause = Failure::Dns { check, what };
            events.push(EventKind::FlipWithheld { source, address, provider, cause, why });
        }
    }

    /// When a source that fails, and that the brake holds, may be looked at again.
    pub(super) fn next_fault(&self) -> Option<Timestamp> {
        let held = self.faults.held.values().any(|(_, why)| *why == Withheld::Brake);
        self.rails.brake_looks_back_until().filter(|_| held)
    }
}

const fn is_barred(verdict: &Verdict) -> bool {
    matches!(verdict.state, State::Isolated { cause: Failure::Dns { .. }, .. })
}

fn sources(config: &Config, public: IpAddr) -> impl Iterator<Item = &PoolSource> {
    config.pools.values().flat_map(|pool| &pool.sources).filter(move |source| source.public == public)
}

fn label(config: &Config, public: IpAddr) -> String {
    sources(config, public).next().map_or_else(|| public.to_string(), |source| source.name.clone())
}
