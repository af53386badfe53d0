//! What falls together: the rest of a network, and all of an uplink.
//!
//! Owns: when that is so, and isolating them. Must not: judge a single source.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;

use super::evidence::{self, Evidence};
use super::rails;
use super::recent::Pair;
use super::verdict::Verdict;
use super::{EVERYWHERE, Traffic, changed};
use crate::config::Config;
use crate::decide::EventKind;

/// So many failing sources stand for an uplink that has more.
const UPLINK: usize = 5;

impl Traffic {
    /// Several sources of one network have fallen at a provider: the rest of it goes too, and nothing of it is moved.
    pub(super) fn isolate_network(
        &mut self,
        pair: &Pair,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        let rest = self.rails.fallen_together(config, pair, now);
        let Some(cause) = self.verdicts.get(pair).and_then(Verdict::cause).cloned() else { return };
        let serving: Vec<Pair> = rest
            .into_iter()
            .map(|local| (local, pair.1.clone()))
            .filter(|other| self.verdicts.get(other).is_none_or(|known| known.portion() > 0))
            .collect();
        // By silence alone no more of a pool falls than the brake lets, be it of one network; a receiver's word is not held.
        let all: BTreeSet<IpAddr> = serving.iter().map(|other| other.0).collect();
        let silent = !cause.is_explicit();
        if all.is_empty() || (silent && self.rails.brake(config, &all, &pair.1, now).is_some()) {
            return;
        }
        let whole = rails::network_of(config, pair.0);
        self.rails.leave(config, whole, &pair.1);
        events.push(EventKind::NetworkIsolated { network: whole, provider: pair.1.clone() });
        for other in serving {
            let evidence = self.recent.evidence(&other, config.safety.failures, now);
            let verdict = self.verdicts.entry(other.clone()).or_insert_with(|| Verdict::healthy(now));
            let from = verdict.state.name().to_owned();
            verdict.isolate(cause.clone(), &config.safety, now);
            let state = verdict.state.clone();
            if silent {
                self.rails.take(other.0, &other.1, now);
            }
            events.push(changed(config, &other, from, state, Some(evidence)));
        }
    }

    /// Whether all that left by the source's uplink came to nothing while another uplink did well: then its sources fall
    /// together, at every provider. No brake holds that, for the pool's other uplink carries what is left.
    pub(super) fn uplink_failed(
        &mut self,
        pair: &Pair,
        evidence: &Evidence,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) -> bool {
        let sources = || config.pools.values().flat_map(|pool| &pool.sources);
        let Some(uplink) = sources().find(|one| one.local == pair.0).and_then(|one| one.uplink) else {
            return false;
        };
        let of = |mine: bool| -> BTreeSet<IpAddr> {
            let wanted = sources().filter(|one| (one.uplink == Some(uplink)) == mine);
            wanted.map(|one| one.local).collect()
        };
        let (here, elsewhere) = (of(true), of(false));
        let began = evidence::add_up(&evidence.outcomes).since.unwrap_or(now);
        let (own, others) = (self.recent.met(&here, began), self.recent.met(&elsewhere, began));
        let serving = here.iter().filter(|local| self.portion(**local, EVERYWHERE).0 > 0).count();
        // Two that fail by themselves are no uplink: all of it has to have failed, as far as a few can stand for many.
        let enough = serving.min(UPLINK);
        if own.well > 0 || self.recent.failing(&here, began) < enough || own.failed < 3 || others.well < 3 {
            return false;
        }
        let Some(cause) = evidence.outcomes.iter().rev().find_map(|one| one.failure.clone()) else {
            return false;
        };
        for local in here {
            let pair = (local, EVERYWHERE.to_owned());
            let verdict = self.verdicts.entry(pair.clone()).or_insert_with(|| Verdict::healthy(now));
            if verdict.portion() > 0 {
                let from = verdict.state.name().to_owned();
                verdict.isolate(cause.clone(), &config.safety, now);
                let state = verdict.state.clone();
                events.push(changed(config, &pair, from, state, Some(evidence.clone())));
            }
        }
        true
    }
}
