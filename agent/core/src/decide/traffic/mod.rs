//! What traffic says of each source at each provider: beliefs, as against facts.
//!
//! Owns: verdicts and how signals change them. What was seen lies in `recent`, whose fault it is says `evidence`, the states are
//! `verdict`'s, and what a belief may not do is in `rails`. Must not: touch slots; `desired` asks for the portion
//! of its share that each source may hold.

mod compliance;
mod evidence;
mod fed;
mod listed;
mod probes;
mod rails;
mod recent;
mod replied;
mod together;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use evidence::{Evidence, Failure, Finding, Others, Outcome, Siblings, judge};
pub use probes::WantedProbe;
pub use rails::{Rails, Share, Withheld};
pub use verdict::{State, Verdict};

pub(in crate::decide) use rails::network;

use super::EventKind;
use super::fuse::Blown;
use crate::config::Config;
use crate::model::{Sign, Signal};
use crate::signal::feeds::Reading;
use compliance::Faults;
use fed::Fed;
use listed::Listed;
use probes::Probes;
use recent::{Pair, Recent};
use replied::Replies;
use verdict::WHOLE;

/// In place of a provider's name: at every provider. No provider can be called so.
pub const EVERYWHERE: &str = "*";
/// A suspicion that nothing new feeds is looked at again after this: what it rests on is out of the window then.
const DOUBT: SignedDuration = SignedDuration::from_secs(61);

/// Beliefs that hold, as they are kept over a restart.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Beliefs {
    /// Source, provider and verdict.
    pub verdicts: Vec<(IpAddr, String, Verdict)>,
    /// The guard rails' memory.
    pub rails: Rails,
    /// Stream, source and why the fuse is blown.
    #[serde(default)]
    pub blown: Vec<(String, IpAddr, Blown)>,
    /// Sources whose port 25 was seen to be open.
    #[serde(default)]
    pub passed: Vec<IpAddr>,
    /// What feeds said last.
    #[serde(default)]
    pub feeds: Vec<(String, Reading)>,
}

/// What traffic says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Traffic {
    recent: Recent,
    verdicts: BTreeMap<Pair, Verdict>,
    rails: Rails,
    /// Beliefs that are not acted on, each said once.
    withheld: BTreeMap<Pair, Withheld>,
    probes: Probes,
    listed: Listed,
    faults: Faults,
    replies: Replies,
    fed: Fed,
}

impl Traffic {
    /// Takes signals in, in the order in which they were seen.
    pub(super) fn take(&mut self, signals: &[Signal], config: &Config, now: Timestamp) -> Vec<EventKind> {
        let (mut events, mut doubted) = (Vec::new(), BTreeSet::new());
        for signal in signals {
            let pair = (signal.source, signal.provider.clone());
            let failed = self.recent.take(signal);
            self.note_way_back(signal, &pair, now, &mut events, config);
            if matches!(signal.sign, Sign::ProbeGreeted | Sign::ProbeFailed { .. }) {
                self.note_idle(signal, config, now, &mut events);
            }
            let suspected =
                self.verdicts.get(&pair).is_some_and(|known| matches!(known.state, State::Suspect { .. }));
            if failed || suspected {
                doubted.insert(pair);
            }
        }
        for pair in doubted {
            self.weigh(&pair, config, now, &mut events);
        }
        events
    }

    /// What a signal means to a source that is on its way back, here or everywhere.
    fn note_way_back(
        &mut self,
        signal: &Signal,
        pair: &Pair,
        now: Timestamp,
        events: &mut Vec<EventKind>,
        config: &Config,
    ) {
        let everywhere = (pair.0, EVERYWHERE.to_owned());
        for pair in [pair, &everywhere] {
            let Some(verdict) = self.verdicts.get_mut(pair) else { continue };
            match &signal.sign {
                Sign::Established => verdict.did_well(),
                Sign::ProbeGreeted => {
                    let (from, before) = (verdict.state.name().to_owned(), verdict.portion());
                    verdict.probed_well(now);
                    self.probes.went_well(pair);
                    if verdict.portion() != before {
                        let state = verdict.state.clone();
                        events.push(changed(config, pair, from, state, None));
                    }
                }
                Sign::ProbeFailed { why } if verdict.wants_probes() => {
                    let Some(cause) = verdict.cause().cloned() else { continue };
                    let failure = Failure::Probe { why: why.clone() };
                    let failed = self.probes.went_badly(pair, (signal.at, signal.destination, failure));
                    if Probes::are_enough(failed) {
                        let evidence = self.recent.evidence(pair, config.safety.failures, now);
                        self.isolate(pair, cause, Some(evidence), config, now, events);
                    }
                }
                _ => {}
            }
        }
    }

    /// What a probe from an idle source says: several in a row that fail while others do well are evidence against it.
    fn note_idle(&mut self, signal: &Signal, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        let pair = (signal.source, EVERYWHERE.to_owned());
        let is_known =
            self.verdicts.iter().any(|((source, _), known)| *source == pair.0 && known.cause().is_some());
        let Sign::ProbeFailed { why } = &signal.sign else {
            return self.probes.went_well(&pair);
        };
        // On its way back it is judged by another rule.
        if is_known {
            return;
        }
        let failure = Failure::Probe { why: why.clone() };
        let failed = self.probes.went_badly(&pair, (signal.at, signal.destination, failure)).to_vec();
        let evidence = self.recent.evidence_of(&pair, &failed, config.safety.failures, now);
        match judge(&evidence) {
            Finding::Guilty { cause } => self.convict(&pair, cause, evidence, config, now, events),
            Finding::Suspect { cause } => self.suspect(&pair, Some(cause), now),
            Finding::Well => {}
        }
    }

    /// Judges a source at a provider anew.
    fn weigh(&mut self, pair: &Pair, config: &Config, now: Timestamp, events: &mut Vec<EventKind>) {
        let known = self.verdicts.get(pair);
        if known.is_some_and(|verdict| matches!(verdict.state, State::Isolated { .. })) {
            return;
        }
        let on_probation = known.is_some_and(Verdict::is_on_probation);
        let evidence = self.recent.evidence(pair, config.safety.failures, now);
        match judge(&evidence) {
            Finding::Guilty { cause } => self.convict(pair, cause, evidence, config, now, events),
            // Who is on the way back has less credit.
            Finding::Suspect { cause } if on_probation => {
                self.convict(pair, cause, evidence, config, now, events);
            }
            Finding::Suspect { cause } => self.suspect(pair, Some(cause), now),
            Finding::Well => {
                self.withheld.remove(pair);
                self.suspect(pair, None, now);
            }
        }
    }

    fn suspect(&mut self, pair: &Pair, cause: Option<Failure>, now: Timestamp) {
        match self.verdicts.get_mut(pair) {
            Some(verdict) if verdict.is_on_probation() => {}
            Some(verdict) => verdict.suspect(cause, now),
            None if cause.is_some() => {
                let mut verdict = Verdict::healthy(now);
                verdict.suspect(cause, now);
                self.verdicts.insert(pair.clone(), verdict);
            }
            None => {}
        }
    }

    /// Guilty: isolates, unless a guard rail holds it.
    fn convict(
        &mut self,
        pair: &Pair,
        cause: Failure,
        evidence: Evidence,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        if !cause.is_explicit() {
            let held = self.rails.brake(config, &BTreeSet::from([pair.0]), &pair.1, now);
            let held = held.or_else(|| self.rails.budget(config, pair.0, now));
            if let Some(why) = held {
                if why == Withheld::Brake && self.uplink_failed(pair, &evidence, config, now, events) {
                    return;
                }
                return self.withhold(pair, cause, why, config, now, events);
            }
        }
        self.isolate(pair, cause, Some(evidence), config, now, events);
        self.isolate_network(pair, config, now, events);
    }

    fn withhold(
        &mut self,
        pair: &Pair,
        cause: Failure,
        why: Withheld,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        self.suspect(pair, Some(cause.clone()), now);
        if self.withheld.insert(pair.clone(), why) != Some(why) {
            let (source, address) = (name_of(config, pair.0), pair.0);
            let provider = pair.1.clone();
            events.push(EventKind::FlipWithheld { source, address, provider, cause, why });
        }
    }

    fn isolate(
        &mut self,
        pair: &Pair,
        cause: Failure,
        evidence: Option<Evidence>,
        config: &Config,
        now: Timestamp,
        events: &mut Vec<EventKind>,
    ) {
        let verdict = self.verdicts.entry(pair.clone()).or_insert_with(|| Verdict::healthy(now));
        let from = verdict.state.name().to_owned();
        if !matches!(verdict.state, State::Probation { .. }) {
            self.rails.isolated(config, pair, &cause, now);
        }
        verdict.isolate(cause, &config.safety, now);
        let state = verdict.state.clone();
        self.withheld.remove(pair);
        self.recent.forget(pair);
        self.replies.forget(pair);
        self.probes.forget(pair);
        events.push(changed(config, pair, from, state, evidence));
    }

    /// What time alone changes.
    pub(super) fn pass_time(&mut self, config: &Config, now: Timestamp) -> Vec<EventKind> {
        let mut events = Vec::new();
        self.rails.pass_time(now);
        let known: BTreeSet<IpAddr> =
            config.pools.values().flat_map(|pool| &pool.sources).map(|one| one.local).collect();
        self.recent.retain(|source| known.contains(&source));
        self.probes.know(|source| known.contains(&source), known.iter().copied(), now);
        self.replies.pass_time(now);
        self.look_at_listed(config, now, &mut events);
        self.look_at_faults(config, now, &mut events);
        self.forget_feeds(config, now);
        let due: Vec<Pair> = self.verdicts.keys().cloned().collect();
        for pair in due {
            if !known.contains(&pair.0) {
                continue;
            }
            let doubt = self.verdicts.get(&pair).is_some_and(|verdict| {
                matches!(verdict.state, State::Suspect { .. }) && now.duration_since(verdict.since) >= DOUBT
            });
            if doubt {
                self.weigh(&pair, config, now, &mut events);
            }
            self.hold_return(&pair, config, now, &mut events);
            let can_probe = self.probes.choose(&pair, &self.targets(&pair)).is_some();
            let Some(verdict) = self.verdicts.get_mut(&pair) else { continue };
            let from = verdict.state.clone();
            verdict.pass_time(now, can_probe);
            let to = verdict.state.clone();
            if from != to && (from.name() != to.name() || to.name() == "probation") {
                if from.name() == "isolated" {
                    self.rails.released(&pair);
                }
                events.push(changed(config, &pair, from.name().to_owned(), to, None));
            }
        }
        self.verdicts.retain(|_, verdict| verdict.state != State::Healthy || verdict.relapses > 0);
        events
    }

    /// The operator lets a source serve again, wherever it is isolated; false where it is nowhere.
    pub(super) fn release(&mut self, source: IpAddr) -> bool {
        let isolated: Vec<Pair> = self
            .verdicts
            .iter()
            .filter(|((local, _), verdict)| *local == source && verdict.cause().is_some())
            .map(|(pair, _)| pair.clone())
            .collect();
        if !isolated.is_empty() {
            self.rails.forgive(source);
        }
        self.listed.forget(source);
        self.faults.forget(source);
        for pair in &isolated {
            self.verdicts.remove(pair);
            self.recent.forget(pair);
            self.probes.forget(pair);
        }
        !isolated.is_empty()
    }

    /// How much of its share a source may hold at a provider, in thousandths, and why not all: what is believed of it there,
    /// or everywhere.
    pub(super) fn portion(&self, source: IpAddr, provider: &str) -> (u16, Option<(&str, &Verdict)>) {
        let known = |provider: &str| self.verdicts.get_key_value(&(source, provider.to_owned()));
        let found = [known(provider), known(EVERYWHERE)].into_iter().flatten();
        let least = found.map(|((_, there), verdict)| (there.as_str(), verdict));
        let least = least.min_by_key(|(_, verdict)| verdict.portion());
        let portion = least.map_or(WHOLE, |(_, verdict)| verdict.portion());
        (portion, least.filter(|_| portion < WHOLE))
    }

    /// Whether anything is believed of any source at this provider, and not everywhere alike.
    pub(super) fn knows(&self, provider: &str) -> bool {
        self.verdicts.keys().any(|(_, there)| there == provider)
    }

    pub(super) const fn rails(&self) -> &Rails {
        &self.rails
    }

    pub(super) const fn verdicts(&self) -> &BTreeMap<Pair, Verdict> {
        &self.verdicts
    }

    fn targets(&self, pair: &Pair) -> Vec<IpAddr> {
        if pair.1 == EVERYWHERE { self.recent.lately() } else { self.recent.receivers_of(&pair.1) }
    }

    /// Probes that are due: of sources on their way back that get no mail yet, and of those that had no traffic for long.
    /// `serves`: who could have traffic.
    pub(super) fn wanted_probes(&self, serves: &BTreeSet<IpAddr>, now: Timestamp) -> Vec<WantedProbe> {
        let due = self.probe_times(serves).filter(|(_, at)| *at <= now);
        due.filter_map(|(pair, _)| {
            let destination = self.probes.choose(&pair, &self.targets(&pair))?;
            Some(WantedProbe { source: pair.0, provider: pair.1, destination })
        })
        .collect()
    }

    /// When the next probe is due.
    pub(super) fn next_probe(&self, serves: &BTreeSet<IpAddr>) -> Option<Timestamp> {
        self.probe_times(serves).map(|(_, at)| at).min()
    }

    fn probe_times(&self, serves: &BTreeSet<IpAddr>) -> impl Iterator<Item = (Pair, Timestamp)> {
        let back = self.verdicts.iter().filter(|(_, verdict)| verdict.wants_probes());
        let back = back.map(|(pair, verdict)| (pair.clone(), self.probes.due(pair, verdict.since)));
        let judged: BTreeSet<IpAddr> = self
            .verdicts
            .iter()
            .filter(|(_, known)| known.cause().is_some())
            .map(|(pair, _)| pair.0)
            .collect();
        // Who cannot ask anybody need not look when it is time.
        let asked = serves.iter().filter(|_| self.recent.knows_receivers());
        let idle = asked.filter(move |source| !judged.contains(source)).filter_map(|source| {
            let pair = (*source, EVERYWHERE.to_owned());
            let due = self.probes.due_idle(&pair, self.recent.heard_of(*source))?;
            Some((pair, due))
        });
        back.chain(idle)
    }

    /// A probe was begun.
    pub(super) fn probing(&mut self, source: IpAddr, provider: &str, now: Timestamp) {
        self.probes.begin(&(source, provider.to_owned()), now);
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let verdicts = self.verdicts.values().filter_map(|verdict| match verdict.state {
            State::Suspect { .. } => verdict.since.checked_add(DOUBT).ok(),
            _ => verdict.next_deadline(),
        });
        verdicts.chain(self.rails.next_deadline()).chain(self.next_listed()).chain(self.next_fault()).min()
    }

    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        self.recent.follow_clock(by);
        self.replies.follow_clock(by);
        self.rails.follow_clock(by);
        self.verdicts.values_mut().for_each(|verdict| verdict.follow_clock(by));
        self.probes.follow_clock(by);
    }

    /// What is to be kept over a restart.
    pub(super) fn beliefs(&self) -> Beliefs {
        let kept =
            self.verdicts.iter().filter(|(_, verdict)| !matches!(verdict.state, State::Suspect { .. }));
        let entry =
            |((source, provider), verdict): (&Pair, &Verdict)| (*source, provider.clone(), verdict.clone());
        Beliefs {
            verdicts: kept.map(entry).collect(),
            rails: self.rails.clone(),
            feeds: self.fed.kept(),
            ..Beliefs::default()
        }
    }

    pub(super) fn restore(&mut self, beliefs: Beliefs) {
        let entry = |(source, provider, verdict)| ((source, provider), verdict);
        self.listed = Listed::restored(&beliefs.verdicts);
        self.faults = Faults::restored(&beliefs.verdicts);
        self.verdicts = beliefs.verdicts.into_iter().map(entry).collect();
        self.rails = beliefs.rails;
        self.fed = Fed::restored(beliefs.feeds);
    }
}

fn name_of(config: &Config, source: IpAddr) -> String {
    let mut sources = config.pools.values().flat_map(|pool| &pool.sources);
    sources.find(|one| one.local == source).map_or_else(|| source.to_string(), |one| one.name.clone())
}

fn changed(config: &Config, pair: &Pair, from: String, to: State, evidence: Option<Evidence>) -> EventKind {
    EventKind::Verdict {
        source: name_of(config, pair.0),
        address: pair.0,
        provider: pair.1.clone(),
        from,
        to,
        evidence: evidence.map(Box::new),
    }
}
