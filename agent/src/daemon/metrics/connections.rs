//! Connections: what became of them and how long they were waited for, by stream, source and provider.
//!
//! Owns: which sample each of these becomes, and whose series end. Must not: count, as its parent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mailsteer_core::config::OTHER;

use super::{Samples, number};
use crate::daemon::counts::{Counts, Pair};
use crate::daemon::shared::{Published, Shared};
use crate::state::Outcome;
use crate::telemetry::metrics::Metric;

impl Samples {
    /// Of sources that neither the config nor a live connection names any more, and of streams likewise, series end; what
    /// was counted of them stays in the sums by provider, which must not fall. What nobody sees has no series: 0 would say
    /// that there was none.
    pub(super) fn connections(&mut self, published: &Published, counts: &Counts) {
        let names = Names::of(published);
        let mut sums = Sums::default();
        for (pair, outcomes) in counts.pairs() {
            sums.add(&names, pair, &outcomes);
        }
        for outcome in [Outcome::Local, Outcome::Policy].into_iter().filter(|outcome| counts.sees(*outcome)) {
            for (stream, value) in counts.untold(outcome) {
                if names.streams.contains(stream) {
                    *sums.streams.entry((stream, outcome)).or_default() += value;
                    self.count(Metric::Connections, &[stream, "", outcome.as_str()], value);
                }
            }
        }
        let attempted = |one: &(&str, Outcome)| one.1 == Outcome::Attempted;
        let all: u64 = sums.providers.iter().filter(|(one, _)| attempted(one)).map(|(_, value)| value).sum();
        if all > 0 {
            let other = sums.providers.get(&(OTHER, Outcome::Attempted)).copied().unwrap_or_default();
            self.add(Metric::OtherShare, &[], number(other) / number(all));
        }
        for (metric, by) in
            [(Metric::StreamConnections, &sums.streams), (Metric::ProviderConnections, &sums.providers)]
        {
            for ((name, outcome), value) in by.iter().filter(|((_, outcome), _)| counts.sees(*outcome)) {
                self.count(metric, &[name, outcome.as_str()], *value);
            }
        }
        for ((stream, source), values) in &sums.sources {
            for (outcome, value) in
                OUTCOMES.into_iter().zip(values).filter(|(outcome, _)| counts.sees(*outcome))
            {
                self.count(Metric::Connections, &[stream, source, outcome.as_str()], *value);
            }
        }
        for (stream, packets) in sums.wrong.into_iter().filter(|_| counts.sees(Outcome::Wrong)) {
            self.count(Metric::WrongSource, &[stream], packets);
        }
        self.refused(&names, counts);
    }

    pub(super) fn handshakes(&mut self, shared: &Shared, published: &Published) {
        let times = shared.handshakes.so_far();
        let providers: BTreeSet<&str> =
            published.world.config().all_providers().map(|(provider, _)| provider).collect();
        for (provider, times) in times.providers {
            if provider == OTHER || providers.contains(provider.as_str()) {
                self.0.add_times(Metric::ProviderHandshake, &[&provider], times);
            }
        }
        let sources: BTreeSet<&str> =
            published.world.pool_sources().map(|source| source.name.as_str()).collect();
        for (source, times) in times.sources {
            if sources.contains(source.as_str()) {
                self.0.add_times(Metric::SourceHandshake, &[&source], times);
            }
        }
    }

    /// Those of which there were none, too: a series that begins above 0 hides its first count from `rate()`.
    fn refused(&mut self, names: &Names, counts: &Counts) {
        let mut refused = counts.refused();
        for stream in names.streams.iter().filter(|stream| !stream.is_empty()) {
            for reason in Outcome::ALL.iter().filter_map(|outcome| outcome.refused_for()) {
                refused.entry((stream, reason)).or_default();
            }
        }
        for ((stream, reason), refused) in refused {
            if names.streams.contains(stream) {
                self.count(Metric::Refused, &[stream, reason], refused);
            }
        }
    }
}

/// What became of connections of which a SYN left.
pub(super) const OUTCOMES: [Outcome; 6] = [
    Outcome::Attempted,
    Outcome::Established,
    Outcome::Refused,
    Outcome::Unreachable,
    Outcome::Reset,
    Outcome::Unanswered,
];

/// The counters of streams, sources and providers, each summed over the others.
#[derive(Default)]
struct Sums<'a> {
    sources: BTreeMap<(&'a str, &'a str), [u64; 6]>,
    streams: BTreeMap<(&'a str, Outcome), u64>,
    providers: BTreeMap<(&'a str, Outcome), u64>,
    wrong: BTreeMap<&'a str, u64>,
}

impl<'a> Sums<'a> {
    fn add(&mut self, names: &'a Names, pair: Pair<'a>, outcomes: &BTreeMap<Outcome, u64>) {
        let value = |outcome: Outcome| outcomes.get(&outcome).copied().unwrap_or_default();
        let values = OUTCOMES.map(value);
        for (outcome, value) in OUTCOMES.into_iter().zip(values) {
            *self.providers.entry((pair.provider, outcome)).or_default() += value;
        }
        if !names.streams.contains(pair.stream) {
            return;
        }
        for (outcome, value) in OUTCOMES.into_iter().zip(values) {
            *self.streams.entry((pair.stream, outcome)).or_default() += value;
        }
        *self.wrong.entry(pair.stream).or_default() += value(Outcome::Wrong);
        if let Some(source) = names.source(pair.source) {
            let sums = self.sources.entry((pair.stream, source)).or_default();
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
    }
}

/// Words that the config, or a number that a live connection may bear, still stands for.
struct Names {
    streams: BTreeSet<String>,
    sources: BTreeMap<IpAddr, String>,
}

impl Names {
    fn of(published: &Published) -> Self {
        let world = &published.world;
        // The empty one: matched by no stream.
        let streams = world.ids().lanes().map(|(_, (stream, _))| stream.clone()).chain([String::new()]);
        let mut sources: BTreeMap<IpAddr, String> =
            world.ids().sources().map(|(_, address, _)| (address, address.to_string())).collect();
        sources.extend(world.pool_sources().map(|source| (source.public, source.name.clone())));
        Self { streams: streams.collect(), sources }
    }

    /// The empty word: not steered.
    fn source(&self, public: Option<IpAddr>) -> Option<&str> {
        public.map_or(Some(""), |public| self.sources.get(&public).map(String::as_str))
    }
}
