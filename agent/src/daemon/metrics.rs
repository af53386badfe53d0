//! Everything that Prometheus is told, gathered at scrape.
//!
//! Owns: which sample each count becomes. Must not: count; the kernel and the tallies do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mailsteer_core::config::Tier;
use mailsteer_core::model::{Family, LaneId, SourceId};
use mailsteer_ebpf::Counters;

use super::counts::Counts;
use super::shared::{Published, Shared};
use super::status;
use crate::api::view::{SourceState, StreamMode};
use crate::telemetry::metrics::{Metric, MetricsSource, Sample, Snapshot};

/// The daemon as a source of metrics.
pub(super) struct Source {
    shared: Arc<Shared>,
}

impl Source {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl MetricsSource for Source {
    fn snapshot(&self) -> Snapshot {
        let Some(published) = self.shared.published() else { return Vec::new() };
        let counts = self.shared.counts();
        let mut samples = Samples(Vec::new());
        samples.health(&self.shared, &published, &counts);
        samples.streams(&published);
        samples.pools(&published);
        samples.sources(&published);
        samples.connections(&published, &counts);
        samples.0
    }
}

struct Samples(Snapshot);

impl Samples {
    fn add(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        self.0.push(Sample { metric, labels, value });
    }

    fn count(&mut self, metric: Metric, labels: &[&str], value: u64) {
        self.add(metric, labels, number(value));
    }

    fn flag(&mut self, metric: Metric, value: bool) {
        self.add(metric, &[], f64::from(u8::from(value)));
    }

    fn health(&mut self, shared: &Shared, published: &Published, counts: &Counts) {
        let tallies = shared.tallies();
        let locks = &published.locks;
        self.flag(Metric::GuardArmed, locks.guard && locks.guard_armed);
        self.flag(Metric::ConfigOk, published.config_error.is_none());
        if let Some(settled) = published.settled {
            self.add(Metric::ReconcileAge, &[], settled.elapsed().as_secs_f64());
        }
        self.count(Metric::TableRepairs, &[], tallies.repairs);
        self.count(Metric::GuardRepairs, &[], tallies.guard_repairs);
        self.count(Metric::Unfollowed, &[], counts.untracked);
        if let Some(used) = counts.conntrack_used {
            self.add(Metric::ConntrackUsed, &[], used);
        }
        self.add(Metric::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        for (reason, packets) in &counts.held {
            self.count(Metric::Held, &[reason], *packets);
        }
        for ((stream, cause), flips) in &tallies.flips {
            self.count(Metric::Flips, &[stream, cause], *flips);
        }
    }

    fn streams(&mut self, published: &Published) {
        for lane in &published.decision.desired.lanes {
            let (now, _) = status::mode(lane.steering);
            for mode in StreamMode::ALL {
                self.add(Metric::Streams, &[&lane.stream, mode.as_str()], f64::from(u8::from(mode == now)));
            }
        }
    }

    fn pools(&mut self, published: &Published) {
        for row in status::pools(&published.world) {
            let tier = match row.tier {
                Tier::Primary => "primary",
                Tier::Spare => "spare",
            };
            let family = match row.family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            self.add(Metric::PoolEligible, &[&row.pool, tier, family], f64::from(row.eligible));
        }
    }

    fn sources(&mut self, published: &Published) {
        let world = &published.world;
        let mut seen = BTreeSet::new();
        for pool in world.config().pools.values() {
            for source in &pool.sources {
                let (public, local) = (source.public.to_string(), source.local.to_string());
                self.add(Metric::SourceInfo, &[&source.name, &public, &local, &pool.name], 1.0);
                if !seen.insert(source.name.as_str()) {
                    continue;
                }
                let now = status::state(world, source);
                for state in SourceState::ALL {
                    let is = f64::from(u8::from(state == now));
                    self.add(Metric::SourceState, &[&source.name, state.as_str()], is);
                }
            }
        }
    }

    fn connections(&mut self, published: &Published, counts: &Counts) {
        let names = Names::of(published);
        let mut providers: BTreeMap<(String, &str), u64> = BTreeMap::new();
        let mut wrong: BTreeMap<String, u64> = BTreeMap::new();
        for ((lane, source), counters) in &counts.connections {
            let (stream, provider) = names.lane(*lane);
            let source = names.source(*source);
            for (outcome, value) in outcomes(counters) {
                self.count(Metric::Connections, &[&stream, &source, outcome], value);
                *providers.entry((provider.clone(), outcome)).or_default() += value;
            }
            *wrong.entry(stream).or_default() += counters.wrong;
        }
        for ((provider, outcome), value) in providers {
            self.count(Metric::ProviderConnections, &[&provider, outcome], value);
        }
        for (outcome, lanes) in [("local", &counts.local), ("policy", &counts.policy)] {
            for (lane, value) in lanes {
                self.count(Metric::Connections, &[&names.lane(*lane).0, "", outcome], *value);
            }
        }
        for (stream, packets) in wrong {
            self.count(Metric::WrongSource, &[&stream], packets);
        }
        for ((lane, reason), refused) in &counts.refused {
            self.count(Metric::Refused, &[&names.lane(*lane).0, reason], *refused);
        }
    }
}

/// What became of connections, by the words of the metric.
const fn outcomes(counters: &Counters) -> [(&'static str, u64); 6] {
    [
        ("attempted", counters.attempts),
        ("established", counters.established),
        ("refused", counters.refused),
        ("unreachable", counters.unreachable),
        ("reset", counters.reset),
        ("unanswered", counters.unanswered),
    ]
}

/// Words for the numbers in the counters. The empty word: no stream, or no source.
struct Names {
    lanes: BTreeMap<LaneId, (String, String)>,
    sources: BTreeMap<SourceId, String>,
}

impl Names {
    fn of(published: &Published) -> Self {
        let world = &published.world;
        let lanes = world.ids().lanes().map(|(id, names)| (id, names.clone())).collect();
        let name = |address: IpAddr| {
            let source = world.pool_sources().find(|source| source.local == address);
            source.map_or_else(|| address.to_string(), |source| source.name.clone())
        };
        let sources = world.ids().sources().map(|(id, address, _)| (id, name(address))).collect();
        Self { lanes, sources }
    }

    fn lane(&self, id: LaneId) -> (String, String) {
        self.lanes.get(&id).cloned().unwrap_or_else(|| (String::new(), "other".to_owned()))
    }

    fn source(&self, id: SourceId) -> String {
        self.sources.get(&id).cloned().unwrap_or_default()
    }
}

/// Counters stay far below 2^53, where an f64 is exact.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floating point")]
const fn number(value: u64) -> f64 {
    value as f64
}
