//! What was seen lately: of each source at each provider, and of each receiver.
//!
//! Owns: the memory, which is bounded whatever comes, and turning it into evidence. Must not: judge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::evidence::{self, Evidence, Failure, Others, Outcome, Siblings};
use super::probes::Failed;
use crate::decide::world::moved;
use crate::model::{Sign, Signal};

/// How far back a source's outcomes count.
const WINDOW: SignedDuration = SignedDuration::from_secs(60);
/// Outcomes that are kept of a source at a provider: more than isolate it, in the order in which they came.
const OUTCOMES: usize = 64;
/// "About when": a failure is seen up to 1.5 s after it began, and of a source with little traffic siblings' connections are
/// seconds apart.
const ABOUT: SignedDuration = SignedDuration::from_secs(5);
/// A connection that stood so many times as long as one to which something bad was said has been greeted well: receivers of
/// one provider take about equally long.
const GREETED: i32 = 2;
/// Results that are kept of a provider, whichever source's.
const RESULTS: usize = 512;
/// For how long an answer says that a receiver lives.
const LIVES: SignedDuration = SignedDuration::from_mins(10);
/// Receivers that are known at a time; the one that was heard of longest ago is forgotten for a new one.
const RECEIVERS: usize = 8_192;
/// Sources of which a receiver's last result is kept.
const BY_SOURCE: usize = 16;

/// A source at a provider.
pub(super) type Pair = (IpAddr, String);

/// One result of one source.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Result {
    at: Timestamp,
    source: IpAddr,
    /// When its connection began at the latest.
    began: Timestamp,
    well: bool,
    /// The receiver.
    receiver: IpAddr,
}

/// Receivers that a probe may try.
const TARGETS: usize = 3;

/// The first few, each once.
fn first_of(receivers: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for receiver in receivers {
        if !found.contains(&receiver) {
            found.push(receiver);
        }
        if found.len() == TARGETS {
            break;
        }
    }
    found
}

/// What a source met.
#[derive(Clone, PartialEq, Debug)]
struct Met {
    at: Timestamp,
    receiver: IpAddr,
    failure: Option<Failure>,
    /// How long its connection had stood when it failed.
    after: SignedDuration,
}

/// What is remembered.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Recent {
    pairs: BTreeMap<Pair, VecDeque<Met>>,
    providers: BTreeMap<String, VecDeque<Result>>,
    receivers: BTreeMap<IpAddr, VecDeque<Result>>,
    /// Who was heard of when, to forget the oldest.
    heard: BTreeMap<Timestamp, Vec<IpAddr>>,
}

/// What a signal says of its source, if anything.
fn result(sign: &Sign) -> Option<Option<Failure>> {
    match sign {
        Sign::Established | Sign::ProbeGreeted => Some(None),
        Sign::Refused => Some(Some(Failure::Refused)),
        Sign::Reset => Some(Some(Failure::Reset)),
        Sign::Unreachable => Some(Some(Failure::Unreachable)),
        Sign::Silent => Some(Some(Failure::Silent)),
        Sign::Said { code, text, greeting: true } => {
            Some(Some(Failure::Greeted { code: *code, text: text.clone() }))
        }
        // What follows a greeting may be about content, domain or recipient; of a probe its own account says more.
        Sign::Said { greeting: false, .. } | Sign::ProbeFailed { .. } => None,
    }
}

impl Recent {
    /// Takes a signal in; true where it was a failure.
    pub(super) fn take(&mut self, signal: &Signal) -> bool {
        let Some(failure) = result(&signal.sign) else { return false };
        let failed = failure.is_some();
        // The handshake was good and what came then was not: the connection has one outcome.
        let replaces = matches!(signal.sign, Sign::Said { .. } | Sign::Reset);
        let outcomes = self.pairs.entry((signal.source, signal.provider.clone())).or_default();
        let is_it = |one: &Met| one.receiver == signal.destination && one.failure.is_none();
        let stood = replaces.then(|| take_back(outcomes, is_it)).flatten().map(|one| one.at);
        let after = stood.map_or(SignedDuration::ZERO, |stood| signal.at.duration_since(stood));
        let met = Met { at: signal.at, receiver: signal.destination, failure: failure.clone(), after };
        push(outcomes, met, OUTCOMES);
        let began = failure.map_or(signal.at, |failure| failure.began(signal.at));
        let result = Result {
            at: signal.at,
            source: signal.source,
            began,
            well: !failed,
            receiver: signal.destination,
        };
        let results = self.providers.entry(signal.provider.clone()).or_default();
        if replaces {
            take_back(results, |one| {
                one.source == signal.source && one.receiver == signal.destination && one.well
            });
        }
        push(results, result, RESULTS);
        self.hear(signal.destination, result, replaces);
        failed
    }

    fn hear(&mut self, receiver: IpAddr, result: Result, replaces: bool) {
        let known = self.receivers.entry(receiver).or_default();
        if let Some(last) = known.back().map(|last| last.at)
            && let Some(then) = self.heard.get_mut(&last)
        {
            then.retain(|one| *one != receiver);
            if then.is_empty() {
                self.heard.remove(&last);
            }
        }
        let same =
            known.iter().position(|one| one.source == result.source && (one.well == result.well || replaces));
        same.and_then(|place| known.remove(place));
        push(known, result, BY_SOURCE);
        self.heard.entry(result.at).or_default().push(receiver);
        while self.receivers.len() > RECEIVERS {
            let Some(mut oldest) = self.heard.first_entry() else { return };
            let forgotten = oldest.get_mut().pop();
            if oldest.get().is_empty() {
                oldest.remove();
            }
            forgotten.and_then(|one| self.receivers.remove(&one));
        }
    }

    /// The evidence against a source at a provider.
    pub(super) fn evidence(&self, (source, provider): &Pair, failures: u32, now: Timestamp) -> Evidence {
        let since = now.checked_sub(WINDOW).unwrap_or(now);
        let seen = self.pairs.get(&(*source, provider.clone())).into_iter().flatten();
        let seen: Vec<&Met> = seen.filter(|one| one.at >= since).collect();
        let stood_by = now.checked_sub(pause(&seen) * GREETED).unwrap_or(now);
        // What counts is what came of a connection, its own or another's, and not that it stands and nothing was said yet.
        let is_clear = |one: &&&Met| one.failure.is_some() || one.at <= stood_by;
        let outcome = |one: &&Met| Outcome {
            at: one.at,
            destination: one.receiver,
            failure: one.failure.clone(),
            receiver_well: one
                .failure
                .as_ref()
                .is_none_or(|failure| self.is_well(one.receiver, *source, failure, (one.at, stood_by))),
            others: match one.failure {
                Some(_) => self.others(*source, provider, (one.at, stood_by)),
                None => Others::default(),
            },
        };
        let outcomes: Vec<Outcome> = seen.iter().filter(is_clear).map(outcome).collect();
        let began = evidence::add_up(&outcomes).since.unwrap_or(now);
        let siblings = self.siblings(*source, provider, began, (since, stood_by));
        Evidence { source: *source, provider: provider.clone(), outcomes, siblings, failures }
    }

    /// The evidence against a source by probes that failed one after the other, against whatever others met wherever.
    pub(super) fn evidence_of(
        &self,
        (source, provider): &Pair,
        failed: &[Failed],
        failures: u32,
        now: Timestamp,
    ) -> Evidence {
        let outcome = |(at, destination, failure): &Failed| Outcome {
            at: *at,
            destination: *destination,
            failure: Some(failure.clone()),
            receiver_well: self.is_well(*destination, *source, failure, (*at, now)),
            others: self.providers.keys().fold(Others::default(), |sum, provider| {
                sum.plus(self.others(*source, provider, (*at, now)))
            }),
        };
        let outcomes: Vec<Outcome> = failed.iter().map(outcome).collect();
        let began = evidence::add_up(&outcomes).since.unwrap_or(now);
        let mut siblings = Siblings::default();
        for provider in self.providers.keys() {
            let met = self.siblings(*source, provider, began, (began, now));
            siblings.any |= met.any;
            siblings.well += met.well;
            siblings.failed += met.failed;
        }
        Evidence { source: *source, provider: provider.clone(), outcomes, siblings, failures }
    }

    /// When a source's traffic was last heard of.
    pub(super) fn heard_of(&self, source: IpAddr) -> Option<Timestamp> {
        let own = self.pairs.range((source, String::new())..).take_while(|((of, _), _)| *of == source);
        own.filter_map(|(_, outcomes)| outcomes.back().map(|one| one.at)).max()
    }

    /// Whether a receiver is well, so that a failure there is the source's: it answered lately, and no sibling failed there
    /// without another doing well since. What a receiver says in its own words needs no proof that it lives.
    /// `stood_by`: connections that stood later count for nothing yet, here and below.
    fn is_well(
        &self,
        receiver: IpAddr,
        source: IpAddr,
        failure: &Failure,
        (at, stood_by): (Timestamp, Timestamp),
    ) -> bool {
        let Some(known) = self.receivers.get(&receiver) else { return failure.is_explicit() };
        let lives_since = at.checked_sub(LIVES).unwrap_or(at);
        let lives = known.iter().any(|one| one.well && one.at >= lives_since);
        let began = failure.began(at);
        let others = || known.iter().filter(|one| one.source != source && one.at >= began);
        let blamed = others().any(|one| !one.well)
            && !others().any(|one| one.well && one.began >= began && one.at <= stood_by);
        (lives || failure.is_explicit()) && !blamed
    }

    /// What other sources met at a provider about then.
    fn others(&self, source: IpAddr, provider: &str, (at, stood_by): (Timestamp, Timestamp)) -> Others {
        let results = self.providers.get(provider).into_iter().flatten().rev();
        let recent = results.take_while(|one| at.duration_since(one.at) <= ABOUT);
        let mut by_source: BTreeMap<IpAddr, Others> = BTreeMap::new();
        let recent = recent.filter(|one| one.source != source && one.at.duration_since(at) <= ABOUT);
        for one in recent.filter(|one| !one.well || one.at <= stood_by) {
            by_source.entry(one.source).or_default().count(one.well);
        }
        Others::those_that_do_well(by_source)
    }

    /// What those siblings met since then that mostly did well, or all where none did.
    fn siblings(
        &self,
        source: IpAddr,
        provider: &str,
        began: Timestamp,
        (since, stood_by): (Timestamp, Timestamp),
    ) -> Siblings {
        let others = self.providers.get(provider).into_iter().flatten();
        let (mut any, mut by_source) = (false, BTreeMap::<IpAddr, Others>::new());
        for one in others.filter(|one| one.source != source) {
            any |= one.at >= since;
            if one.began >= began && (!one.well || one.at <= stood_by) {
                by_source.entry(one.source).or_default().count(one.well);
            }
        }
        let Others { well, failed } = Others::those_that_do_well(by_source);
        Siblings { any, well, failed }
    }

    /// How many sources of these failed since a time, wherever they sent.
    pub(super) fn failing(&self, sources: &BTreeSet<IpAddr>, began: Timestamp) -> usize {
        let failed = self.providers.values().flatten().filter(|one| !one.well && one.began >= began);
        failed.map(|one| one.source).filter(|one| sources.contains(one)).collect::<BTreeSet<_>>().len()
    }

    /// What sources met since a time, wherever they sent.
    pub(super) fn met(&self, sources: &BTreeSet<IpAddr>, began: Timestamp) -> Siblings {
        let mut met = Siblings::default();
        let results = self.providers.values().flatten();
        for one in results.filter(|one| sources.contains(&one.source) && one.began >= began) {
            met.any = true;
            *(if one.well { &mut met.well } else { &mut met.failed }) += 1;
        }
        met
    }

    /// Receivers at a provider that answered anybody, the last first.
    pub(super) fn receivers_of(&self, provider: &str) -> Vec<IpAddr> {
        let of_provider = self.providers.get(provider).into_iter().flatten().rev();
        first_of(of_provider.filter(|one| one.well).map(|one| one.receiver))
    }

    /// Whether any receiver was ever heard of.
    pub(super) fn knows_receivers(&self) -> bool {
        !self.receivers.is_empty()
    }

    /// Receivers anywhere that answered anybody, the last first.
    pub(super) fn lately(&self) -> Vec<IpAddr> {
        let well = self.providers.values().flat_map(|results| results.iter().rev().filter(|one| one.well));
        let mut found: Vec<(Timestamp, IpAddr)> = well.map(|one| (one.at, one.receiver)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        first_of(found.into_iter().map(|(_, receiver)| receiver))
    }

    /// A source begins anew at a provider: what it met before is no evidence for what comes.
    pub(super) fn forget(&mut self, pair: &Pair) {
        self.pairs.remove(pair);
    }

    /// Forgets sources that are gone.
    pub(super) fn retain(&mut self, is_source: impl Fn(IpAddr) -> bool) {
        self.pairs.retain(|(source, _), _| is_source(*source));
    }

    /// All times are by a clock that was set.
    pub(super) fn follow_clock(&mut self, by: SignedDuration) {
        let shift = |at: &mut Timestamp| *at = moved(*at, by);
        self.pairs.values_mut().flatten().for_each(|one| shift(&mut one.at));
        for one in self.providers.values_mut().chain(self.receivers.values_mut()).flatten() {
            shift(&mut one.at);
            shift(&mut one.began);
        }
        let heard = std::mem::take(&mut self.heard);
        self.heard = heard.into_iter().map(|(at, who)| (moved(at, by), who)).collect();
    }
}

/// How long connections stood, on average, before they failed. Of several to one receiver nobody can tell which one failed:
/// that makes one too long and another too short, and leaves the mean.
fn pause(seen: &[&Met]) -> SignedDuration {
    let stood = || seen.iter().map(|one| one.after).filter(SignedDuration::is_positive);
    match i32::try_from(stood().count()) {
        Ok(count @ 1..) => stood().sum::<SignedDuration>() / count,
        _ => SignedDuration::ZERO,
    }
}

fn push<T>(list: &mut VecDeque<T>, one: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(one);
}

/// Removes the last that fits.
fn take_back<T>(list: &mut VecDeque<T>, fits: impl Fn(&T) -> bool) -> Option<T> {
    let place = list.iter().rposition(fits)?;
    list.remove(place)
}
